"""The state of an engine between two updates, as plain values and tensors."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from batchwright.core.errors import InputError
from batchwright.core.preserve import RandomState
from batchwright.data.streams import Stream
from batchwright.planning.example_clock import ExampleClock
from batchwright.training.batch_choice import BatchChoice
from batchwright.training.counts import Counts
from batchwright.training.ranks import Ranks

SCHEMA = 1


@runtime_checkable
class Kept(Protocol):
    """What of an engine goes into its state."""

    counts: Counts
    choice: BatchChoice
    stream: Stream
    ranks: Ranks
    micro_batch_size: int | None
    scaler: Any
    clock: ExampleClock | None


def save_state(engine: Kept) -> dict[str, Any]:
    """All that `load_state` needs, the states of model and optimizer excepted."""
    return {
        "schema": SCHEMA,
        "counts": engine.counts.to_state(),
        "micro_batch_size": engine.micro_batch_size,
        "choice": engine.choice.state_dict(),
        "stream": engine.stream.state_dict(),
        "scaler": None if engine.scaler is None else engine.scaler.state_dict(),
        "clock": None if engine.clock is None else engine.clock.state_dict(),
        "random": RandomState.capture().to_state(),
    }


def load_state(engine: Kept, state: Mapping[str, Any]) -> None:
    """Put an engine, and the global random generators, where `save_state` found them.

    Raises:
        InputError: If the state is that of a newer version, of another data set or of another policy.
    """
    if state["schema"] > SCHEMA:
        raise InputError(f"state must be of schema {SCHEMA} or older, got {state['schema']}; update batchwright")
    for name, here in (("scaler", engine.scaler), ("clock", engine.clock)):
        if (state[name] is None) != (here is None):
            raise InputError(
                f"{name} must be given as in the run, got {'none' if here is None else 'one'}; make the engine as it was"
            )
    engine.stream.load_state_dict(state["stream"])
    engine.choice.load_state_dict(state["choice"])
    engine.counts = Counts.from_state(state["counts"], engine.ranks.device)
    engine.micro_batch_size = state["micro_batch_size"]
    if engine.scaler is not None:
        engine.scaler.load_state_dict(state["scaler"])
    if engine.clock is not None:
        engine.clock.load_state_dict(state["clock"])
    RandomState.from_state(state["random"]).restore()
