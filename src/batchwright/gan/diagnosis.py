"""Why a loss or gradient of a GAN is not finite: the first place, from the data on, where a number is not."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def cause(
    *,
    real: Tensor,
    generated: Tensor,
    features: Tensor | None,
    others: Tensor | None,
    generator: nn.Module,
    critic: nn.Module | None,
    last_norms: dict[str, float],
) -> str:
    """One sentence with what was measured, and the way out that belongs to it.

    Args:
        real: The real points of the step.
        generated: The generated ones.
        features: The critic's features of ``real``; None without a critic.
        others: Those of ``generated``.
        generator: The generator.
        critic: The critic.
        last_norms: Norm of the last gradient of each, as far as known.
    """
    if broken := _broken(real):
        return f"{broken} of {len(real)} real points hold NaN or infinity; mend the data"
    for name, network in (("generator", generator), ("critic", critic)):
        if network is None:
            continue
        for where, parameter in network.named_parameters():
            if not bool(parameter.isfinite().all()):
                return (
                    f"the {name}'s parameter {where} is not finite after a step along a gradient of norm "
                    f"{last_norms.get(name, float('nan')):.3g}; lower its learning rate"
                )
    if _broken(generated):
        return f"the generator overflows: its largest parameter is {_largest(generator):.3g}; lower its learning rate"
    if features is None or others is None or critic is None:
        largest = float(torch.maximum(real.abs().max(), generated.abs().max()))
        return f"the kernel overflows on points of size {largest:.3g}; scale the data, or take a bounded kernel"
    if _broken(features) or _broken(others):
        return (
            f"the critic's features overflow: its largest parameter is {_largest(critic):.3g}; bound it with clip, "
            "spectral_norm or gradient_penalty, or lower its learning rate"
        )
    size = float(torch.maximum(features.abs().max(), others.abs().max()))
    return (
        f"the loss overflows on features of size up to {size:.3g}, its largest critic parameter being {_largest(critic):.3g}; bound "
        "the critic with clip, spectral_norm or gradient_penalty, or take a bounded kernel"
    )


def _broken(points: Tensor) -> int:
    """Points with a number that is not finite."""
    return int((~points.isfinite().flatten(1).all(dim=1)).sum())


def _largest(network: nn.Module) -> float:
    sizes = [float(parameter.abs().max()) for parameter in network.parameters() if parameter.numel()]
    return max(sizes, default=0.0)
