"""Traces against dense matrices, and the coverage of their intervals."""

import math

import pytest
import torch
from torch import nn

from batchwright.core.errors import InputError
from batchwright.measure.curvature import GgnOperator, HessianOperator, hessian_trace, operator_trace

METHODS = ("hutch++", "hutchinson")


def rotated(values):
    """A model of one vector of parameters whose Hessian has these eigenvalues, along random directions."""
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64))[0]
    matrix = turn @ torch.diag(values.double()) @ turn.T

    def loss(model, batch):
        return (0.5 * model.weight[0] @ matrix @ model.weight[0]).expand(len(batch))

    return nn.Linear(len(values), 1, bias=False).double(), loss, torch.ones(1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_the_trace_is_that_of_the_dense_hessian(method, name, make_case, dense):
    case = make_case(name)
    expected = float(dense(case.model, case.loss, [case.batch]).trace())
    found = hessian_trace(case.model, case.loss, case.batch, method=method, tol=0.1, max_hvps=60)
    assert abs(found.value - expected) < 4 * found.standard_error
    assert found.standard_error < 0.25 * expected
    assert found.converged == (found.standard_error <= 0.1 * abs(found.value))
    assert found.low <= found.value <= found.high


@pytest.mark.parametrize("method", METHODS)
def test_the_interval_covers_and_the_estimate_is_unbiased(method):
    values = torch.cat([torch.tensor([30.0, 10.0, -5.0]), torch.linspace(-1, 3, 30)])
    operator = HessianOperator(*rotated(values))
    generator = torch.Generator().manual_seed(0)
    options = {"method": method, "tol": 1e-9, "max_products": 18, "generator": generator}
    with operator.held():
        found = [operator_trace(operator, **options) for _ in range(100)]
    expected = float(values.double().sum())
    spread = torch.tensor([each.value for each in found])
    assert abs(float(spread.mean()) - expected) < 4 * float(spread.std()) / len(found) ** 0.5
    covered = sum(each.low <= expected <= each.high for each in found)
    assert abs(covered - 0.95 * 100) < 4 * (100 * 0.95 * 0.05) ** 0.5


def test_hutch_plus_plus_scatters_less_where_few_eigenvalues_stand_out():
    model, loss, batch = rotated(torch.cat([torch.tensor([100.0, 60.0, 30.0]), torch.linspace(0, 0.1, 300)]))
    errors = {
        method: hessian_trace(model, loss, batch, method=method, tol=1e-9, max_hvps=30).standard_error
        for method in METHODS
    }
    assert errors["hutch++"] < 0.05 * errors["hutchinson"]


def test_a_subspace_that_holds_everything_gives_the_exact_trace():
    found = hessian_trace(*rotated(torch.tensor([3.0, 2.0, 1.0])))
    assert found.value == pytest.approx(6.0)
    assert found.standard_error == pytest.approx(0.0, abs=1e-12)
    assert found.converged


def test_a_matrix_of_zeros_has_no_trace():
    found = hessian_trace(*rotated(torch.zeros(4)))
    assert (found.value, found.standard_error, found.converged) == (0.0, 0.0, True)


def test_the_trace_of_another_matrix(make_case):
    case = make_case("mlp")
    operator = GgnOperator(case.model, case.loss, case.batch)
    with operator.held():
        rows = torch.eye(operator.dim, dtype=torch.float64)
        expected = sum(float(row @ operator.matvec(row)) for row in rows)
        found = operator_trace(operator, tol=0.03, max_products=100)
    assert abs(found.value - expected) < 4 * found.standard_error


@pytest.mark.parametrize("method", METHODS)
def test_the_standard_error_stops_where_it_was_asked_to(method):
    found = hessian_trace(*rotated(torch.linspace(0.5, 2, 40)), method=method, tol=0.02)
    assert found.converged
    assert found.standard_error <= 0.02 * found.value
    assert found.num_products < 100
    assert abs(found.value - 50) < 4 * found.standard_error


def test_too_few_products_say_so(make_case):
    case = make_case("mlp")
    found = hessian_trace(case.model, case.loss, case.batch, tol=1e-6, max_hvps=9)
    assert not found.converged
    assert found.num_products == 9
    assert math.isfinite(found.high)


def test_wrong_arguments_are_named(make_case):
    case = make_case("mlp")
    with pytest.raises(InputError, match="method must be one of hutch"):
        hessian_trace(case.model, case.loss, case.batch, method="exact")
    with pytest.raises(InputError, match="max_products must be an integer of at least 6, got 3"):
        hessian_trace(case.model, case.loss, case.batch, max_hvps=3)
