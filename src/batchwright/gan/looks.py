"""What a trainer looks at now and then on a sample of its own: whether learning rates fall, and whether the generator collapsed."""

from typing import Any

import torch
from torch import Tensor

from batchwright.gan.collapse import BestSample, missing_classes
from batchwright.gan.kid import Extractor, extract
from batchwright.gan.lr_rule import LrTest, RelativeLr
from batchwright.gan.options import GanOptions

# Apart from the trainer's own generator, so that a look changes nothing in the run.
SEED = 777_000


class Looks:
    """Looks at samples by a fixed set of real points.

    Args:
        data: Real points.
        options: Of the trainer.
        extractor: Maps points to features ``(B, h)``; the points themselves where left out.
        classifier: Maps points to scores of classes ``(B, C)``; classes are not looked at where left out.
    """

    def __init__(
        self, data: Tensor, options: GanOptions, extractor: Extractor | None, classifier: Extractor | None
    ) -> None:
        self._extractor, self._classifier = extractor, classifier
        self.num = min(options.lr_test_points, len(data))
        chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(SEED))[: self.num]
        real = data[chosen.to(data.device)]
        reference = self.features(real)
        self.lr = RelativeLr(reference, window=options.lr_test_window, patience=options.lr_test_patience)
        self.best = BestSample(reference)
        self.shares: list[float] | None = None
        if classifier is not None:
            scores = extract(real, classifier)
            self.shares = (torch.bincount(scores.argmax(dim=1), minlength=scores.shape[1]).double() / self.num).tolist()

    def features(self, points: Tensor) -> Tensor:
        """Features of points, ``(N, h)``."""
        return points.flatten(1) if self._extractor is None else extract(points, self._extractor)

    def lr_test(self, step: int, sample: Tensor) -> LrTest:
        """One look for the learning rates."""
        return self.lr.look(step, self.features(sample))

    def collapse(self, step: int, sample: Tensor) -> list[str]:
        """One look for a collapse: a sentence for each sign of one."""
        found = [] if self.shares is None or self._classifier is None else self._missing(sample)
        worse = self.best.look(step, self.features(sample))
        return [*found, worse] if worse else found

    def _missing(self, sample: Tensor) -> list[str]:
        assert self._classifier is not None
        assert self.shares is not None
        return missing_classes(extract(sample, self._classifier).argmax(dim=1).cpu(), self.shares)

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"lr": self.lr.state(), "best": self.best.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.lr.restore(state["lr"])
        self.best.restore(state["best"])
