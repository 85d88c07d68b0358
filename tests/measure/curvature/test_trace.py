"""Traces against dense matrices, and the coverage of their intervals."""

import math

import pytest
import torch

from batchwright.core.errors import InputError
from batchwright.measure.curvature import GgnOperator, HessianOperator, hessian_trace, operator_trace


@pytest.mark.parametrize("method", ["hutch++", "hutchinson"])
@pytest.mark.parametrize("name", ["mlp", "cnn", "gpt"])
def test_the_trace_is_that_of_the_dense_hessian(method, name, make_case, dense):
    case = make_case(name)
    expected = float(dense(case.model, case.loss, [case.batch]).trace())
    found = hessian_trace(case.model, case.loss, case.batch, method=method, tol=0.02, max_hvps=400)
    assert found.converged
    assert abs(found.value - expected) < 4 * found.standard_error + 1e-9 * abs(expected)
    assert found.standard_error <= 0.02 * abs(found.value)
    assert found.low <= found.value <= found.high


@pytest.mark.parametrize("method", ["hutch++", "hutchinson"])
def test_the_interval_covers_and_the_estimate_is_unbiased(method, make_case, dense):
    case = make_case("mlp")
    expected = float(dense(case.model, case.loss, [case.batch]).trace())
    operator = HessianOperator(case.model, case.loss, case.batch)
    generator = torch.Generator().manual_seed(0)
    values, covered = [], 0
    with operator.held():
        for _ in range(150):
            found = operator_trace(operator, method=method, tol=1e-9, max_products=21, generator=generator)
            values.append(found.value)
            covered += found.low <= expected <= found.high
    spread = torch.tensor(values)
    assert abs(float(spread.mean()) - expected) < 4 * float(spread.std()) / len(values) ** 0.5
    assert covered >= 0.95 * 150 - 4 * (150 * 0.95 * 0.05) ** 0.5


def test_hutch_plus_plus_scatters_less_where_few_eigenvalues_stand_out(quadratic):
    torch.manual_seed(0)
    values = torch.cat([torch.tensor([100.0, 60.0, 30.0]), torch.linspace(0, 0.1, 300)]).double()
    turn = torch.linalg.qr(torch.randn(303, 303).double())[0]
    matrix = turn @ torch.diag(values) @ turn.T
    model = torch.nn.Linear(303, 1, bias=False).double()

    def loss(model, batch):
        weight = model.weight[0]
        return (0.5 * weight @ matrix @ weight).expand(len(batch))

    errors = {
        method: hessian_trace(model, loss, torch.ones(1), method=method, tol=1e-9, max_hvps=30).standard_error
        for method in ("hutch++", "hutchinson")
    }
    assert errors["hutch++"] < 0.05 * errors["hutchinson"]


def test_a_subspace_that_holds_everything_gives_the_exact_trace(quadratic):
    case = quadratic(torch.tensor([3.0, 2.0, 1.0]).double())
    found = hessian_trace(case.model, case.loss, case.batch)
    assert found.value == pytest.approx(6.0)
    assert found.standard_error == pytest.approx(0.0, abs=1e-12)
    assert found.converged


def test_a_matrix_of_zeros_has_no_trace(quadratic):
    case = quadratic(torch.zeros(4).double())
    found = hessian_trace(case.model, case.loss, case.batch)
    assert (found.value, found.standard_error, found.converged) == (0.0, 0.0, True)


def test_the_trace_of_another_matrix(make_case):
    case = make_case("mlp")
    operator = GgnOperator(case.model, case.loss, case.batch)
    rows = torch.eye(operator.dim, dtype=torch.float64)
    expected = sum(float(row @ operator.matvec(row)) for row in rows)
    found = operator_trace(operator, tol=0.01, max_products=300)
    assert abs(found.value - expected) < 4 * found.standard_error


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
