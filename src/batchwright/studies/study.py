"""What a study is: cells that can run apart from one another, and a summary of what they found.

A study is a module with a `Study` in it, a test, a line in `registry.py` and a page in the docs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from batchwright.core.errors import InputError
from batchwright.core.study_record import Row, StudyFigure, StudyPicture

PRESETS = ("smoke", "laptop", "paper")


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a cell runs: what it may use besides its own arguments.

    Attributes:
        folder: For state that later cells go on from; each cell writes files named for itself alone.
        device: To compute on.
        data_root: Folder of real data sets, if any.
    """

    folder: Path
    device: torch.device
    data_root: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One piece of a study, computed in one process and recorded as one line.

    It is a pure function of its arguments and of the state that the cells in ``after`` left, so it gives the same numbers in any
    process, in any order and after any kill.

    Attributes:
        name: Unique in the study; words and slashes.
        run: A function of a module, ``run(place, **arguments)``; gives plain values for the record. Two of them are for the
            cost and are optional: ``num_gradients``, and ``seconds`` is added by the runner.
        arguments: Plain values.
        after: Names of the cells whose files it reads.
        weight: Relative duration; the longest begin first.
    """

    name: str
    run: Callable[..., Mapping[str, Any]]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """What a study makes of the results of its cells."""

    rows: tuple[Row, ...]
    figures: tuple[StudyFigure, ...] = ()
    notes: tuple[str, ...] = ()
    pictures: tuple[StudyPicture, ...] = ()


def there(*figures: StudyFigure | None) -> tuple[StudyFigure, ...]:
    """The figures that could be drawn of what has been finished."""
    return tuple(figure for figure in figures if figure is not None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """A paper to be reproduced.

    Attributes:
        name: On the command line.
        title: Of the paper.
        source: Authors and place.
        cells: ``cells(preset, seed)``: what there is to do, in the order of the summary.
        summarise: ``summarise(preset, results)``, with the results of the finished cells by name; some may be missing.
        needs_data: Presets that need a data root.
        more_presets: Presets that it has beside `PRESETS`.
        options: What the command line may tell it beside these, with what holds where it is left out.
        headline: Part of the ``what`` of the row on the paper's main claim, by which pages that show many papers tell this one.
        configure: ``configure(options, data_root)``: the study for these options, each of them given; needed where there are any.
    """

    name: str
    title: str
    source: str
    cells: Callable[[str, int], Sequence[Cell]]
    summarise: Callable[[str, Mapping[str, Mapping[str, Any]]], Summary]
    needs_data: tuple[str, ...] = ()
    more_presets: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict, hash=False)
    headline: str = ""
    configure: "Callable[[Mapping[str, str], Path | None], Study] | None" = None

    def configured(self, options: Mapping[str, str], data_root: Path | None) -> "Study":
        """The study with these options, and its own where they say nothing.

        Raises:
            InputError: If it has no such option.
        """
        for name, value in options.items():
            if name not in self.options:
                known = ", ".join(f"--{each}" for each in self.options)
                raise InputError(
                    f"--{name} must be an option of the study, got {value!r} for {self.name}, which has "
                    f"{known or 'none of its own'}; leave it out"
                )
        return self.configure({**self.options, **options}, data_root) if self.configure is not None else self
