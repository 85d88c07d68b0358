"""The classifier's score against its closed forms."""

import math

import pytest
import torch

import batchwright as bw
from batchwright.core.errors import InputError


def test_sure_and_even_classes_score_their_number_and_one_class_scores_one():
    assert bw.gan.class_scores(torch.eye(5)).score == 5.0
    assert bw.gan.class_scores(torch.full((7, 5), 0.2)).score == 1.0
    one = bw.gan.class_scores(torch.eye(5)[[2, 2, 2]])
    assert one.score == 1.0
    assert one.smallest_share == 0.0
    assert one.shares == (0.0, 0.0, 1.0, 0.0, 0.0)


def test_the_score_is_its_formula():
    rows = torch.softmax(torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), dim=1).double()
    mean = [sum(float(row[c]) for row in rows) / 6 for c in range(3)]
    divergence = sum(float(row[c]) * math.log(float(row[c]) / mean[c]) for row in rows for c in range(3)) / 6
    assert bw.gan.class_scores(rows).score == pytest.approx(math.exp(divergence))


def test_rows_that_are_no_probabilities_are_refused():
    with pytest.raises(InputError, match="rows that sum to one"):
        bw.gan.class_scores(torch.ones(3, 2))
