"""Estimated errors of Ritz values against the eigenvalues of the matrices that they belong to."""

import numpy as np
import pytest

from batchwright.measure.curvature.ritz_error import SAFETY, ritz_errors


def jacobi(diagonal, couplings):
    return np.diag(diagonal) + np.diag(couplings, 1) + np.diag(couplings, -1)


def ritz(matrix, next_norm):
    values, vectors = np.linalg.eigh(matrix)
    return values[::-1], np.abs(next_norm * vectors[-1, ::-1])


# The first steps differ; from the third on they are constant, which is what the estimate takes those to come for.
DIAGONAL, COUPLINGS = [4.0, 2.0, 1.0, 0.5, 0.5], [1.0, 0.5, 0.4, 0.3]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_with_constant_steps_to_come_the_estimate_is_the_distance_to_the_whole_matrix(sign):
    matrix = sign * jacobi(DIAGONAL, COUPLINGS)
    longer = sign * jacobi(DIAGONAL + [0.5] * 200, COUPLINGS + [0.3] * 200)
    values, residuals = ritz(matrix, 0.3)
    errors = ritz_errors(values, residuals, matrix, 0.3, num_fresh=5)
    place = 0 if sign > 0 else -1
    distance = abs(np.linalg.eigvalsh(longer)[::-1][place] - values[place])
    assert distance > 1e-9
    assert errors[place] / SAFETY == pytest.approx(distance, rel=1e-3)
    assert np.all(errors <= residuals)


def test_a_close_value_that_has_settled_does_not_make_the_estimate_large():
    matrix = jacobi([2.0, 1.0, 0.5, 0.5, 0.5], [0.3, 0.2, 0.2, 0.2])
    values, residuals = ritz(matrix, 0.2)
    alone = ritz_errors(values, residuals, matrix, 0.2, num_fresh=5)[0]
    beside, settled = np.insert(values, 1, values[0] - 1e-3), np.insert(residuals, 1, 0.0)
    assert ritz_errors(beside, settled, matrix, 0.2, num_fresh=5)[0] == pytest.approx(alone)
    # One that is still on its way may end up above.
    moving = np.insert(residuals, 1, 0.1)
    assert ritz_errors(beside, moving, matrix, 0.2, num_fresh=5)[0] == residuals[0]


def test_after_few_steps_there_is_no_estimate_but_the_residual():
    values, residuals = np.array([5.0, 2.0]), np.array([0.1, 0.5])
    errors = ritz_errors(values, residuals, jacobi([4.9, 2.1], [0.5]), 0.6, num_fresh=2)
    assert errors.tolist() == residuals.tolist()


def test_few_searches_of_random_matrices_stop_at_an_estimate_that_is_too_small():
    rng = np.random.default_rng(0)
    missed = num_small = 0
    for _ in range(200):
        spectrum = np.concatenate([rng.uniform(1.0, 4.0, 6), rng.uniform(0.0, 1.0, 300) ** 3])
        vector = rng.standard_normal(len(spectrum))
        basis = [vector / np.linalg.norm(vector)]
        diagonal, couplings = [], []
        for step in range(16):
            product = spectrum * basis[-1]
            diagonal.append(float(basis[-1] @ product))
            for _ in range(2):
                product = product - np.array(basis).T @ (np.array(basis) @ product)
            norm = float(np.linalg.norm(product))
            matrix = jacobi(diagonal, couplings)
            values, residuals = ritz(matrix, norm)
            error = ritz_errors(values, residuals, matrix, norm, num_fresh=step + 1)[0]
            if error <= 0.01 * values[0]:
                num_small += 1
                missed += spectrum.max() - values[0] > 0.01 * values[0]
                break
            couplings.append(norm)
            basis.append(product / norm)
    assert num_small > 150
    # Of six values spread at random two are often closer than a search to 1 % can tell apart: 24 of 200; by the gap alone, 29.
    assert missed <= 0.13 * num_small
