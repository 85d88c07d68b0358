"""Outermost eigenpairs against diagonal matrices and dense eigenvalues."""

import math

import pytest
import torch

from batchwright.core.errors import InputError
from batchwright.measure.curvature import HessianOperator, extreme_eigenpairs
from batchwright.measure.curvature.lanczos import krylov
from batchwright.measure.curvature.lanczos_basis import LanczosBasis


def operator_of(case):
    return HessianOperator(case.model, case.loss, case.batch)


def random_start(operator, seed=0):
    return operator.random_vector(torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["mlp", "cnn", "gpt"])
def test_the_largest_and_smallest_are_those_of_the_dense_hessian(name, make_case, dense):
    case = make_case(name)
    expected = torch.linalg.eigvalsh(dense(case.model, case.loss, [case.batch])).flip(0)
    operator = operator_of(case)
    found = extreme_eigenpairs(
        operator, random_start(operator), num_largest=4, num_smallest=2, tol=1e-6, max_products=150
    )
    assert found.converged
    torch.testing.assert_close(
        torch.tensor(found.values, dtype=torch.float64), torch.cat([expected[:4], expected[-2:]]), rtol=1e-5, atol=1e-8
    )
    gram = found.vectors @ found.vectors.T
    torch.testing.assert_close(gram, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-8)
    for value, vector, residual in zip(found.values, found.vectors, found.residuals, strict=True):
        true = float(torch.linalg.vector_norm(operator.matvec(vector) - value * vector))
        assert residual == pytest.approx(true, abs=1e-10)


@pytest.mark.parametrize("max_basis", [8, 16])
def test_restarts_reach_the_same_values_with_a_small_basis(max_basis, quadratic):
    values = torch.cat([torch.tensor([10.0, 9.5, -4.0]), torch.linspace(-1, 8, 400)]).double()
    operator = operator_of(quadratic(values))
    found = extreme_eigenpairs(
        operator, random_start(operator), num_largest=2, num_smallest=1, tol=1e-6, max_products=400, max_basis=max_basis
    )
    assert found.converged
    assert found.values == pytest.approx((10.0, 9.5, -4.0), rel=1e-6)
    assert found.num_products > max_basis


def test_multiple_eigenvalues_are_found_as_often_as_they_are_there(quadratic):
    values = torch.tensor([5.0, 5.0, 5.0, 1.0, 0.0, 0.0, -2.0, -2.0]).double()
    operator = operator_of(quadratic(values))
    found = extreme_eigenpairs(operator, random_start(operator), num_largest=4, num_smallest=2)
    assert found.values == pytest.approx((5.0, 5.0, 5.0, 1.0, -2.0, -2.0))
    assert found.converged


def test_a_matrix_of_zeros_has_the_value_zero(quadratic):
    operator = operator_of(quadratic(torch.zeros(5).double()))
    found = extreme_eigenpairs(operator, random_start(operator))
    assert (found.values, found.converged, found.num_products) == ((0.0,), True, 1)


def test_all_eigenvalues_of_a_small_matrix_are_exact(quadratic):
    values = torch.tensor([3.0, 2.0, -1.0]).double()
    operator = operator_of(quadratic(values))
    found = extreme_eigenpairs(operator, random_start(operator), num_largest=2, num_smallest=1)
    assert found.values == pytest.approx((3.0, 2.0, -1.0))
    assert found.converged
    assert found.high == pytest.approx(3.0)  # the basis is the whole space


def test_too_few_products_say_so(quadratic):
    values = torch.linspace(0, 1, 300).double()
    operator = operator_of(quadratic(values))
    found = extreme_eigenpairs(operator, random_start(operator), tol=1e-6, max_products=5, random_length=1.0)
    assert not found.converged
    assert found.num_products == 5
    assert found.values[0] + found.residuals[0] > 0.9
    assert found.high > 1.0


