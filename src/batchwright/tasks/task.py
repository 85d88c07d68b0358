"""What is trained: a model, one loss an example, data, an optimizer and a target."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from batchwright.core.batches import Batch
from batchwright.core.checks import check_choice, check_int, check_number
from batchwright.core.errors import TaskError
from batchwright.core.objectives import Loss
from batchwright.core.preserve import RandomState
from batchwright.data.access import num_examples
from batchwright.tasks.optimizers import KINDS, names_of

Metric = Callable[[nn.Module, Batch], Tensor]

# Torch's own, made from the parameters, and those that step by layers, made from the model.
OPTIMIZERS, LAYERED = names_of(layered=False), names_of(layered=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerSpec:
    """An optimizer by name with the settings that a plan may change.

    Attributes:
        name: ``sgd``, ``adam``, ``adamw``, ``muon`` or ``scion``.
        lr: Learning rate at the task's default batch size.
        momentum: Momentum of SGD, Muon and Scion, beta1 of Adam-type methods.
        beta2: Decay of the squared gradients in Adam-type methods.
        weight_decay: As in `torch.optim`.
        nesterov: Nesterov momentum, for SGD alone; Muon has it unless its options say no.
        options: Further keywords for Muon and Scion, as ``{"polar_every": 4}`` or ``{"radii": {"default": 20.0}}``.
    """

    name: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0
    nesterov: bool = False
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        check_choice("optimizer name", self.name, KINDS)
        check_number("lr", self.lr, above=0.0)
        check_number("momentum", self.momentum, at_least=0.0, below=1.0)
        check_number("beta2", self.beta2, at_least=0.0, below=1.0)
        check_number("weight_decay", self.weight_decay, at_least=0.0)
        if self.nesterov and (self.name != "sgd" or self.momentum == 0):
            raise TaskError(
                f"nesterov needs SGD with momentum above 0, got {self.name} with momentum {self.momentum:g}"
            )
        if self.options and self.name not in LAYERED:
            raise TaskError(
                f"options are for {' and '.join(LAYERED)}, got {', '.join(sorted(self.options))} with {self.name}; leave them out"
            )

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The `torch.optim` optimizer over ``parameters``.

        Raises:
            TaskError: For Muon and Scion, which must know the layers.
        """
        if self.name in LAYERED:
            raise TaskError(
                f"{self.name} must be made from the model, whose layers decide their norms, got its parameters alone; "
                "call batchwright.optim.build_optimizer(spec, model)"
            )
        if self.name == "sgd":
            return torch.optim.SGD(
                parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, nesterov=self.nesterov
            )
        kind = getattr(torch.optim, KINDS[self.name].class_name)
        found: torch.optim.Optimizer = kind(
            parameters, lr=self.lr, betas=(self.momentum, self.beta2), weight_decay=self.weight_decay
        )
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """When training has got there: a metric over the evaluation set passes a value.

    Attributes:
        value: The value to reach.
        metric: ``loss``, or a key of the task's ``metrics``.
        direction: ``below`` for a loss, ``above`` for an accuracy.
    """

    value: float
    metric: str = "loss"
    direction: str = "below"

    def __post_init__(self) -> None:
        check_number("target value", self.value)
        check_choice("target direction", self.direction, ("above", "below"))

    def reached(self, value: float) -> bool:
        """Whether ``value`` of the metric is at the target or past it."""
        return value >= self.value if self.direction == "above" else value <= self.value


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """A training job.

    Attributes:
        name: Short name for records and reports.
        model: Makes a fresh model; called without arguments after torch's generator was seeded.
        loss: ``loss(model, batch) -> (B,)``, one loss an example; the library takes the mean.
        train: Map-style data set; its examples are collated along the first axis.
        evaluation: Data set for the target; the training set is used where it is left out.
        optimizer: Optimizer with its settings at ``batch_size``.
        target: What a run trains to; needed for times to target, and by ``plan --verify``.
        batch_size: Default batch size, for which the optimizer's settings hold; the unit "plain step" is one step at it.
        metrics: Further values an example, ``metric(model, batch) -> (B,)``, averaged over the evaluation set.
        max_examples: Examples after which a run gives up on its target; 50 epochs when left out.
        evaluation_batch_size: Examples in one forward pass of an evaluation.
        description: One line for ``batchwright tasks``.
        sequence_length: Tokens in an example, where examples are sequences of one length; policies that count tokens need it.
        facts: Known answers of a synthetic problem, such as ``noise_scale``.
    """

    name: str
    model: Callable[[], nn.Module]
    loss: Loss
    train: Any
    evaluation: Any = None
    optimizer: OptimizerSpec = field(default_factory=OptimizerSpec)
    target: Target | None = None
    batch_size: int = 32
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    max_examples: int | None = None
    evaluation_batch_size: int = 1024
    description: str = ""
    sequence_length: int | None = None
    facts: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.model, nn.Module) or not callable(self.model):
            raise TaskError(
                f"model must be a function without arguments that makes a fresh model, got {type(self.model).__name__}; "
                "write model=make_model, so that every run starts anew"
            )
        if not callable(self.loss):
            raise TaskError(f"loss must be a function loss(model, batch) -> (B,), got {type(self.loss).__name__}")
        if not isinstance(self.optimizer, OptimizerSpec):
            raise TaskError(f"optimizer must be a batchwright.OptimizerSpec, got {type(self.optimizer).__name__}")
        if self.target is not None and not isinstance(self.target, Target):
            raise TaskError(f"target must be a batchwright.Target, got {type(self.target).__name__}")
        length = num_examples(self.train, "train")
        if self.evaluation is not None:
            num_examples(self.evaluation, "evaluation")
        check_int("batch_size", self.batch_size, at_least=1)
        if self.batch_size > length:
            raise TaskError(
                f"batch_size must be at most the number of training examples, got {self.batch_size} for {length}"
            )
        check_int("evaluation_batch_size", self.evaluation_batch_size, at_least=1)
        if self.max_examples is not None:
            check_int("max_examples", self.max_examples, at_least=1)
        if self.sequence_length is not None:
            check_int("sequence_length", self.sequence_length, at_least=1)
        for name, metric in self.metrics.items():
            if name == "loss" or not callable(metric):
                raise TaskError(
                    f"metrics must hold functions metric(model, batch) -> (B,) under names other than 'loss', got {name!r}: "
                    f"{type(metric).__name__}"
                )
        if not self.name:
            raise TaskError("name must not be empty, got ''")
        if self.target is not None and self.target.metric != "loss" and self.target.metric not in self.metrics:
            known = ", ".join(["loss", *self.metrics])
            raise TaskError(f"target metric must be one of {known}, got {self.target.metric!r}; add it to metrics")

    @property
    def num_train(self) -> int:
        """Number of training examples ``N``."""
        return len(self.train)

    @property
    def example_limit(self) -> int:
        """Examples after which a run gives up on its target."""
        return self.max_examples or 50 * self.num_train

    def make_model(self, seed: int, device: torch.device | str = "cpu") -> nn.Module:
        """A fresh model in training mode, made with torch's generator at ``seed``; the generator is left as it was.

        Raises:
            TaskError: If ``model()`` did not give a module.
        """
        random_state = RandomState.capture()
        try:
            torch.manual_seed(seed)
            model = self.model()
        finally:
            random_state.restore()
        if not isinstance(model, nn.Module):
            raise TaskError(f"model() must return a torch.nn.Module, got {type(model).__name__}")
        return model.to(device).train()
