"""Scores of generated images by a classifier of the data: the inception score's formula, and which classes appear.

Source: Salimans et al. (2016), arXiv:1606.03498, section 4. Deviation: the classifier is the caller's own, so scores
    compare only under one
classifier.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from batchwright.core.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassScores:
    """Scores of a generated sample.

    Attributes:
        score: ``exp(E KL(p(c | image) || p(c)))``, from 1 to the number of classes.
        shares: Share of the images that the classifier gives to each class.
    """

    score: float
    shares: tuple[float, ...]

    @property
    def smallest_share(self) -> float:
        """Share of the rarest class; 0 where a mode is missing."""
        return min(self.shares)


def class_scores(probabilities: Float[Tensor, "N C"]) -> ClassScores:
    """Score images by the class probabilities that a classifier gives them.

    Args:
        probabilities: One row an image, summing to one.

    Raises:
        InputError: If a row is no probability.

    Example:
        >>> class_scores(torch.eye(4)).score
        4.0
    """
    rows = probabilities.detach().double()
    if len(rows) == 0 or bool((rows < 0).any()) or bool(((rows.sum(dim=1) - 1).abs() > 1e-4).any()):
        raise InputError("probabilities must hold rows that sum to one, got others; apply softmax(dim=1)")
    mean = rows.mean(dim=0)
    divergence = torch.xlogy(rows, rows).sum(dim=1) - torch.xlogy(rows, mean).sum(dim=1)
    counts = torch.bincount(rows.argmax(dim=1), minlength=rows.shape[1]).double() / len(rows)
    return ClassScores(score=round(float(divergence.mean().exp()), 12), shares=tuple(counts.tolist()))
