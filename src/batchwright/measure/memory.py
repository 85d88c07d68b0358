"""The largest micro-batch that fits in memory, from a few steps on very few examples.

The bytes of a step are counted operation by operation at two sizes, solved for the budget, and confirmed by one real step.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import distributed

from batchwright.core.batches import Batch
from batchwright.core.checks import check_choice, check_int, check_number
from batchwright.core.environment import available_memory_bytes
from batchwright.core.errors import DoesNotFitError
from batchwright.core.preserve import RandomState
from batchwright.measure.memory_confirmation import Confirmation, confirm_by_step, too_dear
from batchwright.measure.memory_peak import DOUBTFUL, PeakBytes, fit_peak, uneven
from batchwright.measure.memory_steps import CHECK_SIZE, SIZES, Steps, out_of_memory
from batchwright.measure.memory_trial import search
from batchwright.tasks.task import Task

# On a CPU the kernels' scratch space, the allocator and the rest of the program live in what is left.
CPU_SHARE, CUDA_SHARE = 0.6, 0.9
# The first real step leaves this much for what is not the step's own, such as indices: a failed one costs as much.
FIRST_SHARE = 0.99


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Memory of a step against its micro-batch size.

    Attributes:
        max_micro_batch_size: Largest micro-batch whose peak fits the budget; at most the number of examples. Under
            `torch.distributed` the smallest of all ranks.
        bytes_per_example: What one more example adds to the peak around ``max_micro_batch_size``; after a trial an upper bound.
        fixed_bytes: The part of that peak that does not depend on the examples: parameters, gradients, optimizer state.
        budget_bytes: Memory that may be used; None if unknown.
        predicted_peak_bytes: Peak at ``max_micro_batch_size``.
        confirmed: Whether a real step at that size stayed inside the budget.
        confirmation: What came of confirming, one sentence.
        num_steps: Steps done, those left out that ran out of memory.
        num_examples: Examples that went through them.
        method: ``live-tensors`` (counted op by op), ``cuda`` (counted, then settled by the allocator's own peak) or ``trial``.
        warnings: What a reader should know, one sentence each.
        mode: ``train`` or ``eval``.
        num_failed: Steps that ran out of memory.
    """

    max_micro_batch_size: int
    bytes_per_example: float
    fixed_bytes: int
    budget_bytes: int | None
    predicted_peak_bytes: int
    confirmed: bool
    confirmation: str
    num_steps: int
    num_examples: int
    method: str
    warnings: tuple[str, ...]
    mode: str = "train"
    num_failed: int = 0


def memory(
    task: Task,
    *,
    mode: str = "train",
    method: str = "predict",
    largest: bool | Callable[[int], Batch] = False,
    budget_bytes: int | None = None,
    device: torch.device | str = "cpu",
    max_micro_batch_size: int | None = None,
    confirm: bool = True,
    confirm_plain_steps: float = 20.0,
    seed: int = 0,
) -> Memory:
    """Predict the peak memory of a step from micro-batches of 2 and 8 examples and solve for the budget.

    The step that is counted adds a micro-batch to gradients that are there already, as accumulation does, and then updates; an
    evaluation keeps gradients and optimizer state where they are. Live tensors are counted: on a CPU glibc's heap around them grew
    to 1.5 times as much in our large steps, for which the default budget leaves room. On CUDA the process's peak-memory
    statistics are reset. What a wrapper for several ranks adds, such as gradient buckets, is not counted.

    Under `torch.distributed` every rank must call this, and all get the smallest answer. Ranks on one device, or one machine's
    CPU, share its memory: give each its part as ``budget_bytes``.

    Args:
        task: The training job; a fresh model is measured, nothing of the user's is touched.
        mode: ``train``, or ``eval`` for the loss and the metrics on the evaluation set, without gradients.
        method: ``predict``, or ``trial`` to double and bisect by real steps until memory runs out. On CUDA a step that cannot be
            counted is tried too.
        largest: Examples to measure on. False for random ones. True for copies of the largest in bytes out of 256 random ones,
            for data whose examples differ in length: the longest of all may be larger. Or ``largest(size)`` gives the batch.
        budget_bytes: Memory for all of it; 60 % of what is available on a CPU, 90 % on CUDA where left out.
        device: Where to train.
        max_micro_batch_size: Never more; the number of examples where left out.
        confirm: Do a real step at the answer, with 1 % of the budget to spare.
        confirm_plain_steps: On a CPU, not if that costs more than this many steps at the task's batch size.
        seed: Of the model and the examples.

    Raises:
        DoesNotFitError: If not even one example fits, on this rank or another.
        InputError: If an argument breaks a rule.
    """
    check_choice("mode", mode, ("train", "eval"))
    check_choice("method", method, ("predict", "trial"))
    cap = task.num_train if mode == "train" or task.evaluation is None else len(task.evaluation)
    if max_micro_batch_size is not None:
        cap = min(cap, check_int("max_micro_batch_size", max_micro_batch_size, at_least=1))
    if budget_bytes is not None:
        check_int("budget_bytes", budget_bytes, at_least=1)
    check_number("confirm_plain_steps", confirm_plain_steps, at_least=0.0)
    device = torch.device(device)
    if budget_bytes is None:
        available = available_memory_bytes(device)
        share = CUDA_SHARE if device.type == "cuda" else CPU_SHARE
        budget_bytes = None if available is None else max(1, int(share * available))
    random_state = RandomState.capture()
    try:
        try:
            steps = Steps(task, seed, device, mode, largest)
            found = _find(steps, cap, budget_bytes, method, confirm, confirm_plain_steps)
        except (MemoryError, RuntimeError) as error:
            _smallest_of_ranks(0, device)  # the others wait for this rank's answer
            if not out_of_memory(error):
                raise
            raise DoesNotFitError(
                f"the device must hold the model and a step on {SIZES[0]} examples, got out of memory; make the model or its "
                "optimizer's state smaller"
            ) from error
        except Exception:
            _smallest_of_ranks(0, device)  # the others wait for this rank's answer
            raise
        return _result(steps, found, budget_bytes, _smallest_of_ranks(found.confirmation.size, device))
    finally:
        random_state.restore()
        if device.type == "cuda":
            torch.cuda.empty_cache()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """The answer of this rank."""

    peak: PeakBytes
    confirmation: Confirmation
    method: str
    warnings: tuple[str, ...]


