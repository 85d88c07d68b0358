"""Two ranks are one: shared work under DDP gives the same bits, and sharded parameters of FSDP2 the same steps.

Run as a program, this file is one rank: ``python test_muon_ranks.py RANK FOLDER``.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

from batchwright.optim import Muon, Scion, param_groups

SETTINGS = {
    "default": {},
    "every second": {"polar_every": 2},
    "bfloat16": {"route": "polar-express"},
    "measured spectrum": {"spectrum_every": 2},
}


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, 3)
    )


def batch(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(12, 8, generator=generator), torch.randint(3, (12,), generator=generator)


def train(model, optimizer, part=slice(None)):
    """Six steps; each rank's own half of each batch, where ``part`` says so."""
    for step in range(6):
        inputs, labels = batch(step)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[part]), labels[part]).backward()
        optimizer.step()


def muon_of(model, **settings):
    return Muon(param_groups(model, adamw_lr=0.01), lr=0.02, **settings)


def scion_of(model, **settings):
    return Scion(param_groups(model, "scion", radii={"default": 5.0}), lr=0.05, **settings)


def one_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    found = {}
    part = slice(6 * rank, 6 * rank + 6)
    for name, settings in SETTINGS.items():
        for shared in (False, True):
            model = make_model()
            wrapped = nn.parallel.DistributedDataParallel(model)
            train(wrapped, muon_of(model, process_group=dist.group.WORLD if shared else None, **settings), part)
            found[f"ddp {name} {shared}"] = [parameter.tolist() for parameter in model.parameters()]
    for name, make in (("muon", muon_of), ("scion", scion_of)):
        model = make_model()
        train(model, make(model))
        found[f"{name} whole"] = [parameter.tolist() for parameter in model.parameters()]
        try:
            from torch.distributed.fsdp import fully_shard
        except ImportError:
            continue
        model = make_model()
        mesh = dist.init_device_mesh("cpu", (2,)) if hasattr(dist, "init_device_mesh") else None
        fully_shard(model, mesh=mesh)
        train(model, make(model))
        found[f"{name} sharded"] = [parameter.full_tensor().tolist() for parameter in model.parameters()]
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(folder)], env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def tensors(lists):
    return [torch.tensor(each) for each in lists]


@pytest.mark.parametrize("name", SETTINGS)
def test_shared_work_gives_the_same_bits_on_all_ranks(ranks, name):
    assert ranks[0][f"ddp {name} True"] == ranks[0][f"ddp {name} False"]
    assert ranks[0][f"ddp {name} True"] == ranks[1][f"ddp {name} True"]


def test_two_ranks_take_the_steps_of_one_process(ranks):
    model = make_model()
    train(model, muon_of(model))
    for found, wanted in zip(tensors(ranks[0]["ddp default True"]), model.parameters(), strict=True):
        # A gradient of twelve examples is of low rank: where it is zero but for rounding, the factor magnifies rounding a
        # thousandfold.
        assert (found - wanted).abs().max() < 6 * 0.02 * 0.01, (found - wanted).abs().max()


@pytest.mark.parametrize("name", ["muon", "scion"])
def test_sharded_parameters_take_the_same_steps(ranks, name):
    if f"{name} sharded" not in ranks[0]:
        pytest.skip("this torch has no fully_shard")
    for found, wanted in zip(tensors(ranks[0][f"{name} sharded"]), tensors(ranks[0][f"{name} whole"]), strict=True):
        assert torch.allclose(found, wanted, atol=1e-5)
    assert ranks[0][f"{name} sharded"] == ranks[1][f"{name} sharded"]


if __name__ == "__main__":
    one_rank(int(sys.argv[1]), Path(sys.argv[2]))
