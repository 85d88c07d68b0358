"""Several small perceptrons trained at once as one stack of matrices: the same arithmetic as one by one, a tenth of the time.

At batch size 4 a step of one small network is nearly all call overhead, so members with other seeds, learning rates and momenta ride
along for little. Members never meet: each has its own weights, momentum buffer, batches and settings, and one that diverges
leaves the others as they are. `plain.py` is the slow loop that this one must equal.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from batchwright.core.errors import InputError
from batchwright.studies.eoss.settings import Setting


@dataclass(kw_only=True, slots=True)
class Ensemble:
    """State of ``E`` perceptrons with SiLU between their layers.

    Attributes:
        weights: One tensor ``(E, in, out)`` a layer.
        biases: One tensor ``(E, 1, out)`` a layer.
        weight_momenta: Momentum buffers of ``weights``.
        bias_momenta: Momentum buffers of ``biases``.
    """

    weights: list[Float[Tensor, "E _ _"]]
    biases: list[Float[Tensor, "E 1 _"]]
    weight_momenta: list[Float[Tensor, "E _ _"]]
    bias_momenta: list[Float[Tensor, "E 1 _"]]

    @property
    def num_members(self) -> int:
        """Number of networks."""
        return len(self.weights[0])

    def zero_momenta(self) -> None:
        """Forget the momentum, as at an intervention."""
        for tensor in (*self.weight_momenta, *self.bias_momenta):
            tensor.zero_()

    def tensors(self) -> dict[str, Tensor]:
        """All state by name, for a file."""
        groups = {
            "weight": self.weights,
            "bias": self.biases,
            "weight_momentum": self.weight_momenta,
            "bias_momentum": self.bias_momenta,
        }
        return {f"{name}.{i}": tensor for name, group in groups.items() for i, tensor in enumerate(group)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "Ensemble":
        """The ensemble that `tensors` describes."""

        def group(name: str) -> list[Tensor]:
            number = sum(key.startswith(f"{name}.") for key in tensors)
            return [tensors[f"{name}.{i}"].clone() for i in range(number)]

        return cls(
            weights=group("weight"),
            biases=group("bias"),
            weight_momenta=group("weight_momentum"),
            bias_momenta=group("bias_momentum"),
        )

    def member(self, index: int) -> "Ensemble":
        """A copy of one member as an ensemble of one."""
        return self.take([index])

    def take(self, indices: Sequence[int]) -> "Ensemble":
        """A new ensemble of copies of the members at ``indices``; one may be taken several times."""
        chosen = torch.tensor(list(indices))
        return Ensemble.from_tensors({name: tensor[chosen] for name, tensor in self.tensors().items()})


def from_models(models: Sequence[nn.Sequential]) -> Ensemble:
    """Stack perceptrons of one shape; their momentum starts at zero.

    Raises:
        InputError: If there is none, or one is not linear layers with SiLU between them.
    """
    if not models:
        raise InputError("models must hold at least one perceptron, got none")
    layers = [_linear_layers(model) for model in models]
    weights = [
        torch.stack([layer.weight.detach().T for layer in same]).contiguous() for same in zip(*layers, strict=True)
    ]
    biases = [torch.stack([layer.bias.detach()[None] for layer in same]) for same in zip(*layers, strict=True)]
    return Ensemble(
        weights=weights,
        biases=biases,
        weight_momenta=[torch.zeros_like(tensor) for tensor in weights],
        bias_momenta=[torch.zeros_like(tensor) for tensor in biases],
    )


def to_model(ensemble: Ensemble, index: int) -> nn.Sequential:
    """One member as a module, with copies of its parameters."""
    parts: list[nn.Module] = []
    for weight, bias in zip(ensemble.weights, ensemble.biases, strict=True):
        # Given its parameters, not drawn: a draw would move torch's global generator.
        linear = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[2], dtype=weight.dtype)
        with torch.no_grad():
            linear.weight.copy_(weight[index].T)
            linear.bias.copy_(bias[index, 0])
        parts += [linear, nn.SiLU()]
    return nn.Sequential(*parts[:-1])


def full_losses(
    ensemble: Ensemble, inputs: Float[Tensor, "N in"], targets: Float[Tensor, "N out"]
) -> Float[Tensor, " E"]:
    """Each member's loss on the whole data set: squared error summed over outputs, averaged over examples."""
    outputs, _ = _forward(ensemble, inputs.expand(ensemble.num_members, -1, -1))
    return (outputs - targets).square_().sum(2).mean(1)


