"""The batch-size finders of other packages, as they are installed: Lightning's, by both of its searches, and Accelerate's.

A finder gets one function, ``train_step(batch_size)``, which makes a training step and raises `out_of_memory` where a device would, and
returns the size it settles on. Lightning runs its own trainer around that step: its loader yields numbers of examples, its optimizer
holds one number, and the step is the given one. `make bench` installs the packages; a finder whose package is missing is left out.
"""

import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

TrainStep = Callable[[int], object]
Finder = Callable[[TrainStep, int], int]


def out_of_memory() -> torch.OutOfMemoryError:
    """What CUDA raises, in the words by which both packages know it."""
    return torch.OutOfMemoryError("CUDA out of memory. Simulated.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """What a finder found and what it took.

    Attributes:
        batch_size: What it settled on.
        num_steps: Steps it asked for, those that failed included.
        num_examples: Examples in the steps that did not fail.
        num_failed: Steps that ran out of memory.
        cpu_s: Process CPU time of the whole search.
        cpu_in_steps_s: That of its steps; the rest is the finder's own, garbage collections before each trial above all.
    """

    batch_size: int
    num_steps: int
    num_examples: int
    num_failed: int
    cpu_s: float
    cpu_in_steps_s: float


def search(find: Finder, train_step: TrainStep, num_examples: int) -> Search:
    """Run a finder on ``train_step``, with ``num_examples`` examples to train on."""
    num_steps = num_done = num_failed = 0
    in_steps = 0.0

    def counted(batch_size: int) -> None:
        nonlocal num_steps, num_done, num_failed, in_steps
        num_steps += 1
        start = time.process_time()
        try:
            train_step(batch_size)
            num_done += batch_size
        except RuntimeError:
            num_failed += 1
            raise
        finally:
            in_steps += time.process_time() - start

    start = time.process_time()
    batch_size = find(counted, num_examples)
    return Search(
        batch_size=batch_size,
        num_steps=num_steps,
        num_examples=num_done,
        num_failed=num_failed,
        cpu_s=time.process_time() - start,
        cpu_in_steps_s=in_steps,
    )


def lightning_finder(mode: str) -> Finder:
    """Lightning's `BatchSizeFinder` with its defaults, by the front door: ``Tuner(trainer).scale_batch_size``."""
    from lightning.pytorch import Trainer  # here, so that the time of the search is without that of the import
    from lightning.pytorch.tuner import Tuner

    def find(train_step: TrainStep, num_examples: int) -> int:
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on its loader and its logging, which have no part in this
            trainer = Trainer(
                default_root_dir=folder,
                accelerator="cpu",
                devices=1,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            found = Tuner(trainer).scale_batch_size(_module(train_step, num_examples), mode=mode)
        assert found is not None
        return found

    return find


def _module(train_step: TrainStep, num_examples: int) -> Any:
    """A LightningModule whose training step is ``train_step``; made here, because the package may be missing."""
    from lightning.pytorch import LightningModule

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.batch_size = 2
            self.number = nn.Parameter(torch.zeros(()))

        def train_dataloader(self) -> DataLoader:
            return DataLoader(range(num_examples), batch_size=self.batch_size)

        def training_step(self, batch: torch.Tensor) -> None:
            train_step(len(batch))
            self.optimizers().step()  # this is what the trainer counts steps by

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.0)

    return Module()


def accelerate_finder() -> Finder:
    """Accelerate's decorator, from all examples at once; a single step is enough for it."""
    from accelerate.utils import find_executable_batch_size

    def find(train_step: TrainStep, num_examples: int) -> int:
        @find_executable_batch_size(starting_batch_size=num_examples)
        def train(batch_size: int) -> int:
            train_step(batch_size)
            return batch_size

        return train()

    return find


def finders() -> dict[str, Finder]:
    """Finders by the name of what runs, for those packages that are installed."""
    found: dict[str, Finder] = {}
    if find_spec("lightning"):
        found["lightning BatchSizeFinder, power"] = lightning_finder("power")
        found["lightning BatchSizeFinder, binsearch"] = lightning_finder("binsearch")
    if find_spec("accelerate"):
        found["accelerate find_executable_batch_size"] = accelerate_finder()
    return found
