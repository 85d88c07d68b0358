"""Lists of tensors as one vector agree with the concatenated vector."""

import pytest
import torch
from torch import nn

from batchwright.core.errors import TaskError
from batchwright.core.vectors import FlatCopy, dot, flatten, gradients, num_parameters, sq_norm, trainable


def tensors(seed: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(3, 4), (), (5,), (2, 1, 3), (1,)]
    found = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    return [*found, torch.randn(4, 6, generator=generator).to(dtype).T]  # not contiguous


def joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([part.reshape(-1) for part in parts]).double()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_sq_norm_and_dot_agree_with_the_concatenated_vectors(dtype):
    left, right = tensors(0, dtype), tensors(1, dtype)
    tolerance = 1e-2 if dtype is torch.bfloat16 else 1e-6
    assert sq_norm(left).dtype == dot(left, right).dtype == torch.float64
    torch.testing.assert_close(sq_norm(left), joined(left).square().sum(), rtol=tolerance, atol=0)
    torch.testing.assert_close(dot(left, right), joined(left) @ joined(right), rtol=tolerance, atol=10 * tolerance)


def test_sq_norm_sums_over_tensors_in_double_precision():
    parts = [torch.tensor([4096.0]), *[torch.tensor([0.5])] * 1000]  # 2**24 swallows 0.25 in single precision
    assert sq_norm(parts) == 2.0**24 + 250


def test_sq_norm_counts_an_empty_tensor_as_nothing():
    assert sq_norm([torch.zeros(0), torch.tensor([3.0, 4.0])]) == 25


def test_dot_refuses_lists_of_different_length():
    with pytest.raises(ValueError, match="zip"):
        dot([torch.ones(1)], [torch.ones(1), torch.ones(1)])


def test_flatten_copies_in_order_without_a_graph():
    parts = tensors(2)
    parts[0].requires_grad_()
    found = flatten(parts)
    assert torch.equal(found.double(), joined(parts).detach())
    assert not found.requires_grad
    found.zero_()
    assert parts[2].abs().sum() > 0


def test_gradients_are_zero_where_a_parameter_took_no_part():
    model = nn.ModuleList([nn.Linear(2, 1), nn.Linear(3, 2)])
    model[0](torch.ones(1, 2)).sum().backward()
    found = gradients(trainable(model))
    assert torch.equal(found[0], torch.ones(1, 2))
    assert torch.equal(flatten(found[2:]), torch.zeros(8))
    assert [part.shape for part in found] == [parameter.shape for parameter in model.parameters()]
    assert not any(part.requires_grad for part in found)
    assert model[1].weight.grad is None


def test_trainable_leaves_out_frozen_parameters_and_counts_tied_ones_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    model[1].weight = model[0].weight
    model[2].bias.requires_grad_(False)
    assert [id(parameter) for parameter in trainable(model)] == [
        id(parameter) for parameter in (model[0].weight, model[0].bias, model[1].bias, model[2].weight)
    ]
    assert num_parameters(model) == 16 + 4 + 4 + 8


def test_a_model_without_trainable_parameters_raises():
    for model in (nn.ReLU(), nn.Linear(2, 2).requires_grad_(False)):
        with pytest.raises(TaskError, match="model must have at least one parameter with requires_grad=True, got none"):
            trainable(model)


def test_large_tensors_lose_no_digits():
    large = torch.randn(3_000_001, generator=torch.Generator().manual_seed(0)) * 0.1
    other = large + 0.05
    exact = large.double().square().sum()
    assert abs(sq_norm([large]) - exact) / exact < 1e-6
    assert abs(dot([large], [other]) - large.double() @ other.double()) / exact < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_flat_copy_has_the_norm_of_the_tensors_it_copied(dtype):
    torch.manual_seed(0)
    shapes = [(3,), (), (0, 2), (70, 41), (8, 3, 5, 5), (300, 300), (6, 1, 1, 1)]
    first, second = ([torch.randn(shape).to(dtype) for shape in shapes] for _ in range(2))
    for tensors in (first, second):
        tensors[4] = tensors[4].to(memory_format=torch.channels_last)
        tensors[5] = tensors[5].t()

    def wanted(tensors):
        return float(sum(tensor.double().square().sum() for tensor in tensors))

    copy = FlatCopy(first)
    assert float(copy.sq_norm()) == pytest.approx(wanted(first), rel=1e-6)
    assert all(torch.equal(view, tensor) for view, tensor in zip(copy.views, first, strict=True))
    copy.subtract_(second)
    differences = [a - b for a, b in zip(first, second, strict=True)]
    assert float(copy.sq_norm()) == pytest.approx(wanted(differences), rel=1e-6)
    copy.copy_(second)
    assert float(copy.sq_norm()) == pytest.approx(wanted(second), rel=1e-6)
    assert all(torch.equal(view, tensor) for view, tensor in zip(copy.views, second, strict=True))


def test_a_flat_copy_holds_tensors_of_different_kinds_and_loses_no_digits():
    torch.manual_seed(0)
    tensors = [0.1 * torch.randn(3_000_000), torch.randn(50, dtype=torch.float64), torch.randn(7)]
    wanted = float(sum(tensor.double().square().sum() for tensor in tensors))
    copy = FlatCopy(tensors)
    assert float(copy.sq_norm()) == pytest.approx(wanted, rel=1e-6)
    assert sum(float(norms.double().square().sum()) for norms in copy.block_norms()) == pytest.approx(wanted, rel=1e-6)
    assert copy.holds(tensors)
    assert not copy.holds(tensors[:2])
    assert not copy.holds([*tensors[:2], tensors[2].double()])
    assert not copy.holds([*tensors[:2], tensors[2][:6]])
