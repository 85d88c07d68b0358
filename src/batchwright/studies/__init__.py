"""Studies: each runs a paper's experiments and says which of its numbers hold, with seeds, intervals and cost."""

from batchwright.studies.runner import run_study
from batchwright.studies.study import Cell, Place, Study, Summary

__all__ = ["Cell", "Place", "Study", "Summary", "run_study"]
