"""The polar factor ``U V^T`` of a matrix, by several routes."""

from batchwright.optim.polar.choose import ROUTES, PolarOptions, depth_for, polar, polar_all
from batchwright.optim.polar.exact import exact_polar, polar_of_factors, smoothing_for, svd_polar
from batchwright.optim.polar.quintic import JORDAN, best_quintics
from batchwright.optim.polar.spectrum import Spectrum, measure_spectrum
from batchwright.optim.polar.zolotarev import Rational, zolotarev

__all__ = [
    "JORDAN",
    "ROUTES",
    "PolarOptions",
    "Rational",
    "Spectrum",
    "best_quintics",
    "depth_for",
    "exact_polar",
    "measure_spectrum",
    "polar",
    "polar_all",
    "polar_of_factors",
    "smoothing_for",
    "svd_polar",
    "zolotarev",
]
