"""The token-budget rule and the published table, as cells: arithmetic alone."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from batchwright.planning import TokenBudget, token_budget
from batchwright.studies.study import Place

# The base configuration of the paper's 124M model, and its fit of the norm ratio.
BASE = TokenBudget(batch_size=256, sequence_length=1024, lr=3.6e-4, tokens=1.3e9)
RHO_EXPONENT, RHO_SHIFT = 0.1, 9.4
# Ratio of tokens, published batch size and step size. The last is the 1B model's.
TRANSFERS = ((2.0, 416, 3.0e-4), (4.0, 672, 2.4e-4), (6.0, 896, 2.1e-4), (8.065, 1120, 1.95e-4))
# Validation loss of the 124M model at 1.3B tokens: rows step sizes times 1e4, columns batch sizes.
BATCH_SIZES = (64, 128, 256, 512, 1024, 2048, 4096)
STEP_SIZES = (1.2, 2.4, 3.6, 4.8, 6.0, 7.2)
LOSSES = (
    (3.4258, 3.3889, 3.3857, 3.4074, 3.4587, 3.5598, 3.7715),
    (3.4394, 3.3880, 3.3706, 3.3801, 3.4144, 3.4940, 3.6694),
    (3.4554, 3.3945, 3.3717, 3.3765, 3.4065, 3.4799, 3.6472),
    (3.4766, 3.4072, 3.3790, 3.3807, 3.4115, 3.4945, 3.6611),
    (3.4967, 3.4198, 3.3875, 3.3887, 3.4202, 3.5005, 3.7013),
    (3.5151, 3.4301, 3.3978, 3.3960, 3.4331, 3.5270, 3.7506),
)


def transfers(place: Place) -> Mapping[str, Any]:
    """Batch size, floored to a multiple of 32, and step size without the rounding, at the published ratios of tokens."""

    def at(ratio: float, multiple_of: int) -> TokenBudget:
        return token_budget(
            base=BASE,
            tokens=ratio * BASE.tokens,
            multiple_of=multiple_of,
            rho_exponent=RHO_EXPONENT,
            rho_shift=RHO_SHIFT,
        )

    rounded = [at(ratio, 32) for ratio, _, _ in TRANSFERS]
    exact = [at(ratio, 1) for ratio, _, _ in TRANSFERS]
    return {"batch_size": [each.batch_size for each in rounded], "lr": [each.lr for each in exact]}


def published_table(place: Place) -> Mapping[str, Any]:
    """What the published losses say of the shape: the best batch size, and how the loss rises beyond it."""
    best = np.array(LOSSES).min(0)
    rises = np.diff(best)
    return {
        "best": best.tolist(),
        "best_batch_size": BATCH_SIZES[int(best.argmin())],
        "falls_before": bool((rises[: int(best.argmin())] < 0).all()),
        "rises_after": bool((rises[int(best.argmin()) :] > 0).all()),
        "tail_ratio": float(rises[-1] / rises[-2]),
    }
