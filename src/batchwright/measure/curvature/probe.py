"""The measurements of one reading of the stability gauge, each with its cost on the account."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from batchwright.core.batches import Batch
from batchwright.core.objectives import Loss
from batchwright.core.preserve import RandomState
from batchwright.core.serialization import from_plain, to_plain
from batchwright.core.statistics import student_quantile
from batchwright.measure.curvature.account import MeasuringAccount
from batchwright.measure.curvature.batch_sharpness import BatchSharpness, batch_sharpness
from batchwright.measure.curvature.generalized_sharpness import GeneralizedSharpness, generalized_sharpness
from batchwright.measure.curvature.gradient_sharpness import interaction_aware_sharpness
from batchwright.measure.curvature.reading import settings_of
from batchwright.measure.curvature.sharpness import sharpness
from batchwright.measure.curvature.what_if import StepSettings

# A batch of `batch_size` examples, drawn with the generator.
DrawBatch = Callable[[torch.Generator, int], Batch]
Found = TypeVar("Found")

MIN_BATCHES, RELATIVE_ERROR = 4, 0.1
# Products of one search for the largest eigenvalue: the next search goes on from where this one stopped.
MAX_HVPS, TOLERANCE = 8, 0.02
# Training steps that one measured batch costs, until the first measurement says better; and a product over a measured batch.
GUESS_STEPS, PRODUCT = 5.0, 0.7
# Part of the budget that batch sharpness alone may use while the rest is saved for the dearer measurements.
QUICK_PART = 0.5
ALONG, MEAN, TOP = "batch sharpness", "mean curvature", "sharpness"


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What one reading found.

    Attributes:
        settings: Of the SGD that it was compared with; None where the form along the optimizer's own step was measured.
        along: Batch sharpness, or the generalised sharpness.
        mean_curvature: Interaction-aware sharpness, if it was measured.
        sharpness: Largest eigenvalue, if it was measured.
        sharpness_converged: Whether that was found to its tolerance.
    """

    settings: StepSettings | None
    along: BatchSharpness | GeneralizedSharpness
    mean_curvature: float | None = None
    sharpness: float | None = None
    sharpness_converged: bool | None = None