def train_steps(
    ensemble: Ensemble,
    inputs: Float[Tensor, "N in"],
    targets: Float[Tensor, "N out"],
    batches: Iterator[Int[Tensor, "E B"] | None],
    settings: Sequence[Setting],
) -> None:
    """Train in place, one optimizer step a batch, with each member at its own setting.

    Args:
        ensemble: Changed in place.
        inputs: Features of the training set.
        targets: One-hot classes.
        batches: Positions of each member's examples; None for the whole data set.
        settings: One a member; all of one batch size, since a batch is one tensor.
    """
    lr = torch.tensor([[[each.lr]] for each in settings], dtype=inputs.dtype)
    momentum = torch.tensor([[[each.momentum]] for each in settings], dtype=inputs.dtype)
    nesterov = torch.tensor([[[each.nesterov]] for each in settings])
    # Heavy ball: θ -= η v. Nesterov: θ -= η (g + β v).
    from_buffer = -lr * torch.where(nesterov, momentum, torch.ones_like(momentum))
    from_gradient = -lr * nesterov
    any_nesterov, any_momentum = bool(nesterov.any()), bool((momentum > 0).any())
    parameters = [*ensemble.weights, *ensemble.biases]
    buffers = [*ensemble.weight_momenta, *ensemble.bias_momenta]
    whole = inputs.expand(ensemble.num_members, -1, -1)
    for batch in batches:
        x = whole if batch is None else inputs[batch]
        y = targets if batch is None else targets[batch]
        gradients = _gradients(ensemble, x, y)
        for parameter, buffer, gradient in zip(parameters, buffers, gradients, strict=True):
            if any_momentum:
                buffer.mul_(momentum).add_(gradient)
                parameter.addcmul_(buffer, from_buffer)
                if any_nesterov:
                    parameter.addcmul_(gradient, from_gradient)
            else:
                parameter.addcmul_(gradient, -lr)


def _forward(ensemble: Ensemble, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Outputs ``(E, B, out)``, and each layer's input with the values before its activation."""
    kept = []
    last = len(ensemble.weights) - 1
    for index, (weight, bias) in enumerate(zip(ensemble.weights, ensemble.biases, strict=True)):
        z = torch.baddbmm(bias, x, weight)
        kept.append((x, z))
        x = z if index == last else nn.functional.silu(z)
    return x, kept


def _gradients(ensemble: Ensemble, x: Tensor, y: Tensor) -> list[Tensor]:
    """Gradient of each member's mean loss, weights first, then biases; written out, since autograd's bookkeeping costs as much."""
    outputs, kept = _forward(ensemble, x)
    delta = (outputs - y).mul_(2.0 / x.shape[1])
    weights: list[Tensor] = []
    biases: list[Tensor] = []
    for index in range(len(kept) - 1, -1, -1):
        layer_input, _ = kept[index]
        weights.append(torch.bmm(layer_input.transpose(1, 2), delta))
        biases.append(delta.sum(1, keepdim=True))
        if index:
            z = kept[index - 1][1]
            delta = torch.ops.aten.silu_backward(torch.bmm(delta, ensemble.weights[index].transpose(1, 2)), z)
    return [*reversed(weights), *reversed(biases)]


def _linear_layers(model: nn.Sequential) -> list[nn.Linear]:
    layers = [module for module in model if isinstance(module, nn.Linear)]
    kinds = [type(module) for module in model]
    if kinds != ([nn.Linear, nn.SiLU] * len(layers))[:-1]:
        raise InputError(
            f"models must be linear layers with SiLU between them, got {', '.join(kind.__name__ for kind in kinds)}"
        )
    return layers
