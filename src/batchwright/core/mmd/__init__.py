"""Squared maximum mean discrepancy: estimates, their scatter, and tests."""

from batchwright.core.mmd.permutation import TwoSampleTest, two_sample_test
from batchwright.core.mmd.relative import RelativeTest, relative_test
from batchwright.core.mmd.sampled_pairs import MmdOfParts, mmd2_blocks, mmd2_linear
from batchwright.core.mmd.value import mmd2
from batchwright.core.mmd.variance import MmdEstimate, ScatterParts, mmd2_estimate

__all__ = [
    "MmdEstimate",
    "MmdOfParts",
    "RelativeTest",
    "ScatterParts",
    "TwoSampleTest",
    "mmd2",
    "mmd2_blocks",
    "mmd2_estimate",
    "mmd2_linear",
    "relative_test",
    "two_sample_test",
]
