"""How much of the study each preset does, and the cells that it makes."""

from collections.abc import Sequence
from dataclasses import dataclass

from batchwright.studies.associative_memory import experiments
from batchwright.studies.study import Cell

ALPHAS = (2.0, 1.5)
# The setting of each experiment is the specification's.
BATCHES = {"dim": 96, "alpha": 1.5, "num_items": 3516}
REMOVED = (0, 16, 64, 128, 256, 512)
THRESHOLDED = {"dim": 64, "alpha": 1.5, "num_items": 16384}
SOFTMAX = {"dim": 64, "alpha": 1.5, "num_items": 2048}
RECORD_AT = (1, 2, 4, 8, 16, 32)
# Optimizer and step size by the name of a run; a normalised step is over the spectral norm of the gradient.
SOFTMAX_RUNS = {
    "muon": ("muon", 4.0),
    "normalized-32": ("normalized-sgd", 32.0),
    "normalized-8": ("normalized-sgd", 8.0),
    "plain": ("sgd", 4096.0),
}
CRITICAL_ALPHAS = (1.25, 1.5, 2.0)
CRITICAL_SHARE, CRITICAL_DRAWS = 1.25, 5
ANISOTROPY = (0.0, 0.5, 1.0, 1.5)
# Draws times dimension, beside a floor of a few draws.
LARGEST_DRAWS = 1280
# From this dimension on each draw is a cell of its own, so that two workers share them.
APART_FROM = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """Sizes of everything.

    Attributes:
        dims: Dimensions of the capacity experiment.
        num_seeds: Draws of each setting; fewer at the largest dimensions.
        cap: Most items.
        largest_batch: Power of four of the largest batch of the saturation experiment.
        depth_dim: Dimension of the depth experiment.
        critical_dims: Dimensions of the critical-batch experiment.
        critical_limit: Largest batch of it.
        thresholded: Whether the thresholded dynamics are run; they have 16,384 items.
    """

    dims: tuple[int, ...]
    num_seeds: int
    cap: int = 40_000
    largest_batch: int = 10
    depth_dim: int = 256
    critical_dims: tuple[int, ...] = ()
    critical_limit: int = 2**21
    thresholded: bool = True

    def num_draws(self, dim: int, alpha: float = 2.0) -> int:
        """Draws at a dimension: the larger it is, the less they scatter and the more they cost."""
        return min(self.num_seeds, max(5 if alpha == 2.0 else 3, LARGEST_DRAWS // dim))


PRESETS = {
    # A test of the machinery in seconds; not offered on the command line.
    "tiny": Preset(dims=(32, 64), num_seeds=4, largest_batch=6, depth_dim=32, thresholded=False),
    "smoke": Preset(dims=(32, 64, 128), num_seeds=5, depth_dim=128, thresholded=False),
    "laptop": Preset(dims=(32, 64, 128, 256, 512), num_seeds=10, critical_dims=(16, 32, 64, 128)),
    "paper": Preset(
        dims=(32, 64, 128, 256, 512, 1024),
        num_seeds=10,
        cap=200_000,
        critical_dims=(16, 32, 64, 128, 256),
        critical_limit=2**24,
    ),
}


def cells(preset: str, seed: int) -> Sequence[Cell]:
    """The cells of a preset; the draws are ``seed``, ``seed + 1``, ..."""
    size = PRESETS[preset]

    def draws(dim: int, alpha: float = 2.0) -> tuple[int, ...]:
        return tuple(range(seed, seed + size.num_draws(dim, alpha)))

    middle = size.dims[len(size.dims) // 2]
    found = [
        Cell(
            name=f"capacity/alpha-{alpha:g}/d-{dim}" + (f"/seed-{part[0]}" if len(part) == 1 else ""),
            run=experiments.capacity,
            arguments={"dim": dim, "alpha": alpha, "seeds": part, "cap": size.cap},
            weight=dim**3.5 * len(part),
        )
        for alpha in ALPHAS
        for dim in size.dims
        for part in ([(each,) for each in draws(dim, alpha)] if dim >= APART_FROM else [draws(dim, alpha)])
    ]
    found += [
        Cell(
            name=f"anisotropy/decay-{decay:g}",
            run=experiments.capacity,
            arguments={"dim": middle, "alpha": 2.0, "seeds": draws(middle), "cap": size.cap, "input_decay": decay},
            weight=middle**3.5,
        )
        for decay in ANISOTROPY
    ]
    sizes = [4**power for power in range(size.largest_batch + 1)]
    found += [
        Cell(
            name="batches",
            run=experiments.batches,
            arguments={**BATCHES, "batch_sizes": sizes, "seeds": draws(96)},
            weight=1e6,
        ),
        Cell(
            name="depth",
            run=experiments.depth,
            arguments={"dim": size.depth_dim, "alpha": 2.0, "seeds": draws(size.depth_dim)},
            weight=1e6,
        ),
    ]
    found += [
        Cell(
            name=f"softmax/{name}",
            run=experiments.softmax,
            arguments={**SOFTMAX, "optimizer": optimizer, "lr": lr, "record_at": RECORD_AT, "seeds": draws(64)},
            weight=1e5,
        )
        for name, (optimizer, lr) in SOFTMAX_RUNS.items()
    ]
    if size.thresholded:
        found.append(
            Cell(
                name="thresholded",
                run=experiments.thresholded,
                arguments={**THRESHOLDED, "removed": REMOVED, "seeds": draws(64)},
                weight=1e7,
            )
        )
    found += [
        Cell(
            name=f"critical/alpha-{alpha:g}/d-{dim}",
            run=experiments.critical_batch,
            arguments={
                "dim": dim,
                "alpha": alpha,
                "seeds": draws(dim)[:CRITICAL_DRAWS],
                "share": CRITICAL_SHARE,
                "largest": size.critical_limit,
            },
            weight=dim**3,
        )
        for alpha in CRITICAL_ALPHAS
        for dim in size.critical_dims
    ]
    return found
