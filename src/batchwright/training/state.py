"""What changes in a run from step to step, and goes into its checkpoints."""

from dataclasses import dataclass, field
from typing import Any

from batchwright.core.serialization import from_plain, to_plain
from batchwright.measure.running_noise import RunningNoiseScale
from batchwright.tasks.evaluation import Evaluation
from batchwright.training.run import Instant, ToTarget


@dataclass(kw_only=True)
class LoopState:
    """What changes from step to step and goes into a checkpoint.

    Attributes:
        micro_batch_size: Most examples in one forward pass; None for that of the settings.
    """

    step: int = 0
    num_examples: int = 0
    train_s: float = 0.0
    batch_size: int
    controller: dict[str, Any]
    noise: RunningNoiseScale = field(default_factory=RunningNoiseScale)
    losses: list[float] = field(default_factory=list)
    last_loss: float | None = None
    next_step_record: int = 1
    next_noise_record: int = 1
    next_evaluation: int = 0
    last_checkpoint: int = -1
    before: Instant | None = None
    evaluation: Evaluation | None = None
    to_target: ToTarget | None = None
    micro_batch_size: int | None = None

    def to_plain(self) -> dict[str, Any]:
        """Plain values, exact through JSON."""
        return {
            **to_plain({name: getattr(self, name) for name in self.__dataclass_fields__}),
            "noise": self.noise.to_state(),
        }

    @classmethod
    def from_plain(cls, value: dict[str, Any]) -> "LoopState":
        """The state that `to_plain` described."""
        return cls(
            **{
                **value,
                "noise": RunningNoiseScale.from_state(value["noise"]),
                "before": from_plain(Instant | None, value["before"], "before"),
                "evaluation": from_plain(Evaluation | None, value["evaluation"], "evaluation"),
                "to_target": from_plain(ToTarget | None, value["to_target"], "to_target"),
            }
        )
