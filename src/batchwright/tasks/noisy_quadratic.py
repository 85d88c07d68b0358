"""A quadratic with known noise scale, Hessian and optimum, as a training task."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from batchwright.core.batches import Batch
from batchwright.data.synthetic import NoisyQuadratic, noisy_quadratic_data
from batchwright.tasks.task import OptimizerSpec, Target, Task

NUM_EXAMPLES = 32_768
NUM_DIMENSIONS = 32
DATA_SEED = 0
# The gradient noise is this multiple of the curvature, and each eigendirection starts with the same loss; then the noise
# scale at the start is this number.
INITIAL_NOISE_SCALE = 8.0


class QuadraticModel(nn.Module):
    """The parameters of a quadratic; called with noise vectors ``(B, D)`` it gives each example's loss ``(B,)``."""

    def __init__(self, curvature: Float[Tensor, " D"], optimum: Float[Tensor, " D"]) -> None:
        super().__init__()
        self.parameters_vector = nn.Parameter(torch.zeros_like(optimum))
        self.register_buffer("curvature", curvature.clone())
        self.register_buffer("optimum", optimum.clone())

    def forward(self, noise: Float[Tensor, "B D"]) -> Float[Tensor, " B"]:
        """Loss of each example."""
        offset = self.parameters_vector - self.get_buffer("optimum")
        return 0.5 * (self.get_buffer("curvature") * offset.square()).sum() + noise @ offset


def noisy_quadratic_problem() -> NoisyQuadratic:
    """The problem behind the task, with its closed forms; the model starts at the origin.

    The curvatures run evenly in the logarithm from 0.01 to 1. At the origin the excess loss is ``D / 2 = 16``, the noise
    scale 8 and the sharpness 1; both hold exactly.
    """
    curvature = torch.logspace(-2, 0, NUM_DIMENSIONS, dtype=torch.float64)
    return noisy_quadratic_data(
        num_examples=NUM_EXAMPLES,
        curvature=curvature,
        variance=INITIAL_NOISE_SCALE * curvature,
        optimum=curvature.rsqrt(),
        generator=torch.Generator().manual_seed(DATA_SEED),
    )


def noisy_quadratic() -> Task:
    """SGD without momentum on the noisy quadratic.

    The evaluation set is two examples without noise, so the evaluation loss is the excess loss itself, with no scatter.
    With a constant learning rate SGD ends on a floor near ``lr * trace / (4 * batch_size)``: 0.11 at the default.
    """
    problem = noisy_quadratic_problem()
    start = torch.zeros(NUM_DIMENSIONS)
    return Task(
        name="noisy-quadratic",
        model=lambda: QuadraticModel(problem.curvature.float(), problem.optimum.float()),
        loss=_loss,
        train=TensorDataset(problem.noise.float()),
        evaluation=TensorDataset(torch.zeros(2, NUM_DIMENSIONS)),
        # From the closed form of the mean loss, best lr and steps to the target: 0.07 and 2,500 at batch size 8,
        # 0.25 and 660 at 32, 0.8 and 200 at 128, 1.5 and 93 at 512, 1.7 and 75 at 1024; 59 without noise.
        optimizer=OptimizerSpec(name="sgd", lr=0.25, momentum=0.0),
        target=Target(value=0.01 * problem.excess_loss(start)),
        max_examples=8 * NUM_EXAMPLES,
        description="quadratic loss with known noise scale, Hessian and optimum",
        facts={
            "noise_scale": problem.noise_scale(start),
            "trace": problem.trace,
            "grad_sq_norm": float(problem.gradient(start).square().sum()),
            "sharpness": problem.sharpness,
            "loss": problem.excess_loss(start),
        },
    )


def _loss(model: nn.Module, batch: Batch) -> Float[Tensor, " B"]:
    losses: Tensor = model(batch[0])
    return losses