class Probe:
    """Measures at the model's present parameters and remembers what later readings build on.

    Attributes:
        account: Seconds of training and of measuring.
        last: The latest batch sharpness of SGD.
        mean_part: Batch size, and the latest interaction-aware sharpness over the batch sharpness of the same reading: both move on
            together in training, their ratio less.
        sharpness: The latest largest eigenvalue.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        *,
        draw_batch: DrawBatch,
        budget: float | None,
        max_batches: int,
        sharpness_batches: int,
        seed: int,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._model, self._loss, self._optimizer, self._draw_batch = model, loss, optimizer, draw_batch
        self._max_batches, self._sharpness_batches = max_batches, sharpness_batches
        self._seed, self._timer = seed, timer
        self._vector: Tensor | None = None
        # The first interval of a process imports SciPy, which takes longer than many a reading; better now than in one.
        student_quantile(0.95, 1)
        self.account = MeasuringAccount(budget=budget)
        self.last: BatchSharpness | None = None
        self.mean_part: tuple[int, float] | None = None
        self.sharpness: float | None = None

    def settings(self, batch_size: int) -> StepSettings | None:
        """Of the optimizer, if it is SGD."""
        return settings_of(self._optimizer, batch_size)

    def expected_s(self, batch_size: int, *, slow: bool) -> float:
        """Seconds that a reading will take, as far as is known: a slow one at most, a quick one with the fewest batches.

        A quick reading that cannot afford more batches stops after these; better a wide error than none.
        """
        num_batches = self._max_batches if slow and ALONG in self.account.latest else MIN_BATCHES
        num_examples = num_batches * batch_size
        guess_s = GUESS_STEPS * num_batches * self.account.step_s
        along = self.account.expected_s(ALONG, num_examples, guess_s)
        if not slow or self.settings(batch_size) is None:
            return along
        mean = self.account.expected_s(MEAN, num_examples, along)
        size = self._sharpness_batches * batch_size
        top = self.account.expected_s(TOP, size, along * size / num_examples * (1 + PRODUCT * MAX_HVPS))
        return along + mean + top

    @property
    def quick_left_s(self) -> float:
        """Seconds that batch sharpness alone may still take of its part of the budget."""
        account = self.account
        if account.budget is None:
            return math.inf
        own = QUICK_PART * account.budget * account.training_s - account.totals.get(ALONG, 0.0)
        return min(own, account.left_s)

    def measure(self, step: int, batch_size: int, *, slow: bool) -> Measured:
        """One reading; its batches follow from the seed and the step.

        Args:
            step: Optimizer steps done.
            batch_size: Examples in a step.
            slow: Whether the noise's share and the largest eigenvalue are wanted too.
        """
        self._wait_for_device()
        settings = self.settings(batch_size)
        options: dict[str, Any] = {
            "relative_error": RELATIVE_ERROR,
            "min_batches": MIN_BATCHES,
            "max_batches": self._max_batches,
        }
        model, loss = self._model, self._loss
        if settings is None:
            along = self._timed(
                ALONG,
                (step, 0),
                batch_size,
                lambda batches: generalized_sharpness(model, loss, batches, self._optimizer, **options),
            )
            return Measured(settings=None, along=along)
        found = self._timed(
            ALONG, (step, 0), batch_size, lambda batches: batch_sharpness(model, loss, batches, **options)
        )
        self.last = found
        if self.mean_part is not None and self.mean_part[0] != batch_size:
            self.mean_part = None
        if not slow:
            return Measured(settings=settings, along=found)
        mean = self._timed(
            MEAN, (step, 1), batch_size, lambda batches: interaction_aware_sharpness(model, loss, batches, **options)
        ).value
        known = math.isfinite(mean) and found.value > 0
        self.mean_part = (batch_size, mean / found.value) if known else None
        top, converged = self._largest_eigenvalue(batch_size)
        return Measured(
            settings=settings, along=found, mean_curvature=mean, sharpness=top, sharpness_converged=converged
        )

    @property
    def mean_curvature(self) -> float | None:
        """Interaction-aware sharpness to go with the latest batch sharpness; None where their ratio was not measured at its size."""
        return None if self.last is None or self.mean_part is None else self.mean_part[1] * self.last.value

    def state_dict(self) -> dict[str, Any]:
        """Plain values, and the eigenvector as a tensor."""
        return {
            "account": to_plain(self.account),
            "last": to_plain(self.last),
            "mean_part": to_plain(self.mean_part),
            "sharpness": to_plain(self.sharpness),
            "vector": None if self._vector is None else self._vector.detach().clone(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`; the budget stays that of this probe."""
        account: MeasuringAccount = from_plain(MeasuringAccount, state["account"], "account")
        self.account = replace(account, budget=self.account.budget)
        self.last = from_plain(BatchSharpness | None, state["last"], "last")
        self.mean_part = from_plain(tuple[int, float] | None, state["mean_part"], "mean_part")
        self.sharpness = from_plain(float | None, state["sharpness"], "sharpness")
        self._vector = None if state["vector"] is None else state["vector"].detach().clone()

    def _largest_eigenvalue(self, batch_size: int) -> tuple[float, bool]:
        # The same sample every time, so that the search can go on and the values of a run differ by training alone.
        start = self._timer()
        batches = list(self._batches((0, 2), batch_size, self._sharpness_batches))
        vector = self._vector
        if vector is not None:
            vector = vector.to(next(self._model.parameters()).device)
        found = sharpness(
            self._model, self._loss, batches, tol=TOLERANCE, max_hvps=MAX_HVPS, start=vector, high_tol=math.inf
        )
        self._enter(TOP, start, found.num_examples)
        known = math.isfinite(found.value)
        self._vector = found.vector if known else None
        self.sharpness = found.value if known else None
        return found.value, found.converged

    def _timed(
        self, kind: str, place: tuple[int, int], batch_size: int, measure: Callable[[Iterator[Batch]], Found]
    ) -> Found:
        """Measure on fresh batches until the error is small enough or the time allowed is over."""
        start, num_drawn = self._timer(), 0
        left_s = self.account.left_s

        def batches() -> Iterator[Batch]:
            nonlocal num_drawn
            for batch in self._batches(place, batch_size, self._max_batches):
                num_drawn += 1
                yield batch
                # Before the next is drawn, which takes time too: whether one more at the mean cost of these still fits.
                if num_drawn >= MIN_BATCHES and (self._timer() - start) * (1 + 1 / num_drawn) > left_s:
                    return

        found = measure(batches())
        self._enter(kind, start, num_drawn * batch_size)
        return found

    def _batches(self, place: tuple[int, int], batch_size: int, num_batches: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(_mixed(self._seed, *place))
        for _ in range(num_batches):
            # A loop's own drawing may use the global generators too, for instance in a random crop.
            random_state = RandomState.capture()
            try:
                batch = self._draw_batch(generator, batch_size)
            finally:
                random_state.restore()
            yield batch

    def _enter(self, kind: str, start: float, num_examples: int) -> None:
        self.account = self.account.measured(kind, self._timer() - start, num_examples)

    def _wait_for_device(self) -> None:
        """Steps that still run on a GPU are training, not measuring."""
        device = next(self._model.parameters()).device
        if device.type == "cuda":
            start = self._timer()
            torch.cuda.synchronize(device)
            self.account = self.account.trained(self._timer() - start, 0)


def _mixed(seed: int, step: int, part: int) -> int:
    """One seed for each step and part of a reading."""
    return (seed * 1_000_003 + 4 * step + part) % (2**63 - 1)