def _find(steps: Steps, cap: int, budget: int | None, method: str, confirm: bool, confirm_plain_steps: float) -> _Found:
    if method == "trial":
        return _tried(steps, cap, budget, ())
    try:
        timelines = _timelines(steps)
        peak = fit_peak(timelines, steps.static_bytes())
        size = _largest(peak, cap, budget, confirm)
        dear = too_dear(steps, size, confirm_plain_steps)
        if (not confirm or dear or peak.doubtful) and max(timelines) > CHECK_SIZE:
            timelines[CHECK_SIZE] = steps.timeline(CHECK_SIZE)
            peak = fit_peak(timelines, steps.static_bytes())
            size = _largest(peak, cap, budget, confirm)
            dear = too_dear(steps, size, confirm_plain_steps)
    except DoesNotFitError:
        raise
    except Exception as error:
        # Without a limit that makes allocations fail, as the CPU has none, sizes cannot be tried.
        if out_of_memory(error) or steps.device.type != "cuda" or not steps.runs(min(SIZES[0], len(steps.dataset))):
            raise
        reason = f"the memory of a step could not be counted ({type(error).__name__}), so sizes were tried"
        return _tried(steps, cap, budget, (reason,))
    warnings = [peak.doubtful] if peak.doubtful else []
    if budget is None:
        warnings.append(
            "how much memory is available is not known here, so nothing but the data set bounds the micro-batch"
        )
    confirmation = Confirmation(size=size, confirmed=False, sentence=dear if confirm else "not asked for")
    if confirm and not dear:
        confirmation = confirm_by_step(steps, peak, size, cap, budget)
        if abs(confirmation.correction - 1) > DOUBTFUL and steps.device.type != "cuda":
            warnings.append(uneven(abs(confirmation.correction - 1)))
    by_allocator = confirm and steps.device.type == "cuda"
    return _Found(
        peak=peak,
        confirmation=confirmation,
        method="cuda" if by_allocator else "live-tensors",
        warnings=tuple(warnings),
    )


def _timelines(steps: Steps) -> dict[int, list[int]]:
    """Bytes operation by operation at the smallest sizes; those that do not fit are left out."""
    found: dict[int, list[int]] = {}
    for size in sorted({min(size, len(steps.dataset)) for size in SIZES}):
        try:
            found[size] = steps.timeline(size)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error) or not found:
                raise
            steps.num_failed += 1
            break
    return found


def _largest(peak: PeakBytes, cap: int, budget: int | None, confirm: bool) -> int:
    """The micro-batch that the prediction allows, with a little to spare where a real step is to confirm it."""
    if budget is None:
        return cap
    size = int(min(cap, peak.largest_within(budget)))
    if confirm and size < cap:
        size = min(size, max(1, int(peak.largest_within(int(FIRST_SHARE * budget)))))
    if size < 1:
        raise DoesNotFitError(
            f"budget_bytes must hold a step on at least one example, got {budget:,} bytes and one takes {peak.at(1):,}; "
            "give more memory or make the model or its optimizer's state smaller"
        )
    return size


def _tried(steps: Steps, cap: int, budget: int | None, warnings: tuple[str, ...]) -> _Found:
    found = search(steps.runs, at_most=cap, start=steps.task.batch_size)
    size, fixed = found.max_micro_batch_size, steps.static_bytes()
    per_example = 0.0 if budget is None else max(budget - fixed, 0) / size
    confirmation = Confirmation(
        size=size, confirmed=True, sentence=f"a step on {size} examples ran; {found.num_failed} larger ones did not"
    )
    return _Found(peak=PeakBytes.line(fixed, per_example), confirmation=confirmation, method="trial", warnings=warnings)


def _result(steps: Steps, found: _Found, budget: int | None, size: int) -> Memory:
    if size < 1:
        raise DoesNotFitError("a step must fit on every rank, got another rank that failed; its own error says why")
    warnings = list(found.warnings)
    if size < found.confirmation.size:
        warnings.append(
            f"another rank has room for {size} examples alone; this one would have had for {found.confirmation.size}"
        )
    fixed, per_example = found.peak.parts_at(size)
    per_example *= found.confirmation.correction
    return Memory(
        max_micro_batch_size=size,
        bytes_per_example=per_example,
        fixed_bytes=fixed,
        budget_bytes=budget,
        predicted_peak_bytes=round(fixed + per_example * size),
        confirmed=found.confirmation.confirmed,
        confirmation=found.confirmation.sentence,
        num_steps=steps.num_steps,
        num_examples=steps.num_examples,
        method=found.method,
        warnings=tuple(warnings),
        mode=steps.mode,
        num_failed=steps.num_failed,
    )


def _smallest_of_ranks(size: int, device: torch.device) -> int:
    """The smallest size of all ranks; this one's where `torch.distributed` is not set up."""
    if not distributed.is_available() or not distributed.is_initialized():
        return size
    on_cpu = "gloo" in distributed.get_backend() or "mpi" in distributed.get_backend()
    smallest = torch.tensor(size, device="cpu" if on_cpu else device)
    distributed.all_reduce(smallest, op=distributed.ReduceOp.MIN)
    return int(smallest)
