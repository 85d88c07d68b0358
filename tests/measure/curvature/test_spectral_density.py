"""Spectral density against the moments and shares of dense eigenvalues."""

import numpy as np
import pytest
import torch

from batchwright.core.errors import InputError
from batchwright.measure.curvature import GgnOperator, operator_spectral_density, spectral_density


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_the_moments_are_those_of_the_dense_eigenvalues(name, make_case, dense):
    case = make_case(name)
    values = torch.linalg.eigvalsh(dense(case.model, case.loss, [case.batch])).numpy()
    found = spectral_density(case.model, case.loss, case.batch, num_starts=16, num_steps=8)
    assert found.dim == len(values)
    assert found.num_products == 16 * 8
    for power in (1, 2, 3):
        moment = found.moment(power, level=0.9999)
        assert moment.low <= (values**power).mean() <= moment.high
        assert moment.high - moment.low < 2 * (np.abs(values) ** power).mean() + 1e-12


def test_the_curve_integrates_to_one_and_follows_the_eigenvalues(quadratic):
    values = torch.cat([torch.zeros(150), torch.full((50,), 4.0)]).double()
    case = quadratic(values)
    found = spectral_density(case.model, case.loss, case.batch, num_starts=16, num_points=2000, width=0.1)
    step = found.grid[1] - found.grid[0]
    assert float(found.density.sum() * step) == pytest.approx(1.0, abs=1e-3)
    upper = float(found.density[found.grid > 2].sum() * step)
    share = found.share_above(2.0, level=0.9999)
    assert share.low <= 0.25 <= share.high
    assert upper == pytest.approx(share.value, abs=1e-3)
    assert found.grid[np.argmax(found.density)] == pytest.approx(0.0, abs=0.02)
    assert found.moment(0).value == pytest.approx(1.0)


def test_enough_steps_give_every_eigenvalue(quadratic):
    values = torch.tensor([-2.0, 0.5, 1.0, 7.0]).double()
    case = quadratic(values)
    found = spectral_density(case.model, case.loss, case.batch, num_starts=2, num_steps=10)
    for row in found.nodes:
        assert np.sort(row) == pytest.approx(values.numpy())


def test_the_density_of_another_matrix_has_no_negative_part(make_case):
    case = make_case("mlp")
    found = operator_spectral_density(GgnOperator(case.model, case.loss, case.batch), num_steps=12)
    assert found.nodes.min() > -1e-9


def test_a_matrix_of_zeros_is_one_peak(quadratic):
    case = quadratic(torch.zeros(5).double())
    found = spectral_density(case.model, case.loss, case.batch)
    assert np.isfinite(found.density).all()
    assert found.moment(1).value == 0.0


def test_a_hessian_that_is_not_finite_is_refused(quadratic):
    case = quadratic(torch.tensor([1.0, float("nan")]).double())
    with pytest.raises(InputError, match="products must be finite"):
        spectral_density(case.model, case.loss, case.batch)
