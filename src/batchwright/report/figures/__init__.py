"""Figures of a page, one module each; every one takes records and gives None where they do not hold what it shows."""

from batchwright.report.figures.batch_size import batch_size_figure
from batchwright.report.figures.calibration import calibration_figure
from batchwright.report.figures.comparison import comparison_figure
from batchwright.report.figures.diffusion import diffusion_figure
from batchwright.report.figures.noise import pilot_noise_figure, run_noise_figure
from batchwright.report.figures.prediction import prediction_figure
from batchwright.report.figures.stability import stability_figure
from batchwright.report.figures.step_time import knee_batch_size, step_time_figure
from batchwright.report.figures.style import Figure, View
from batchwright.report.figures.training import training_figure
from batchwright.report.figures.verification import verification_figure

__all__ = [
    "Figure",
    "View",
    "batch_size_figure",
    "calibration_figure",
    "comparison_figure",
    "diffusion_figure",
    "knee_batch_size",
    "pilot_noise_figure",
    "prediction_figure",
    "run_noise_figure",
    "stability_figure",
    "step_time_figure",
    "training_figure",
    "verification_figure",
]
