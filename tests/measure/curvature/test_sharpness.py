"""Sharpness against dense eigenvalues."""

import math

import pytest
import torch
from torch import nn

from batchwright.core.errors import InputError
from batchwright.measure.curvature import HessianOperator, sharpness


@pytest.mark.parametrize("name", ["mlp", "cnn", "gpt"])
def test_sharpness_is_the_largest_eigenvalue_of_the_dense_hessian(name, make_case, dense):
    case = make_case(name)
    values = torch.linalg.eigvalsh(dense(case.model, case.loss, [case.batch])).flip(0)
    found = sharpness(case.model, case.loss, case.batch, tol=1e-4, num_checks=2)
    assert found.converged
    assert found.value == pytest.approx(float(values[0]), rel=1e-3)
    assert all(value == pytest.approx(float(values[0]), rel=1e-3) for value in found.check_values)
    assert found.error < 1e-3 * found.value


@pytest.mark.parametrize("name", ["mlp", "cnn", "gpt"])
def test_the_residual_is_that_of_the_returned_vector(name, make_case, dense):
    case = make_case(name, torch.float32)
    found = sharpness(case.model, case.loss, case.batch, max_hvps=4)
    product = HessianOperator(case.model, case.loss, case.batch).matvec(found.vector)
    residual = torch.linalg.vector_norm(product - found.value * found.vector) / found.value
    assert found.residual == pytest.approx(float(residual), rel=1e-2, abs=1e-6)
    assert float(torch.linalg.vector_norm(found.vector)) == pytest.approx(1.0, abs=1e-5)
