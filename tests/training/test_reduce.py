"""Buckets hold every gradient, whatever its kind and layout, and bring back what the reduction made of it."""

import pytest
import torch
from torch import nn

from batchwright.training.reduce import GradientBuckets, copy_from_first


class Twice:
    """In place of a mean over ranks: doubles a bucket, and counts."""

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def __call__(self, bucket):
        self.lengths.append(bucket.buffer().numel())
        bucket.buffer().mul_(2.0)
        future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future


def parameters() -> list[nn.Parameter]:
    shapes = [(3, 4), (5,), (2, 3, 4, 4), (7,), ()]
    kinds = [torch.float32, torch.float64, torch.float32, torch.float32, torch.float64]
    found = [nn.Parameter(torch.randn(shape, dtype=kind)) for shape, kind in zip(shapes, kinds, strict=True)]
    for each in found:
        each.grad = torch.randn_like(each)
    found[2].grad = found[2].grad.to(memory_format=torch.channels_last)
    return found


@pytest.mark.parametrize(("bucket_bytes", "lengths"), [(2**20, [115, 6]), (80, [12, 96, 7, 6]), (1, [12, 96, 7, 5, 1])])
def test_every_gradient_comes_back_reduced(bucket_bytes, lengths):
    found = parameters()
    before = [each.grad.clone() for each in found]
    twice, grads = Twice(), [each.grad for each in found]
    GradientBuckets(found, bucket_bytes).reduce(twice)
    assert twice.lengths == lengths
    for each, grad, value in zip(found, grads, before, strict=True):
        assert each.grad is grad  # the same tensor, in its layout
        assert torch.equal(each.grad, 2 * value)
    assert found[2].grad.is_contiguous(memory_format=torch.channels_last)


def test_a_gradient_that_no_rank_has_stays_away_and_one_that_others_have_appears():
    found = parameters()
    found[0].grad = found[3].grad = None
    buckets = GradientBuckets(found)
    buckets.reduce(Twice(), [True, True, True, False, True])
    assert torch.equal(found[0].grad, torch.zeros(3, 4))  # twice nothing: no other rank is here
    assert found[3].grad is None
    buckets.reduce(Twice())
    assert torch.equal(found[3].grad, torch.zeros(7))


def test_any_kind_of_tensor_is_copied_from_the_first_rank_to_the_last_bit():
    kinds = [torch.tensor(7), torch.tensor([True, False]), torch.randn(3, 2).t(), torch.randn(5, dtype=torch.float16)]
    kinds += [torch.tensor([float("nan"), -0.0], dtype=torch.float64), torch.zeros(0)]
    messages = []
    copy_from_first(kinds, lambda message: messages.append(message.clone()))
    others = [torch.zeros_like(each) for each in kinds]
    copy_from_first(others, lambda message: message.copy_(messages[0]))
    for mine, theirs in zip(kinds, others, strict=True):
        assert torch.equal(
            mine.contiguous().reshape(-1).view(torch.uint8), theirs.contiguous().reshape(-1).view(torch.uint8)
        )
