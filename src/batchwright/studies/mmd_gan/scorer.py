"""The classifier that judges generated images, trained in the study itself, and the scores that it gives.

Scores of different classifiers cannot be compared: an inception score in the literature is that of one network, trained on ImageNet.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from batchwright.core.statistics import Interval, student_quantile
from batchwright.gan import class_scores, kid
from batchwright.studies.mmd_gan.grid import as_text, grid_png
from batchwright.studies.mmd_gan.problems import Problem, load_problem
from batchwright.studies.state_files import load_state, save_state
from batchwright.studies.streams import stream
from batchwright.studies.study import Place

NUM_FEATURES = 128
NUM_GROUPS = 20
MAX_REAL = 2000
ZOOM = {"digits": 4}


class Classifier(nn.Module):
    """Features, 128 of them behind a ReLU, and class scores from them.

    Args:
        image_size: 8 for a perceptron 64-128-C; else two convolutions with strides before the features.
        num_channels: Of the images.
        num_classes: ``C``.
    """

    def __init__(self, image_size: int, num_channels: int, num_classes: int) -> None:
        super().__init__()
        if image_size == 8:
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(64 * num_channels, NUM_FEATURES), nn.ReLU())
        else:
            self.body = nn.Sequential(
                nn.Conv2d(num_channels, 32, 5, stride=2, padding=2),
                nn.ReLU(),
                nn.Conv2d(32, 64, 5, stride=2, padding=2),
                nn.ReLU(),
                nn.Flatten(),
                nn.Linear(64 * (image_size // 4) ** 2, NUM_FEATURES),
                nn.ReLU(),
            )
        self.head = nn.Linear(NUM_FEATURES, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores before the softmax."""
        return self.head(self.body(images))  # type: ignore[no-any-return]


def run_scorer(place: Place, *, data: str, num_epochs: int, seed: int) -> Mapping[str, Any]:
    """Train the classifier of ``data``, keep it, and score real images with it.

    Returns:
        ``accuracy`` on the test images in percent, ``score`` of the test images, ``kid`` of training against test images, and
        a grid of real ones.
    """
    problem = load_problem(data, place.data_root)
    model = (_digits_model if data == "digits" else _trained)(problem, num_epochs, seed, place.device)
    save_state(place, f"scorer-{data}", model.state_dict())
    scorer = Scorer(model=model, problem=problem)
    right = scorer.probabilities(problem.test_images).argmax(1) == problem.test_labels
    half = stream(seed, "mmd-gan", "real", data)
    order = torch.randperm(len(problem.images), generator=half)
    found = scorer.scores(problem.test_images)
    again = scorer.scores(problem.images[order[:MAX_REAL]])
    return {
        "accuracy": 100.0 * float(right.double().mean()),
        "score": found["score"],
        "score_low": found["score_low"],
        "score_high": found["score_high"],
        "kid": again["kid"],
        "kid_low": again["kid_low"],
        "kid_high": again["kid_high"],
        "grid": as_text(grid_png(problem.images[order[:60]], zoom=ZOOM.get(data, 1))),
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Scorer:
    """A trained classifier with the images that generated ones are compared with.

    Attributes:
        model: The classifier.
        problem: Its images.
    """

    model: Classifier
    problem: Problem

    def probabilities(self, images: Tensor) -> Tensor:
        """Class probabilities, in double precision on the CPU."""
        return self._run(images, self.model).double().softmax(dim=1)

    def scores(self, images: Float[Tensor, "N C S S"]) -> Mapping[str, Any]:
        """The class score with its interval, the shares of the classes, and the KID to the test images with its interval."""
        rows = self.probabilities(images)
        whole = class_scores(rows.float())
        span = score_interval(rows)
        real = self.problem.test_images[:MAX_REAL]
        # All pairs of at most 1,000 generated ones: cheaper than subsets, and with the smallest error.
        distance = kid(self._run(real, self.model.body), self._run(images[:1000], self.model.body), num_subsets=None)
        return {
            "score": whole.score,
            "score_low": span.low,
            "score_high": span.high,
            "shares": list(whole.shares),
            "smallest_share": whole.smallest_share,
            "kid": distance.value,
            "kid_low": distance.low,
            "kid_high": distance.high,
        }

    @torch.no_grad()
    def _run(self, images: Tensor, network: nn.Module) -> Tensor:
        device = self.model.head.weight.device
        return torch.cat([network(part.to(device)).cpu() for part in images.split(500)])


def load_scorer(place: Place, data: str) -> Scorer:
    """The classifier that `run_scorer` left.

    Raises:
        RecordError: If it is not there.
    """
    tensors = load_state(place, f"scorer-{data}")
    problem = load_problem(data, place.data_root)
    model = _classifier(problem)
    model.load_state_dict(tensors)
    return Scorer(model=model.to(place.device).eval(), problem=problem)


def score_interval(rows: Float[Tensor, "N C"], level: float = 0.95) -> Interval:
    """The class score of a sample with its scatter from sample to sample: the jackknife over 20 groups of images."""
    whole = class_scores(rows.float()).score
    groups = rows.chunk(NUM_GROUPS)
    left_out = [
        class_scores(torch.cat([*groups[:index], *groups[index + 1 :]]).float()).score for index in range(len(groups))
    ]
    values = torch.tensor(left_out, dtype=torch.float64)
    num = len(values)
    error = math.sqrt((num - 1) / num * float((values - values.mean()).square().sum()))
    reach = student_quantile(level, num - 1) * error
    return Interval(value=whole, low=whole - reach, high=whole + reach)


def _classifier(problem: Problem) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        return Classifier(problem.images.shape[-1], problem.images.shape[1], problem.num_classes)


def _digits_model(problem: Problem, num_epochs: int, seed: int, device: torch.device) -> Classifier:
    """The perceptron of scikit-learn at its defaults, as in the spec sheet, whose scores are comparable with these for that."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    fitted = MLPClassifier(hidden_layer_sizes=(NUM_FEATURES,), random_state=seed, max_iter=num_epochs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # its own rule would go on; the number of epochs is ours
        fitted.fit(problem.images.flatten(1).numpy(), problem.labels.numpy())
    model = _classifier(problem)
    with torch.no_grad():
        for layer, weight, bias in zip((model.body[1], model.head), fitted.coefs_, fitted.intercepts_, strict=True):
            assert isinstance(layer, nn.Linear)
            layer.weight.copy_(torch.from_numpy(weight.T))
            layer.bias.copy_(torch.from_numpy(bias))
    return model.to(device).eval()


def _trained(problem: Problem, num_epochs: int, seed: int, device: torch.device) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Classifier(problem.images.shape[-1], problem.images.shape[1], problem.num_classes).to(device)
    images, labels = problem.images.to(device), problem.labels.to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4)
    for epoch in range(num_epochs):
        order = torch.randperm(len(images), generator=stream(seed, "mmd-gan", "scorer", epoch)).to(device)
        for batch in order.split(128):
            optimizer.zero_grad()
            functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return model.eval()
