"""Squared norms of per-example gradients from a user's own forward and backward pass.

While the context is open, calls of torch that take a trainable parameter are replaced by ones that do the same and, in the
backward pass, also give the norm of each example's part. Calls, not modules, are followed: functional use, shared
parameters, modules called twice and ``nn.MultiheadAttention`` need no case of their own.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from batchwright.core.batches import tensors_of
from batchwright.core.checks import check_int
from batchwright.core.errors import InputError
from batchwright.core.vectors import trainable
from batchwright.measure.per_example.ledger import Ledger
from batchwright.measure.per_example.recorder import Recorder
from batchwright.measure.per_example.rules import RULES
from batchwright.measure.per_example.separate import refuse_batch_statistics


class PerExampleNorms:
    """Gives the norm of each example's gradient beside the ordinary gradient of a training step.

    Every layer must see the examples along its first axis, or along its second where that alone is as long. This is taken on
    trust here; `per_example_grad_norms` checks it, so measure once with that before relying on this.

    Some layers' gradients are summed from the parts that the norms need, so a gradient may differ from the plain one in its last
    bits. Memory is that of the plain step and a few MB. With dropout the norms are those under the step's own mask.

    Args:
        model: Model in the mode in which it trains; BatchNorm layers must be in eval mode.
        num_examples: Examples ``B`` of a batch; the length of the first tensor that the model is called with when left out.
        keep_gradient: Whether the backward pass adds to ``.grad`` as usual; without it only the norms are made.
        parameters: Parameters to measure; all trainable ones when left out. Those of the norm layers alone cost next to nothing.

    Raises:
        InputError: If a BatchNorm layer would use the statistics of the batch, or no parameter is left to measure.

    Example:
        >>> model = nn.Linear(3, 1)
        >>> with PerExampleNorms(model) as norms:
        ...     model(torch.ones(2, 3)).mean().backward()
        >>> norms.squared().round(decimals=3).tolist()  # three ones for the weight and one for the bias
        [4.0, 4.0]
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        num_examples: int | None = None,
        keep_gradient: bool = True,
        parameters: Iterable[nn.Parameter] | None = None,
    ) -> None:
        if num_examples is not None:
            check_int("num_examples", num_examples, at_least=1)
        refuse_batch_statistics(model)
        wanted = {id(parameter) for parameter in (trainable(model) if parameters is None else parameters)}
        measured = {name: p for name, p in model.named_parameters() if p.requires_grad and id(p) in wanted}
        if not measured:
            raise InputError(f"parameters must hold a trainable parameter of the model, got none among {len(wanted)}")
        self._model = model
        self._given_num_examples = num_examples
        self._recorder = Recorder(measured, keep_gradient=keep_gradient)
        self._mode = _FollowCalls(self._recorder)
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> "PerExampleNorms":
        self._recorder.clear()
        self._recorder.num_examples = self._given_num_examples
        if self._given_num_examples is None:
            self._hooks.append(self._model.register_forward_pre_hook(self._find_num_examples, with_kwargs=True))
        for ledger in self._recorder.ledgers.values():
            self._hooks.append(
                ledger.parameter.register_hook(_notice(ledger, keep_gradient=self._recorder.keep_gradient))
            )
        self._mode.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._mode.__exit__(kind, error, traceback)
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    @property
    def unfollowed(self) -> list[str]:
        """Names of the parameters used by operations that have no rule; their norms are not known."""
        return [name for name, ledger in self._recorder.ledgers.items() if ledger.unfollowed]

    @property
    def coarsest_eps(self) -> float:
        """Machine epsilon of the coarsest numbers that a norm was made of: that of bfloat16 under its autocast."""
        return self._recorder.coarsest_eps

    def squared(self, *, example_weight: float | None = None) -> Float[Tensor, " B"]:
        """Squared norm of the gradient of each example's own loss, over the parameters measured, in float64.

        What was recorded is forgotten, so each backward pass is read once, before the next forward pass.

        Args:
            example_weight: Weight of one example's loss in what went backward, a loss scale included; ``1/B``, as in their
                mean, when left out.

        Raises:
            InputError: If there was no backward pass, or an operation that has no rule took a parameter.
        """
        return torch.stack(list(self.squared_by_parameter(example_weight=example_weight).values())).sum(dim=0)

    def squared_by_parameter(
        self, *, example_weight: float | None = None, followed_only: bool = False
    ) -> dict[str, Float[Tensor, " B"]]:
        """`squared` of each parameter, by name; a shared parameter has its first name.

        Args:
            example_weight: As for `squared`.
            followed_only: Leave out the parameters of `unfollowed` instead of raising.
        """
        unfollowed = self.unfollowed
        if unfollowed and not followed_only:
            raise InputError(
                "every operation that takes a parameter must have a rule in PerExampleNorms, got others for "
                f"{', '.join(unfollowed)}; use per_example_grad_norms, which falls back for these, or freeze them"
            )
        found = self._recorder.take()
        return {
            name: sq_norms * (len(sq_norms) if example_weight is None else 1 / example_weight) ** 2
            for name, sq_norms in found.items()
        }

    def _find_num_examples(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if torch.is_grad_enabled():
            lengths = [len(leaf) for leaf in tensors_of([args, kwargs]) if leaf.ndim > 0]
            self._recorder.num_examples = lengths[0] if lengths else None


def _notice(ledger: Ledger, *, keep_gradient: bool) -> Callable[[Tensor | None], None]:
    """A hook that notices a gradient which came past the rules, as from a custom ``autograd.Function``."""

    def hook(grad: Tensor | None) -> None:
        if grad is not None and not (keep_gradient and ledger.uses):
            ledger.unfollowed = True

    return hook


class _FollowCalls(TorchFunctionMode):
    """Sends each call that takes a trainable parameter to its rule, and marks the parameter where there is none."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder
        recorder.following = self

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        recorder = self._recorder
        taken = [tensor for tensor in _tensors(args, kwargs) if recorder.ledger(tensor) or recorder.read(tensor)]
        if not taken or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        if func in RULES and not _is_checkpointed():
            result = RULES[func](recorder, *args, **kwargs)
            if result is not None:
                return result
        result = func(*args, **kwargs)
        if any(recorder.ledger(out) is None and recorder.read(out) is None for out in _differentiable(result)):
            for tensor in taken:
                self._give_up(tensor)
        return result

    def _give_up(self, tensor: Tensor) -> None:
        ledger, read = self._recorder.ledger(tensor), self._recorder.read(tensor)
        if read is not None and read.use is None:
            ledger = self._recorder.ledger(read.table)
        if ledger is not None:
            ledger.unfollowed = True


def _is_checkpointed() -> bool:
    """Whether this forward pass will be made again in the backward pass, where calls are not followed."""
    # Compiled code cannot ask.
    return not torch.compiler.is_compiling() and torch._C._autograd._top_saved_tensors_default_hooks(False) is not None


def _tensors(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    """Tensors among the arguments of a call, also within one level of lists."""
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            for item in value:
                if isinstance(item, Tensor):
                    yield item


def _differentiable(result: Any) -> Iterator[Tensor]:
    """Outputs of a call through which a gradient can flow."""
    return (out for out in _tensors((result,), {}) if out.requires_grad)
