"""The small problem: 512 handwritten digits with noisy labels and a perceptron 64-128-128-10.

Source: the specification of this study's small run; the loss, the one-hot targets and the scaled Kaiming initialisation are
those of the official code (squared error summed over outputs, averaged over examples, without a half).
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from batchwright.core.batches import Batch
from batchwright.studies.streams import stream

NUM_TRAIN = 512
LABEL_NOISE = 0.3
# Border pixels never vary, so a plain standard score would divide by nothing.
STD_OFFSET = 1.6
INIT_SCALE = 0.5
SIZES = (64, 128, 128, 10)
# The data are one sample for all seeds of a study, as in the paper: seeds are initialisations and batches.
DATA_SEED = 111


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Training set.

    Attributes:
        inputs: Features, ``(N, 64)`` of the digits.
        targets: One-hot classes ``(N, 10)``.
    """

    inputs: Float[Tensor, "N ..."]
    targets: Float[Tensor, "N out"]

    @property
    def num_train(self) -> int:
        """Number of examples ``N``."""
        return len(self.inputs)


def digits_problem(num_train: int = NUM_TRAIN) -> Problem:
    """Random images out of the bundled digits; 30 % of the labels are replaced by a class drawn uniformly, the true one among them."""
    # Imported here: scikit-learn takes a second to import.
    from sklearn.datasets import load_digits

    bundled = load_digits()
    generator = stream(DATA_SEED, "eoss", "digits")
    chosen = torch.randperm(len(bundled.images), generator=generator)[:num_train]
    images = torch.from_numpy(bundled.images).float().flatten(1)[chosen]
    classes = torch.from_numpy(bundled.target).long()[chosen]
    noisy = torch.rand(num_train, generator=generator) < LABEL_NOISE
    classes = torch.where(noisy, torch.randint(0, 10, (num_train,), generator=generator), classes)
    inputs = (images - images.mean(0)) / (images.std(0) + STD_OFFSET)
    return Problem(inputs=inputs, targets=nn.functional.one_hot(classes, 10).float())


def perceptron(generator: torch.Generator) -> nn.Sequential:
    """Kaiming-normal weights times `INIT_SCALE`, zero biases, SiLU between the layers."""
    parts: list[nn.Module] = []
    for fan_in, fan_out in pairwise(SIZES):
        linear = nn.utils.skip_init(nn.Linear, fan_in, fan_out)
        with torch.no_grad():
            linear.weight.normal_(0.0, INIT_SCALE * (2 / fan_in) ** 0.5, generator=generator)
            linear.bias.zero_()
        parts += [linear, nn.SiLU()]
    return nn.Sequential(*parts[:-1])


def squared_error(model: nn.Module, batch: Batch) -> Float[Tensor, " B"]:
    """Each example's squared error, summed over the outputs."""
    inputs, targets = batch
    outputs: Tensor = model(inputs)
    losses: Tensor = (outputs - targets).square().sum(1)
    return losses
