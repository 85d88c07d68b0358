"""Who scores samples: a small classifier trained on the data's own classes, or pixels where there are none.

Its scores compare only under the same classifier, and are named so: a *classifier's* inception score, and KID on *its* features.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from batchwright.core.records import output_errors
from batchwright.core.statistics import Interval, mean_interval
from batchwright.gan.collapse import share_interval
from batchwright.gan.kid import extract, kid
from batchwright.gan.scores import class_scores
from batchwright.gan.sources import ImageSet

NAME = "judge.safetensors"
NUM_PARTS = 10
PIXELS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Scores of a sample.

    Attributes:
        kid: Kernel inception distance to the images kept apart, on the judge's features, with its interval.
        score: The classifier's inception score: mean over ten parts of the sample with its Student interval; None without classes.
        shares: Share of each class; empty without classes.
        smallest_share: Of the rarest class with its exact interval; None without classes.
        num_samples: Generated images.
    """

    kid: Interval
    score: Interval | None
    shares: tuple[float, ...]
    smallest_share: Interval | None
    num_samples: int


class Judge:
    """Scores samples of one data set; get it by `train_judge` or `load_judge`.

    Attributes:
        network: The classifier; None where the data has no classes.
        accuracy: Of the classifier on images kept apart; NaN without.
        real_score: Its inception score of those images; NaN without.
    """

    def __init__(self, images: ImageSet, network: nn.Sequential | None) -> None:
        self.network, self._test = network, images.test[:2000]
        self.accuracy, self.real_score = float("nan"), float("nan")
        self._features = extract(self._test, self.features)
        if network is not None and images.test_labels is not None:
            scores = extract(images.test[:10_000], network)
            labels = images.test_labels[:10_000].to(scores.device)
            self.accuracy = float((scores.argmax(dim=1) == labels).float().mean())
            self.real_score = class_scores(scores.softmax(dim=1)).score

    def features(self, points: Tensor) -> Tensor:
        """The last hidden layer of the classifier; without one, pixels averaged to at most 8 x 8."""
        if self.network is None:
            small = nn.functional.adaptive_avg_pool2d(points, min(PIXELS, points.shape[-1]))
            return small.flatten(1)
        return extract(points, self.network[:-1])

    @torch.no_grad()
    def verdict(self, sample: Tensor) -> Verdict:
        """Score generated images, at least 40."""
        distance = kid(self._features, extract(sample, self.features), num_subsets=None)
        score, smallest = None, None
        shares: tuple[float, ...] = ()
        if self.network is not None:
            probabilities = extract(sample, self.network).softmax(dim=1)
            parts = [class_scores(part).score for part in probabilities.chunk(NUM_PARTS)]
            score, shares = mean_interval(parts), class_scores(probabilities).shares
            count = round(min(shares) * len(sample))
            low, high = share_interval(count, len(sample))
            smallest = Interval(value=min(shares), low=low, high=high)
        return Verdict(
            kid=Interval(value=distance.value, low=distance.low, high=distance.high),
            score=score,
            shares=shares,
            smallest_share=smallest,
            num_samples=len(sample),
        )


def judge_network(image_size: int, num_channels: int, num_classes: int) -> nn.Sequential:
    """Two convolutions with pooling, then 128 features and the classes; a perceptron with 128 features for 8 x 8."""
    if image_size <= 8:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(num_channels * image_size**2, 128), nn.ReLU(), nn.Linear(128, num_classes)
        )
    side = (image_size // 2 if image_size < 64 else image_size // 4) // 2
    return nn.Sequential(
        nn.Conv2d(num_channels, 16, 5, stride=2 if image_size < 64 else 4, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * side * side, 128),
        nn.ReLU(),
        nn.Linear(128, num_classes),
    )


def train_judge(images: ImageSet, *, seed: int = 0, num_examples: int = 120_000, batch_size: int = 128) -> Judge:
    """Train the classifier by Adam on so many examples; the global random generators are left as they were.

    Args:
        images: Where they have no classes, the judge sees pixels and there is nothing to train.
        seed: Of initial values and order, apart from that of the run.
        num_examples: At least 20 passes over a small set are made within it.
        batch_size: Of its training.
    """
    labels = images.train_labels
    if labels is None:
        return Judge(images, None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = judge_network(images.image_size, images.num_channels, images.num_classes).to(images.train.device)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, weight_decay=1e-4)
        done = 0
        while done < num_examples:
            for chosen in torch.randperm(len(labels)).split(batch_size):
                if done >= num_examples:
                    break
                optimizer.zero_grad()
                where = chosen.to(images.train.device)
                target = labels.to(images.train.device)[where]
                nn.functional.cross_entropy(network(images.train[where]), target).backward()
                optimizer.step()
                done += len(chosen)
    network.requires_grad_(False)
    return Judge(images, network.eval())


def save_judge(judge: Judge, folder: Path) -> None:
    """Keep the classifier beside a run, so that a resumed run is scored by the same one."""
    if judge.network is not None:
        with output_errors(folder):
            save_file(judge.network.state_dict(), folder / NAME)


def load_judge(images: ImageSet, folder: Path) -> Judge | None:
    """The classifier of a run; None where there is none."""
    if images.train_labels is None or not (folder / NAME).is_file():
        return None
    network = judge_network(images.image_size, images.num_channels, images.num_classes)
    network.load_state_dict(load_file(folder / NAME))
    network.requires_grad_(False)
    return Judge(images, network.to(images.train.device).eval())


def plain(verdict: Verdict) -> dict[str, Any]:
    """For a record."""
    return {field.name: getattr(verdict, field.name) for field in fields(verdict)}
