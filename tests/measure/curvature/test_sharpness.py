"""Sharpness against dense eigenvalues, and what it says of its own error."""

import math

import pytest
import torch
from torch import nn

from batchwright.core.errors import InputError
from batchwright.measure.curvature import HessianOperator, sharpness


@pytest.mark.parametrize("name", ["mlp", "cnn", "gpt"])
def test_sharpness_is_the_largest_eigenvalue_of_the_dense_hessian(name, make_case, dense):
    case = make_case(name)
    value = float(torch.linalg.eigvalsh(dense(case.model, case.loss, [case.batch]))[-1])
    found = sharpness(case.model, case.loss, case.batch, tol=1e-3)
    assert found.converged
    assert found.value == pytest.approx(value, rel=1e-3)
    assert found.high >= value * (1 - 1e-9)


def test_sharpness_of_a_resnet_is_that_of_another_packages_search(make_case, by_arpack):
    case = make_case("resnet")
    norms = [module for module in case.model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert not any(module.training for module in norms)
    value = by_arpack(case.model, case.loss, case.batch)
    found = sharpness(case.model, case.loss, case.batch, tol=1e-3)
    assert found.converged
    assert found.value == pytest.approx(value, rel=1e-3)
    assert found.high >= value


def test_the_other_packages_search_agrees_with_the_dense_hessian(make_case, dense, by_arpack):
    case = make_case("cnn")
    value = float(torch.linalg.eigvalsh(dense(case.model, case.loss, [case.batch]))[-1])
    assert by_arpack(case.model, case.loss, case.batch) == pytest.approx(value, rel=1e-7)


def trained(case, num_steps=40):
    """The case after steps on its batch, in the mode that it is in: BatchNorm stays frozen."""
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.05)
    for _ in range(num_steps):
        optimizer.zero_grad()
        case.loss(case.model, case.batch).mean().backward()
        optimizer.step()
    return case


@pytest.mark.parametrize("is_trained", [False, True], ids=["at_first", "trained"])
@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet", "gpt"])
def test_searches_with_a_random_restart_do_not_miss_the_largest_eigenvalue(name, is_trained, make_case, by_arpack):
    case = make_case(name)
    if is_trained:
        trained(case)
    value = by_arpack(case.model, case.loss, case.batch)
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        found = sharpness(case.model, case.loss, case.batch, tol=1e-3, num_checks=1, generator=generator)
        assert found.converged
        assert found.value == pytest.approx(value, rel=1e-3)


def test_a_start_with_little_of_the_top_eigenvector_misses_it_and_high_says_so(make_case, dense):
    case = make_case("cnn")
    values = torch.linalg.eigvalsh(dense(case.model, case.loss, [case.batch]))
    unlucky = sharpness(case.model, case.loss, case.batch, tol=1e-3, high_tol=math.inf)
    assert unlucky.value == pytest.approx(float(values[-2]), rel=1e-3)  # the second, 16 % below the largest
    assert unlucky.high > float(values[-1])
    checked = sharpness(case.model, case.loss, case.batch, tol=1e-3, high_tol=math.inf, num_checks=1)
    assert checked.value == pytest.approx(float(values[-1]), rel=1e-3)
    assert checked.check_values[0] == checked.value
    longer = sharpness(case.model, case.loss, case.batch, tol=1e-3)
    assert longer.value == pytest.approx(float(values[-1]), rel=1e-3)


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet", "gpt"])
def test_checks_are_searches_of_their_own_and_the_largest_value_of_all_is_returned(name, make_case):
    case = make_case(name, torch.float32)
    alone = sharpness(case.model, case.loss, case.batch, tol=1e-3)
    found = sharpness(case.model, case.loss, case.batch, tol=1e-3, num_checks=3)
    assert len(found.check_values) == 3
    assert found.value == max(alone.value, *found.check_values)
    # One check of the ResNet is the start in twenty that ``high`` leaves out: it ends at the second eigenvalue, 12 % below.
    near = [value for value in found.check_values if value == pytest.approx(found.value, rel=1e-3)]
    assert len(near) >= 2
    # The limit of that check lies below the value; the least of all limits would make certainty of it.
    assert found.high > found.value
    assert found.num_hvps > 3 * alone.num_hvps / 2


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet", "gpt"])
def test_no_search_from_nothing_misses_the_largest_eigenvalue(name, make_case, by_arpack):
    case = make_case(name)
    value = by_arpack(case.model, case.loss, case.batch)
    for seed in range(12):
        found = sharpness(case.model, case.loss, case.batch, tol=1e-3, generator=torch.Generator().manual_seed(seed))
        assert found.converged
        assert found.value == pytest.approx(value, rel=5e-3)
        assert value * (1 - 1e-9) <= found.high <= 1.1 * found.value * (1 + 1e-9)


