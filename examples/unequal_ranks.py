"""Two processes under DDP whose devices differ: one memory ceiling for both, then another micro-batch for each, and one exact gradient.

Run: python examples/unequal_ranks.py
"""

import os
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

import batchwright as bw

MICRO_BATCH_SIZES = (25, 6)  # of a large device and of a small one


def loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """One loss an example."""
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def make_model() -> nn.Module:
    """A small classifier."""
    return nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 4))


def make_task() -> bw.Task:
    """The same on both ranks."""
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(512, 32), torch.randint(4, (512,)))
    sgd = bw.OptimizerSpec(name="sgd", lr=0.1)
    return bw.Task(name="two", model=make_model, loss=loss, train=data, optimizer=sgd, batch_size=50)


def train(model: nn.Module, task: bw.Task, micro_batch_size: int) -> tuple[int, torch.Tensor]:
    """Ten steps of 50 examples; passes of this rank in the last of them, and the parameters."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine = bw.BatchEngine(model, optimizer, task.train, batch_size=50, micro_batch_size=micro_batch_size)
    for update in engine:
        for batch in update:
            update.backward(loss(model, batch))
        if engine.num_steps == 10:
            break
    return update.num_micro_batches, torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def print_in_order(line: str) -> None:
    """The lines of all ranks, by rank 0 alone: two processes that write to one pipe may write into each other's lines."""
    lines = [""] * dist.get_world_size()
    dist.all_gather_object(lines, line)
    if dist.get_rank() == 0:
        print("\n".join(lines), flush=True)


def run_rank(rank: int, folder: str) -> None:
    """One process."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    task = make_task()
    found = bw.measure.memory(task, budget_bytes=(400_000, 100_000)[rank], confirm=False)
    print_in_order(f"rank {rank}: ceiling {found.max_micro_batch_size}. {' '.join(found.warnings)}")
    torch.manual_seed(1)
    alone = task.model()
    model = DistributedDataParallel(task.model())
    model.module.load_state_dict(alone.state_dict())
    passes, parameters = train(model, task, MICRO_BATCH_SIZES[rank])
    expected = train(alone, task, 50)[1]
    error = float((parameters - expected).norm() / expected.norm())
    print_in_order(f"rank {rank}: {passes} passes a step, off from one process by {error:.0e}")
    dist.barrier()
    os._exit(0)  # gloo's threads may abort a process that is taken down while its peer leaves


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        mp.spawn(run_rank, args=(place,), nprocs=2)
