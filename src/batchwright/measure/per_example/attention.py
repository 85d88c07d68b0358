"""Rule for multi-head attention: torch's own function, with the calls inside it followed."""

from types import FunctionType
from typing import Any

from torch.nn import functional as F

from batchwright.measure.per_example.recorder import Recorder


def multi_head_attention(recorder: Recorder, *args: Any, **kwargs: Any) -> Any:
    """`torch.nn.functional.multi_head_attention_forward`, in which the examples are the second axis."""
    with recorder.inside(time_first=True):
        return _multi_head_attention(*args, **kwargs)


# torch hands this function to a mode as a whole, before it looks inside. The same code with that question answered by "no"
# reaches the linear maps, which have rules.
_original = F.multi_head_attention_forward
_multi_head_attention = FunctionType(
    _original.__code__, {**vars(F), "has_torch_function": lambda _: False}, argdefs=_original.__defaults__
)
_multi_head_attention.__kwdefaults__ = _original.__kwdefaults__
