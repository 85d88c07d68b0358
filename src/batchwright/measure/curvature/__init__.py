"""Curvature of the mean loss: products with its matrices, and what is read from them."""

from batchwright.measure.curvature.fisher import EmpiricalFisherOperator, FisherOperator
from batchwright.measure.curvature.ggn import GgnOperator
from batchwright.measure.curvature.lanczos import EigenPairs, extreme_eigenpairs
from batchwright.measure.curvature.operator import CurvatureOperator
from batchwright.measure.curvature.products import HessianOperator, hvp
from batchwright.measure.curvature.sharpness import Sharpness, sharpness

__all__ = [
    "CurvatureOperator",
    "EigenPairs",
    "EmpiricalFisherOperator",
    "FisherOperator",
    "GgnOperator",
    "HessianOperator",
    "Sharpness",
    "extreme_eigenpairs",
    "hvp",
    "sharpness",
]
