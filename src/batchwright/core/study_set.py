"""What several studies, run one after another, leave beside their folders: which there were, and why one has no record.

`batchwright study --all` writes it and the report reads it; a study that failed is thus told on the page and not left out.
"""

from dataclasses import dataclass

SET_NAME = "studies.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyEntry:
    """One study of the set.

    Attributes:
        study: Its name on the command line.
        title: The paper.
        folder: Of its records, relative to the set's.
        error: Why it has no record of this run; empty where it has one.
    """

    study: str
    title: str
    folder: str
    error: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudySet:
    """Studies that were run together, in their order.

    Attributes:
        preset: Of all.
        seed: Of all.
        entries: One a study that was begun.
    """

    preset: str
    seed: int
    entries: tuple[StudyEntry, ...]
