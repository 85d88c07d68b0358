"""The gradient that micro-batches add up to is the gradient of the mean loss, and bad losses are named."""

import random
from collections import namedtuple

import pytest
import torch
from torch import nn
from torch.nn import functional

from batchwright.core.errors import InputError, TaskError
from batchwright.core.objectives import accumulate_gradient, example_losses, mean_loss

Pair = namedtuple("Pair", ["inputs", "targets"])


def make_model(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def make_batch(size: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 5, generator=generator).double(), torch.randint(3, (size,), generator=generator)


def loss(model: nn.Module, batch) -> torch.Tensor:
    inputs, targets = batch
    return functional.cross_entropy(model(inputs), targets, reduction="none")


def grads_of_mean(model: nn.Module, batch) -> list[torch.Tensor]:
    inputs, targets = batch
    return list(torch.autograd.grad(functional.cross_entropy(model(inputs), targets), list(model.parameters())))


def random_splits() -> list[tuple[int, int]]:
    """Forty pairs of batch and micro-batch size; in most of them the last micro-batch is short."""
    rng = random.Random(0)
    return [(size, rng.randint(1, size + 2)) for size in (rng.randint(1, 60) for _ in range(40))]


@pytest.mark.parametrize(("size", "micro_batch_size"), random_splits())
def test_accumulated_gradient_is_the_gradient_of_the_mean_loss(size, micro_batch_size):
    model, batch, seen = make_model(size), make_batch(size, size), []
    found = accumulate_gradient(model, loss, batch, micro_batch_size=micro_batch_size, after_micro_batch=seen.append)
    for parameter, expected in zip(model.parameters(), grads_of_mean(model, batch), strict=True):
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(found, loss(model, batch).mean().detach(), rtol=1e-12, atol=0)
    assert seen == [len(part) for part in batch[1].split(micro_batch_size)]


def test_the_splits_of_this_test_have_short_last_micro_batches():
    assert sum(size % micro > 0 and size > micro for size, micro in random_splits()) > 20


def test_gradient_is_added_to_what_is_there():
    model, batch = make_model(), make_batch(10)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    accumulate_gradient(model, loss, batch, micro_batch_size=4)
    for parameter, expected in zip(model.parameters(), grads_of_mean(model, batch), strict=True):
        torch.testing.assert_close(parameter.grad, 1 + expected)


def test_the_whole_batch_is_one_forward_pass_when_the_micro_batch_is_left_out():
    seen: list[int] = []
    found = accumulate_gradient(make_model(), loss, make_batch(9), after_micro_batch=seen.append)
    assert seen == [9]
    assert not found.requires_grad


@pytest.mark.parametrize(
    ("batch", "unpack"),
    [
        (make_batch(11), lambda batch: batch),
        (list(make_batch(11)), lambda batch: batch),
        (Pair(*make_batch(11)), lambda batch: (batch.inputs, batch.targets)),
        (dict(zip(("x", "y"), make_batch(11), strict=True)), lambda batch: (batch["x"], batch["y"])),
        ({"pair": make_batch(11), "id": torch.arange(11)}, lambda batch: batch["pair"]),
    ],
    ids=["tuple", "list", "namedtuple", "dict", "nested"],
)
def test_every_form_of_batch_gives_the_same_gradient(batch, unpack):
    model = make_model()
    accumulate_gradient(model, lambda model, batch: loss(model, unpack(batch)), batch, micro_batch_size=4)
    for parameter, expected in zip(model.parameters(), grads_of_mean(model, make_batch(11)), strict=True):
        torch.testing.assert_close(parameter.grad, expected)


@pytest.mark.parametrize(
    ("bad", "got"),
    [
        (lambda losses: losses.mean(), r"got shape \(\) of float64; use reduction='none'"),
        (lambda losses: losses[:, None], r"got shape \(6, 1\) of float64"),
        (lambda losses: losses[:-1], r"got shape \(5,\) of float64"),
        (lambda losses: (losses > 0).long(), r"got shape \(6,\) of int64"),
        (lambda losses: losses > 0, r"got shape \(6,\) of bool"),
    ],
)
def test_a_loss_that_is_not_one_number_an_example_raises(bad, got):
    rule = r"loss must return one floating-point loss an example, shape \(6,\), " + got
    with pytest.raises(TaskError, match=rule):
        example_losses(make_model(), lambda model, batch: bad(loss(model, batch)), make_batch(6))
    with pytest.raises(TaskError, match=r"one floating-point loss an example, shape \(6,\)"):
        accumulate_gradient(make_model(), lambda model, batch: bad(loss(model, batch)), make_batch(6))


@pytest.mark.parametrize(("value", "kind"), [(0.5, "float"), ([0.5] * 6, "list"), (None, "NoneType")])
def test_a_loss_that_is_no_tensor_raises(value, kind):
    with pytest.raises(TaskError, match=rf"loss must return a tensor of shape \(6,\), .*, got {kind}"):
        example_losses(make_model(), lambda model, batch: value, make_batch(6))


def test_an_empty_batch_raises():
    with pytest.raises(InputError, match="batch must hold at least one example, got none"):
        accumulate_gradient(make_model(), loss, make_batch(0))


@pytest.mark.parametrize("size", [0, -2])
def test_a_micro_batch_size_below_one_raises(size):
    with pytest.raises(InputError, match=f"micro_batch_size must be an integer of at least 1, got {size}"):
        accumulate_gradient(make_model(), loss, make_batch(4), micro_batch_size=size)


def test_mean_loss_weighs_examples_and_not_batches():
    model, batch = make_model(), make_batch(23)
    parts = list(zip(*(tensor.split([20, 1, 2]) for tensor in batch), strict=True))
    assert mean_loss(model, loss, parts) == pytest.approx(float(loss(model, batch).detach().mean()), rel=1e-12)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_parts_of_a_larger_batch_add_up_to_its_gradient_and_empty_passes_count_nothing():
    torch.manual_seed(0)
    model, batch = nn.Linear(3, 1), (torch.randn(7, 3), torch.randn(7))

    def loss(model, batch):
        return (model(batch[0]).squeeze(1) - batch[1]).square()

    accumulate_gradient(model, loss, batch)
    wanted = model.weight.grad.clone()
    model.zero_grad()
    seen: list = []
    for start, stop, sizes in ((0, 4, [2, 2, 0]), (4, 7, [2, 1, 0])):
        part = tuple(tensor[start:stop] for tensor in batch)
        accumulate_gradient(
            model, loss, part, sizes=sizes, denominator=7, before_micro_batch=seen.append, after_micro_batch=seen.append
        )
    accumulate_gradient(model, loss, tuple(tensor[:1] for tensor in batch), sizes=[0], denominator=7)
    assert torch.allclose(model.weight.grad, wanted, rtol=1e-6)
    assert seen == [False, 2, False, 2, True, 0, False, 2, False, 1, True, 0]
