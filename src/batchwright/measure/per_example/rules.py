"""Which call of torch has which rule; one line enrols a function.

A rule takes the recorder and the arguments of the call, and returns its result, or None where it does not apply.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from batchwright.measure.per_example.attention import multi_head_attention
from batchwright.measure.per_example.broadcast import binary, expand, expand_as, repeat
from batchwright.measure.per_example.convolution import convolution, transposed_convolution
from batchwright.measure.per_example.embedding import embedding
from batchwright.measure.per_example.linear import addmm, linear, matmul
from batchwright.measure.per_example.normalization import batch_norm, group_norm, instance_norm, layer_norm, rms_norm

RULES: dict[Callable[..., Any], Callable[..., Any]] = {
    F.linear: linear,
    torch.matmul: matmul,
    Tensor.matmul: matmul,
    Tensor.__matmul__: matmul,
    torch.addmm: addmm,
    torch.conv1d: convolution(1),
    torch.conv2d: convolution(2),
    torch.conv3d: convolution(3),
    torch.conv_transpose1d: transposed_convolution(1),
    torch.conv_transpose2d: transposed_convolution(2),
    torch.conv_transpose3d: transposed_convolution(3),
    F.embedding: embedding,
    F.layer_norm: layer_norm,
    F.rms_norm: rms_norm,
    F.group_norm: group_norm,
    F.instance_norm: instance_norm,
    F.batch_norm: batch_norm,
    F.multi_head_attention_forward: multi_head_attention,
    Tensor.expand: expand,
    Tensor.expand_as: expand_as,
    Tensor.repeat: repeat,
    **{
        func: binary(func)
        for name in ("add", "sub", "mul", "div", "true_divide")
        for func in (getattr(torch, name), getattr(Tensor, name), getattr(Tensor, f"{name}_"))
    },
    **{
        func: binary(func)
        for name in ("add", "sub", "mul", "truediv")
        for func in (getattr(Tensor, f"__{prefix}{name}__") for prefix in ("", "r", "i"))
    },
}
