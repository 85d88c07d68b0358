"""Priors for all Kalman norms of a model, from the steps that a state takes through it; the model's own forward stays as it is.

Closed-form priors that say what enters the ReLU depend on parameters alone. They are computed together when a forward pass of the
whole model begins, so that a segment that is computed again in the backward pass finds the very same tensors. Raw and sampled
priors depend on the pass and are computed when a norm asks.
"""

from collections import Counter
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from batchwright.nn.channel_state import ChannelState
from batchwright.nn.kalman_norm import KalmanNorm1d, KalmanNorm2d
from batchwright.nn.sampled_moments import sampled_moments
from batchwright.nn.state_plan import Step
from batchwright.nn.state_rules import affine_state, follow_rule, layer_input
from batchwright.nn.swap import BatchNorm

States = dict[int, ChannelState]


class Propagation:
    """Gives each Kalman norm of a model its prior.

    Args:
        model: Whose modules the steps name.
        steps: Of one forward pass.
        raw: Whether norms hand on the corrected statistics of their inputs, and not those of their outputs.
        sampled: Whether convolutions are sampled, and not taken in closed form.
        generator: Of the samples; torch's own where left out.
    """

    def __init__(
        self,
        model: nn.Module,
        steps: Sequence[Step],
        *,
        raw: bool = False,
        sampled: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        self.model = model
        self.steps = tuple(steps)
        self.place = {str(step.module): place for place, step in enumerate(steps) if step.rule == "norm"}
        self.raw, self.sampled, self.generator = raw, sampled, generator
        self._forget()

    def attach(self) -> None:
        """Give every Kalman norm of the model its source, and the model the hooks; those of an earlier propagation go."""
        for module in self.model.modules():
            hooks: MutableMapping[int, Any]
            for hooks in (module._forward_pre_hooks, module._forward_hooks):
                for key, hook in list(hooks.items()):
                    if isinstance(hook, _SizeHook) or isinstance(getattr(hook, "__self__", None), Propagation):
                        del hooks[key]
        for path in self.place:
            norm = self.model.get_submodule(path)
            if isinstance(norm, KalmanNorm1d | KalmanNorm2d):
                norm.source = PriorSource(self, path)
        self.model.register_forward_pre_hook(self.begin)
        self.model.register_forward_hook(self.end, always_call=True)
        layers = {step.module for step in self.steps if step.rule == "layer" and step.module} if self.sampled else set()
        for layer in sorted(layers):
            self.model.get_submodule(layer).register_forward_pre_hook(_SizeHook(self, layer))

    def _forget(self) -> None:
        self._states: States = {}
        self._used: set[str] = set()
        self._running = False
        self._sizes: dict[str, tuple[int, ...]] = {}

    # Copies and pickles begin without the tensors of a pass, which belong to a graph.
    def __getstate__(self) -> dict[str, Any]:
        kept = {name: value for name, value in self.__dict__.items() if name not in ("_states", "_used", "_sizes")}
        return {**kept, "generator": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def begin(self, model: nn.Module, args: Any) -> None:
        """Forward pre-hook of the model."""
        self._forget()
        self._running = True
        if model.training and not self.raw and not self.sampled:
            self._all()

    def end(self, model: nn.Module, args: Any, result: Any) -> None:
        """Forward hook of the model."""
        self._running = False
        if self.raw or self.sampled:
            self._states = {}

    def see(self, path: str, args: Any) -> None:
        """Forward pre-hook of a convolution whose samples need its input's size."""
        if args and isinstance(args[0], Tensor):
            self._sizes[path] = tuple(args[0].shape[2:])

    def prior(self, path: str) -> ChannelState | None:
        """The prior of the norm at ``path`` in this pass; None where it starts anew."""
        target = self._target(path)
        if target is None:
            return None
        if self.raw or self.sampled:
            if (
                not self._running
            ):  # a part of the model called by itself: what the norms before it saw is of another pass
                return None
            with _full_precision(self.model):
                self._evaluate(target)
        else:
            # Asked again outside a backward pass: a new pass that did not begin with the whole model.
            again = path in self._used and torch._C._current_graph_task_id() == -1
            if again or target not in self._states:
                self._all()
            self._used.add(path)
        if target not in self._states:  # a norm before it did not run in this pass
            return None
        norm = self.model.get_submodule(path)
        assert isinstance(norm, BatchNorm)
        return layer_input(self._states[target], norm.num_features)

    def _target(self, path: str) -> int | None:
        """The step whose state is the prior of the norm at ``path``."""
        step = self.steps[self.place[path]]
        return None if step.why_not else step.inputs[0]

    def report(self, path: str, corrected: ChannelState) -> None:
        """What a norm found in this pass, for those after it."""
        if self.raw and self._running and path in self.place:
            self._states[self.place[path]] = corrected

    def _all(self) -> None:
        """The priors of all norms, in one go."""
        self._states, self._used = {}, set()
        with _full_precision(self.model):
            for path in self.place:
                target = self._target(path)
                if target is not None and isinstance(self.model.get_submodule(path), KalmanNorm1d | KalmanNorm2d):
                    self._evaluate(target)

    def _evaluate(self, target: int) -> None:
        """Find the state of a step from what is known in this pass; nothing where a norm before it has not run in it."""
        needed, waiting = set(), [target]
        while waiting:
            current = waiting.pop()
            if current not in self._states and current not in needed:
                needed.add(current)
                if self.steps[current].rule != "norm":
                    waiting.extend(self.steps[current].inputs)
        for current in sorted(needed):
            found = self._one(current)
            if found is None:
                return
            self._states[current] = found

    def _one(self, place: int) -> ChannelState | None:
        step = self.steps[place]
        module = None if step.module is None else self.model.get_submodule(step.module)
        if step.rule == "norm":
            assert isinstance(module, BatchNorm)
            waits = self.raw and isinstance(module, KalmanNorm1d | KalmanNorm2d)
            return None if waits else affine_state(module)
        states = [self._states[each] for each in step.inputs]
        if self.sampled and step.module in self._sizes and isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            return sampled_moments(states[0], module, self._sizes[step.module], generator=self.generator)
        return follow_rule(step.rule, states, module, step.options)


def check_steps(model: nn.Module, steps: Sequence[Step]) -> list[Step]:
    """The steps after one try on the parameters as they are: what does not fit is not followed, and norms without a prior say why."""
    checked: list[Step] = []
    states: States = {}
    times = Counter(step.module for step in steps if step.rule == "norm")
    with torch.no_grad(), _full_precision(model):
        for place, step in enumerate(steps):
            module = None if step.module is None else model.get_submodule(step.module)
            why_not = next((checked[each].why_not for each in step.inputs if each not in states), step.why_not)
            try:
                if step.rule == "norm":
                    assert isinstance(module, BatchNorm)
                    if not why_not and times[step.module] > 1:
                        why_not = f"it is called {times[step.module]} times in a pass"
                    if not why_not:
                        layer_input(states[step.inputs[0]], module.num_features)
                elif not why_not:
                    states[place] = follow_rule(step.rule, [states[each] for each in step.inputs], module, step.options)
            except (ValueError, RuntimeError, TypeError, AssertionError) as error:
                why_not = f"{step.module or step.rule}: {error}"
            if step.rule == "norm":
                assert isinstance(module, BatchNorm)
                states[place] = affine_state(module)
                checked.append(replace(step, why_not=why_not))
            else:
                checked.append(Step(rule="", why_not=why_not) if why_not else step)
    return checked


class PriorSource:
    """What a norm knows of the propagation: its own place in it."""

    def __init__(self, propagation: Propagation, path: str) -> None:
        self.propagation, self.path = propagation, path

    def prior(self) -> ChannelState | None:
        """This norm's prior in this pass."""
        return self.propagation.prior(self.path)

    def report(self, corrected: ChannelState) -> None:
        """What this norm found."""
        self.propagation.report(self.path, corrected)


class _SizeHook:
    """Tells the propagation the size of a convolution's input."""

    def __init__(self, propagation: Propagation, path: str) -> None:
        self.propagation, self.path = propagation, path

    def __call__(self, module: nn.Module, args: Any) -> None:
        self.propagation.see(self.path, args)


@contextmanager
def _full_precision(model: nn.Module) -> Iterator[None]:
    """No autocast: variances are sums of squares of small weights."""
    device = "cpu"
    for parameter in model.parameters():
        device = parameter.device.type
        break
    with torch.autocast(device, enabled=False):
        yield
