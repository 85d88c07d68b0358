"""Ghost batch norm under DDP: gradients of two ranks are those of one process with both their batches, and nothing is sent for it.

Run as a program, this file is one rank: ``python test_ghost_ranks.py RANK FOLDER``.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from batchwright.nn import GhostBatchNorm1d, convert

NUM_RANKS, PART, GHOST = 2, 8, 4


def make_model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 1)).double()
    return convert(model, "ghost", ghost_size=GHOST).model


def whole_batch() -> torch.Tensor:
    return torch.randn(NUM_RANKS * PART, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def run_rank(rank: int, folder: Path) -> None:
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=NUM_RANKS)
    model = DistributedDataParallel(make_model())
    model(whole_batch()[rank * PART : (rank + 1) * PART]).square().mean().backward()
    torch.save([parameter.grad for parameter in model.parameters()], folder / f"grads-{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="this torch has no gloo")
def test_gradients_of_two_ranks_are_those_of_one_process(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)], env=environment, stderr=subprocess.PIPE)
        for rank in range(NUM_RANKS)
    ]
    told = [rank.communicate(timeout=240)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * NUM_RANKS, told
    model = make_model()
    assert isinstance(model[1], GhostBatchNorm1d)
    model(whole_batch()).square().mean().backward()
    for rank in range(NUM_RANKS):
        found = torch.load(tmp_path / f"grads-{rank}.pt", weights_only=True)
        for mine, parameter in zip(found, model.parameters(), strict=True):
            torch.testing.assert_close(mine, parameter.grad, rtol=0, atol=1e-12)


if __name__ == "__main__":
    run_rank(int(sys.argv[1]), Path(sys.argv[2]))