def test_the_upper_limit_holds_at_least_as_often_as_it_says(quadratic):
    values = torch.cat([torch.tensor([2.0]), torch.linspace(0, 1, 200)]).double()
    operator = operator_of(quadratic(values))
    generator = torch.Generator().manual_seed(0)
    with operator.held():
        found = [
            extreme_eigenpairs(
                operator, operator.random_vector(generator), tol=1e-12, max_products=3, random_length=1.0, level=0.8
            ).high
            for _ in range(200)
        ]
    assert sum(high >= 2.0 for high in found) >= 160 - 4 * (200 * 0.8 * 0.2) ** 0.5
    assert sum(found) / len(found) < 8.0  # and says something


def test_the_upper_limit_is_where_the_lanczos_polynomial_meets_the_part_of_the_start(quadratic):
    # The waiting vector is p(A) v, so its share of an eigenvector over the start's is p at that eigenvalue.
    values = torch.cat([torch.tensor([2.0]), torch.linspace(0, 1, 60)]).double()
    operator = operator_of(quadratic(values))
    start = random_start(operator)
    basis = LanczosBasis(operator, start, 10)
    for _ in range(3):
        basis.extend()
    of_start = start[0] / torch.linalg.vector_norm(start)
    of_waiting = basis._rows[3][0]
    assert basis.upper_limit(float(abs(of_start / of_waiting))) == pytest.approx(2.0, rel=1e-6)


def test_the_upper_limit_can_be_asked_for(quadratic):
    values = torch.cat([torch.tensor([2.0, 1.9]), torch.linspace(0, 1, 200)]).double()
    operator = operator_of(quadratic(values))
    start = random_start(operator)
    short = extreme_eigenpairs(operator, start, tol=0.05, random_length=1.0)
    long = extreme_eigenpairs(operator, start, tol=0.05, random_length=1.0, high_tol=0.01)
    assert long.num_products > short.num_products
    assert 2.0 <= long.high <= 2.02
    assert extreme_eigenpairs(operator, start, tol=0.05).high == math.inf


def test_a_start_inside_an_invariant_subspace_is_seen_by_its_limit(quadratic):
    values = torch.tensor([4.0, 1.0, 0.5]).double()
    operator = operator_of(quadratic(values))
    blind = extreme_eigenpairs(operator, torch.tensor([0.0, 1.0, 1.0]).double())
    assert blind.values[0] == pytest.approx(1.0)
    assert blind.high == math.inf


def test_a_product_that_is_not_finite_gives_nan_and_not_converged(quadratic):
    operator = operator_of(quadratic(torch.tensor([1.0, math.nan]).double()))
    found = extreme_eigenpairs(operator, random_start(operator))
    assert math.isnan(found.values[0])
    assert not found.converged


def test_wrong_arguments_are_named(quadratic):
    operator = operator_of(quadratic(torch.ones(3).double()))
    start = random_start(operator)
    with pytest.raises(
        InputError, match="num_largest \\+ num_smallest must be between 1 and the 3 parameters, got 3 \\+ 1"
    ):
        extreme_eigenpairs(operator, start, num_largest=3, num_smallest=1)
    with pytest.raises(InputError, match="start must be a finite vector of 3 numbers, not all zero"):
        extreme_eigenpairs(operator, torch.zeros(3).double())
    with pytest.raises(InputError, match="tol must be"):
        extreme_eigenpairs(operator, start, tol=0.0)


def test_the_krylov_matrix_has_the_moments_of_its_start(quadratic):
    values = torch.linspace(-1, 2, 50).double()
    operator = operator_of(quadratic(values))
    start = random_start(operator)
    weights = (start.square() / start.square().sum()).double()
    matrix = torch.tensor(krylov(operator, start, 6))
    assert matrix.shape == (6, 6)
    for power in range(1, 12):
        found = torch.linalg.matrix_power(matrix, power)[0, 0]
        torch.testing.assert_close(found, (weights * values**power).sum(), rtol=1e-9, atol=1e-12)
