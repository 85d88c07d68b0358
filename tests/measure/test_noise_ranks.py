"""Noise from the ranks of a DDP job: unbiased for unequal ranks, and the gradient is that of plain DDP.

Run as a program, this file is one rank: ``python test_noise_ranks.py RANK NUM_RANKS FOLDER``.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from batchwright.core.errors import InputError
from batchwright.measure.noise_ranks import RankNoise, rank_step_noise

DIM, SIZES, NUM_STEPS = 6, [3, 7, 4], 400
MEAN = torch.linspace(-0.5, 1.0, 2 * DIM)


class TwoParts(nn.Module):
    """Two parameters, in two buckets; the gradient of an example is the example."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(DIM, 1, bias=False)
        self.second = nn.Linear(DIM, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.first(x[:, :DIM]) + self.second(x[:, DIM:])).squeeze(1)


def run_rank(rank: int, num_ranks: int, folder: Path) -> None:
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=num_ranks)
    size, total = SIZES[rank], sum(SIZES[:num_ranks])
    results = {}
    for weighting in ("ranks", "examples"):
        plain, watched = (DistributedDataParallel(TwoParts(), bucket_cap_mb=1e-5) for _ in range(2))
        noise = RankNoise(weighting=weighting)
        noise.attach(watched)
        generator = torch.Generator().manual_seed(rank)
        found, same = [], True
        for step in range(NUM_STEPS):
            batch = MEAN + torch.randn(size, 2 * DIM, generator=generator)
            for model in (plain, watched)[0 if step < 20 else 1 :]:
                model.zero_grad()
                factor = 1 / size if weighting == "ranks" else num_ranks / total
                (factor * model(batch).sum()).backward()
            if step < 20:
                pairs = zip(plain.parameters(), watched.parameters(), strict=True)
                same = same and all(torch.equal(a.grad, b.grad) for a, b in pairs)
            each = noise.step_noise(size)
            found.append((each.trace, each.grad_sq_norm))
        results[weighting] = {"same": same, "found": found}
    try:
        noise.step_noise(size)
    except InputError as error:
        results["error"] = str(error)
    (folder / f"{rank}.json").write_text(json.dumps(results))
    # Gloo's threads may abort the process when the interpreter takes them down while a peer is leaving, so nobody leaves before
    # all are done, and then without a teardown.
    for _ in range(1200):
        if all((folder / f"{other}.json").exists() for other in range(num_ranks)):
            break
        time.sleep(0.05)
    os._exit(0)


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="this torch has no gloo")
@pytest.mark.parametrize("num_ranks", [2, 3])
def test_ranks_are_unbiased_agree_and_leave_the_gradient_alone(num_ranks, tmp_path):
    ranks = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(num_ranks), str(tmp_path)], stderr=subprocess.PIPE)
        for rank in range(num_ranks)
    ]
    errors = [rank.communicate(timeout=200)[1].decode() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * num_ranks, errors
    results = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(num_ranks)]
    for weighting in ("ranks", "examples"):
        assert all(result[weighting]["same"] for result in results)
        assert all(result[weighting]["found"] == results[0][weighting]["found"] for result in results)
        found = np.array(results[0][weighting]["found"])
        for values, expected in zip(found.T, (2 * DIM, float(MEAN.square().sum())), strict=True):
            assert abs(values.mean() - expected) < 4 * values.std() / len(values) ** 0.5
    assert "must have been reduced since the last step_noise()" in results[0]["error"]


@pytest.mark.parametrize("weighting", ["ranks", "examples"])
def test_the_formula_is_unbiased_for_very_unequal_ranks(weighting):
    rng, sizes = np.random.default_rng(0), np.array([1.0, 60.0, 5.0, 5.0])
    grads = 0.5 + rng.normal(size=(4000, 4, 10)) / sizes[:, None] ** 0.5
    given = grads if weighting == "ranks" else grads * (4 * sizes / sizes.sum())[:, None]
    found = [
        rank_step_noise((each**2).sum(axis=1), sizes, float((each.mean(axis=0) ** 2).sum()), weighting=weighting)
        for each in given
    ]
    for name, expected in (("trace", 10), ("grad_sq_norm", 2.5)):
        values = np.array([getattr(each, name) for each in found])
        assert abs(values.mean() - expected) < 4 * values.std() / len(values) ** 0.5


def test_a_group_must_be_there():
    with pytest.raises(InputError, match="process group must be initialised before RankNoise"):
        RankNoise()


if __name__ == "__main__":
    run_rank(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