@pytest.mark.parametrize("name", ["mlp", "cnn", "gpt"])
def test_the_residual_is_that_of_the_returned_vector(name, make_case):
    case = make_case(name, torch.float32)
    found = sharpness(case.model, case.loss, case.batch, max_hvps=4)
    product = HessianOperator(case.model, case.loss, case.batch).matvec(found.vector)
    residual = torch.linalg.vector_norm(product - found.value * found.vector) / found.value
    assert found.residual == pytest.approx(float(residual), rel=1e-2, abs=1e-6)
    assert float(torch.linalg.vector_norm(found.vector)) == pytest.approx(1.0, abs=1e-5)
    assert float(found.vector @ product) == pytest.approx(found.value, rel=1e-4)


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet", "gpt"])
def test_a_warm_start_needs_fewer_products_for_the_same_value(name, make_case):
    case = make_case(name, torch.float32)
    cold = sharpness(case.model, case.loss, case.batch, tol=1e-3)
    optimizer = torch.optim.SGD(case.model.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        case.loss(case.model, case.batch).mean().backward()
        optimizer.step()
    warm = sharpness(case.model, case.loss, case.batch, tol=1e-3, start=cold.vector)
    again = sharpness(case.model, case.loss, case.batch, tol=1e-5)
    assert warm.converged
    assert warm.value == pytest.approx(again.value, rel=1e-3)
    assert warm.num_hvps < again.num_hvps


def test_a_warm_start_at_the_wrong_eigenvector_is_not_believed(quadratic):
    values = torch.cat([torch.tensor([10.0, 6.0]), torch.linspace(0, 1, 500)]).double()
    # The gradient has no part of the top eigenvector either.
    point = torch.cat([torch.zeros(1), torch.ones(501)]).double()
    case = quadratic(values, point)
    wrong = torch.zeros(502).double()
    wrong[1] = 1.0
    found = sharpness(case.model, case.loss, case.batch, start=wrong, high_tol=0.1)
    assert found.value == pytest.approx(10.0, rel=1e-2)
    short = sharpness(case.model, case.loss, case.batch, start=wrong)
    assert short.high > 10.0  # what the short search cannot exclude, it says


def test_a_gradient_that_misses_the_top_eigenvector_does_not_hide_it(quadratic):
    values = torch.cat([torch.tensor([3.0, 2.0]), torch.linspace(0, 1, 200)]).double()
    case = quadratic(values, torch.cat([torch.zeros(1), torch.ones(201)]).double())
    found = sharpness(case.model, case.loss, case.batch, high_tol=0.2)
    assert found.value == pytest.approx(3.0, rel=1e-2)


def test_the_largest_several_come_in_order(make_case, dense):
    case = make_case("mlp")
    expected = torch.linalg.eigvalsh(dense(case.model, case.loss, [case.batch])).flip(0)[:3]
    found = sharpness(case.model, case.loss, case.batch, num_eigenvalues=3, tol=1e-4)
    assert found.eigenvalues == pytest.approx(expected.tolist(), rel=1e-3)
    assert found.vectors.shape == (3, 92)
    assert torch.equal(found.vector, found.vectors[0])
    again = sharpness(case.model, case.loss, case.batch, num_eigenvalues=3, tol=1e-4, start=found.vectors)
    assert again.num_hvps < found.num_hvps


def test_the_largest_eigenvalue_may_be_negative_and_is_not_the_largest_in_size(quadratic):
    case = quadratic(torch.tensor([-1.0, -2.0, -30.0]).double())
    found = sharpness(case.model, case.loss, case.batch)
    assert found.value == pytest.approx(-1.0)
    assert found.converged


def test_batches_of_unequal_size_are_one_objective(make_case):
    case = make_case("mlp")
    batches = [tuple(leaf[a:b] for leaf in case.batch) for a, b in ((0, 11), (11, 20))]
    whole = sharpness(case.model, case.loss, case.batch, tol=1e-6)
    parts = sharpness(case.model, case.loss, iter(batches), tol=1e-6, micro_batch_size=4, graph_bytes=0)
    assert parts.value == pytest.approx(whole.value, rel=1e-6)
    assert parts.num_examples == whole.num_examples == 20


def test_a_search_that_was_cut_short_says_so(make_case):
    case = make_case("gpt", torch.float32)
    found = sharpness(case.model, case.loss, case.batch, tol=1e-6, max_hvps=2)
    assert not found.converged
    assert found.num_hvps == 2
    assert found.residual > 1e-4


def test_a_loss_that_is_not_finite_gives_nan():
    model = nn.Linear(2, 1)
    found = sharpness(model, lambda m, x: m(x).squeeze(1).square() * math.nan, torch.ones(3, 2), num_checks=1)
    assert math.isnan(found.value)
    assert not found.converged


def test_a_loss_without_curvature_has_sharpness_zero():
    found = sharpness(nn.Linear(2, 1), lambda m, x: m(x).squeeze(1), torch.randn(3, 2))
    assert (found.value, found.residual, found.converged) == (0.0, 0.0, True)


def test_global_generators_and_gradients_stay_as_they_were(make_case):
    case = make_case("mlp")
    state = torch.get_rng_state()
    first = sharpness(case.model, case.loss, case.batch)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in case.model.parameters())
    assert sharpness(case.model, case.loss, case.batch).value == first.value


def test_a_start_of_another_model_is_refused(make_case):
    case = make_case("mlp")
    with pytest.raises(
        InputError, match=r"start must hold flat vectors of the 92 trainable parameters, got shape \(5,\)"
    ):
        sharpness(case.model, case.loss, case.batch, start=torch.ones(5))
