"""From the calls of a model to the steps by which a state goes through it: each call has a rule, or a reason why it is not followed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from torch import nn

from batchwright.nn.model_calls import Call, Ref
from batchwright.nn.state_rules import POINTWISE


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """How the state of one result comes about.

    Attributes:
        rule: Name of the rule; "" where the call is not followed.
        inputs: Steps whose states go in.
        module: Path of the module, where the rule is one of a layer.
        options: Plain values for the rule.
        why_not: Why it is not followed.
    """

    rule: str
    inputs: tuple[int, ...] = ()
    module: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    why_not: str = ""


def plan_steps(model: nn.Module, calls: Sequence[Call]) -> list[Step]:
    """One step a call; a call that needs one that is not followed is not followed for the same reason."""
    steps: list[Step] = []
    for call in calls:
        step = _step(model, call)
        if step.rule not in ("", "norm"):
            lost = next((steps[place] for place in step.inputs if not steps[place].rule), None)
            step = lost if lost is not None else step
        steps.append(step)
    return steps


def norm_sources(steps: Sequence[Step], place: int) -> list[str]:
    """Paths of the norms that the state before ``place`` is made from, in the order of the pass."""
    found, seen, waiting = set(), set(), list(steps[place].inputs)
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        if steps[current].rule == "norm":
            found.add(current)
        else:
            waiting.extend(steps[current].inputs)
    return [str(steps[each].module) for each in sorted(found)]


def _lost(why: str) -> Step:
    return Step(rule="", why_not=why)


def _step(model: nn.Module, call: Call) -> Step:
    if call.kind == "input":
        return _lost("nothing is known of the model's input")
    if call.kind == "value":
        return _lost(f"{call.target!r} is no result of a norm")
    inputs = tuple(ref.index for ref in _refs([*call.args, *call.kwargs.values()]))
    if not inputs:
        return _lost(f"{call.target!r} has no input that is followed")
    if call.kind == "module":
        return _module_step(call.target, model.get_submodule(call.target), inputs)
    return _function_step(call, inputs)


def _refs(value: Any) -> Iterator[Ref]:
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _refs(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _refs(part)


SAME_MODULES = (
    nn.Identity,
    nn.Flatten,
    nn.Upsample,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)
POINTWISE_MODULES = (
    *(
        nn.GELU,
        nn.SiLU,
        nn.Mish,
        nn.Hardswish,
        nn.Hardsigmoid,
        nn.Sigmoid,
        nn.Tanh,
        nn.Softplus,
        nn.ELU,
        nn.SELU,
        nn.CELU,
    ),
    *(nn.Softsign, nn.Hardtanh),
)
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def _module_step(path: str, module: nn.Module, inputs: tuple[int, ...]) -> Step:
    kinds: tuple[tuple[tuple[type[nn.Module], ...], str], ...] = (
        ((nn.modules.batchnorm._BatchNorm,), "norm"),
        ((nn.ReLU6,), "clamp"),
        ((nn.ReLU,), "relu"),
        ((nn.LeakyReLU,), "leaky_relu"),
        (POINTWISE_MODULES, "pointwise"),
        (DROPOUTS, "dropout"),
        (SAME_MODULES, "same"),
    )
    # A class of one's own may compute something else in its forward.
    if any(type(module).forward is kind.forward for kind in LAYERS):
        return Step(rule="layer", inputs=inputs, module=path)
    if any(type(module).forward is kind.forward for kind in TRANSPOSED):
        return Step(rule="transposed", inputs=inputs, module=path)
    for group, rule in kinds:
        if isinstance(module, group):
            return Step(rule=rule, inputs=inputs, module=path)
    return _lost(f"{path!r} ({type(module).__name__}) is not followed")


SAME_FUNCTIONS = {
    *("max_pool1d", "max_pool2d", "max_pool3d", "boolean_dispatch", "avg_pool1d", "avg_pool2d", "avg_pool3d"),
    *(
        "adaptive_avg_pool1d",
        "adaptive_avg_pool2d",
        "adaptive_avg_pool3d",
        "adaptive_max_pool2d",
        "interpolate",
        "upsample",
    ),
    *("contiguous", "clone", "detach", "to", "float", "double", "half", "bfloat16", "type_as", "squeeze", "identity"),
}


def _function_step(call: Call, inputs: tuple[int, ...]) -> Step:
    name, args, kwargs = call.target, call.args, call.kwargs
    lost = _lost(f"{name!r} is not followed")
    if name in SAME_FUNCTIONS:
        return Step(rule="same", inputs=inputs[:1])
    if name == "relu":
        return Step(rule="relu", inputs=inputs)
    if name == "relu6":
        return Step(rule="clamp", inputs=inputs)
    if name == "leaky_relu":
        slope = kwargs.get("negative_slope", args[1] if len(args) > 1 else 0.01)
        return Step(rule="leaky_relu", inputs=inputs, options={"slope": slope})
    if name in POINTWISE:
        return Step(rule="pointwise", inputs=inputs, options={"function": name})
    if name.startswith("dropout") or name == "feature_dropout":
        rate = kwargs.get("p", args[1] if len(args) > 1 else 0.5)
        return Step(rule="dropout", inputs=inputs, options={"rate": rate, "training": True})
    if name in ("cat", "concat", "concatenate"):
        axis = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0))
        return Step(rule="concatenate", inputs=inputs) if axis in (1, -3) else lost
    if name in ("add", "sub", "mul", "multiply", "div", "truediv", "neg"):
        return _arithmetic(name, call, inputs) or lost
    if name in ("flatten", "view", "reshape"):
        return Step(rule="same", inputs=inputs[:1]) if _flattens(name, call) else lost
    if name == "mean":
        axes = kwargs.get("dim", args[1:] if len(args) > 1 else None)
        return Step(rule="same", inputs=inputs) if _pixels_only(axes) else lost
    if name == "pad":
        return _padding(call, inputs) or lost
    if name == "getitem":
        return _slice(call, inputs) or lost
    return lost


def _arithmetic(name: str, call: Call, inputs: tuple[int, ...]) -> Step | None:
    if name == "neg":
        return Step(rule="scale", inputs=inputs, options={"factor": -1.0})
    if any(value not in (1, None) for value in (call.kwargs.get("alpha"), call.kwargs.get("rounding_mode"))):
        return None
    if len(call.args) < 2:
        return None
    first, second = call.args[:2]
    if isinstance(first, Ref) and isinstance(second, Ref):
        rule = {"add": "add", "sub": "subtract", "mul": "multiply", "multiply": "multiply"}.get(name)
        if rule in ("add", "multiply") and first == second:  # twice one result is not the sum of independent ones
            return Step(rule="scale", inputs=inputs[:1], options={"factor": 2.0}) if rule == "add" else None
        return Step(rule=rule, inputs=(first.index, second.index)) if rule else None
    number, state_first = (second, True) if isinstance(first, Ref) else (first, False)
    if isinstance(number, bool) or not isinstance(number, Real):
        return None
    value = float(number)
    options: dict[str, float] | None = None
    if name == "add":
        options = {"offset": value}
    elif name == "sub":
        options = {"offset": -value} if state_first else {"factor": -1.0, "offset": value}
    elif name in ("mul", "multiply"):
        options = {"factor": value}
    elif state_first and value:
        options = {"factor": 1 / value}
    return None if options is None else Step(rule="scale", inputs=inputs, options=options)


def _flattens(name: str, call: Call) -> bool:
    """Whether everything but the batch becomes one axis, channels outermost."""
    if name == "flatten":
        start = call.kwargs.get("start_dim", call.args[1] if len(call.args) > 1 else 0)
        return bool(start == 1 and call.kwargs.get("end_dim", call.args[2] if len(call.args) > 2 else -1) == -1)
    sizes = call.args[1] if len(call.args) == 2 and isinstance(call.args[1], tuple | list) else call.args[1:]
    return len(sizes) == 2 and (sizes[1] == -1 or sizes[0] != -1)


def _pixels_only(axes: Any) -> bool:
    flat = axes
    while isinstance(flat, tuple | list) and len(flat) == 1 and isinstance(flat[0], tuple | list):
        flat = flat[0]
    if isinstance(flat, int):
        flat = (flat,)
    if not isinstance(flat, tuple | list) or not flat:
        return False
    numbers = [axis for axis in flat if isinstance(axis, int) and not isinstance(axis, bool)]
    return all(axis >= 2 or axis in (-1, -2) for axis in numbers) and len(numbers) >= 1


def _padding(call: Call, inputs: tuple[int, ...]) -> Step | None:
    """Zeros around the pixels leave the state as it is, as padding inside a convolution does; zeros for channels are counted."""
    sizes = call.kwargs.get("pad", call.args[1] if len(call.args) > 1 else None)
    mode = call.kwargs.get("mode", call.args[2] if len(call.args) > 2 else "constant")
    value = call.kwargs.get("value", call.args[3] if len(call.args) > 3 else 0)
    if not isinstance(sizes, tuple | list) or not all(isinstance(size, int) for size in sizes):
        return None
    channels = tuple(sizes[4:6]) if len(sizes) >= 6 else (0, 0)
    if any(channels) and (mode != "constant" or value not in (0, 0.0, None)):
        return None
    return Step(rule="pad", inputs=inputs[:1], options={"before": channels[0], "after": channels[1]})


def _slice(call: Call, inputs: tuple[int, ...]) -> Step | None:
    """Every second pixel, or a range of channels; the batch must stay whole."""
    index = call.args[1] if len(call.args) > 1 else None
    if not isinstance(index, tuple) or not index or index[0] != slice(None):
        return None
    if not all(isinstance(part, slice) for part in index):
        return None
    channels = index[1] if len(index) > 1 else slice(None)
    ends = (channels.start, channels.stop, channels.step)
    if not all(end is None or isinstance(end, int) for end in ends):
        return None
    return Step(rule="channels", inputs=inputs[:1], options={"start": ends[0], "stop": ends[1], "step": ends[2]})
