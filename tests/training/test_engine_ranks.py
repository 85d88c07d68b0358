"""Several ranks are one: under DDP and FSDP a run is that of a single process, its noise is unbiased, and all ranks decide alike.

Run as a program, this file is one rank: ``python test_engine_ranks.py RANK NUM_RANKS FOLDER``.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from batchwright.adapt import NoiseScale, Schedule, SimiGrad
from batchwright.core.errors import InputError
from batchwright.core.vectors import flatten, sq_norm
from batchwright.training.engine import BatchEngine

NUM_EXAMPLES, NUM_UPDATES, DIM = 97, 16, 6
MEAN = torch.linspace(-0.5, 1.0, DIM)
# Batch sizes smaller than the number of ranks, equal and unequal shares, and short last batches are all among them.
CASES = {
    "plain": {"batch_size": 24, "micro_batch_size": 5},
    "fewer examples than ranks": {"batch_size": 1, "micro_batch_size": 4},
    "changing": {"policy": Schedule(schedule="0:7 40:31 150:2"), "batch_size": 7, "micro_batch_size": 3},
    "weights": {"batch_size": 23, "micro_batch_size": 4},
    "clipped, wrapped": {"batch_size": 40, "micro_batch_size": 40, "max_grad_norm": 0.1, "last": "wrap"},
    "noise": {"batch_size": 12, "policy": NoiseScale(cooldown=3, fraction=4.0, max_batch_size=48), "noise_every": 1},
    "noise, unequal": {"batch_size": 7, "policy": NoiseScale(cooldown=10**9), "noise_every": 2},
    "scaler": {"batch_size": 11, "micro_batch_size": 2, "policy": NoiseScale(cooldown=10**9), "noise_every": 1},
}


def make_data() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(NUM_EXAMPLES, DIM, generator=generator)
    return TensorDataset(inputs, torch.randint(3, (NUM_EXAMPLES,), generator=generator), torch.arange(NUM_EXAMPLES))


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(DIM, 16), nn.Tanh(), nn.Linear(16, 3))


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1], reduction="none")


def make_engine(name: str, wrap) -> BatchEngine:
    model = make_model()
    wrapped = wrap(model)
    optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.05, momentum=0.9)
    options = dict(CASES[name])
    if name == "scaler":
        options["scaler"] = torch.amp.GradScaler("cpu", init_scale=64.0)
    return BatchEngine(wrapped, optimizer, make_data(), seed=3, **options)


def go(engine: BatchEngine, num_updates: int, weighted: bool) -> dict:
    """Batch sizes, and the examples of this rank in each update."""
    sizes, seen = [], []
    while len(sizes) < num_updates:
        for update in engine:
            mine = []
            for batch in update:
                mine.append(batch[2].tolist())
                weights = 1.0 + batch[2].remainder(4).float() if weighted else None
                update.backward(loss(engine.model, batch), weights)
            sizes.append(update.batch_size)
            seen.append(mine)
            if len(sizes) == num_updates:
                break
    return {"sizes": sizes, "seen": seen}


def whole(model: nn.Module) -> torch.Tensor:
    return flatten([p.full_tensor() if hasattr(p, "full_tensor") else p for p in model.parameters()])


def run_case(name: str, wrap) -> dict:
    engine = make_engine(name, wrap)
    found = go(engine, NUM_UPDATES, name == "weights")
    noise = engine.noise_scale
    return {
        **found,
        "parameters": whole(engine.model).tolist(),
        "noise": None if noise is None else [noise.value, noise.low],
        "next": engine.batch_size,
        "lr": engine.optimizer.param_groups[0]["lr"],
        "counts": [engine.num_steps, engine.num_examples, engine.epoch],
    }


def measured_noise(wrap, sharded: bool) -> list:
    """Noise of many steps with a model in which the gradient of an example is the example; 14 examples do not share out evenly."""
    data = MEAN + torch.randn(14 * 300, DIM, generator=torch.Generator().manual_seed(1))
    model = wrap(nn.Linear(DIM, 1, bias=False))
    engine = BatchEngine(
        model,
        torch.optim.SGD(model.parameters(), lr=1e-3),
        TensorDataset(data),
        batch_size=14,
        policy=NoiseScale(cooldown=10**9),
        noise_every=1,
        micro_batch_size=2 if sharded else 4,
    )
    found = []
    end = engine.gatherer.end
    engine.gatherer.end = lambda **given: found.append(end(**given)) or found[-1]
    for update in engine:
        for (x,) in update:
            update.backward(model(x).squeeze(1))
    return [[each.noise.trace, each.noise.grad_sq_norm] for each in found]


def own_loader(wrap, rank: int) -> dict:
    """Each rank has a loader of its own with another number of examples; an epoch ends for all with the first that has no more."""
    model = wrap(make_model())
    data = make_data()
    mine = TensorDataset(*(tensor[rank * 30 : rank * 30 + 20 + rank] for tensor in data.tensors))
    engine = BatchEngine(
        model,
        torch.optim.SGD(model.parameters(), lr=0.05),
        DataLoader(mine, batch_size=4),
        batch_size=16,
        micro_batch_size=3,
    )
    found = go(engine, 5, weighted=False)
    return {**found, "parameters": whole(model).tolist(), "epoch": engine.epoch, "examples": engine.num_examples}


def resumed(wrap) -> bool:
    one = make_engine("noise", wrap)
    go(one, 5, weighted=False)
    states = {name: value.clone() for name, value in one.model.state_dict().items()}
    optimizer, state = one.optimizer.state_dict(), one.state_dict()
    other = make_engine("noise", wrap)
    # DDP orders its buckets anew after the first step, and with them the sums over three ranks and more: let it have had one.
    go(other, 2, weighted=False)
    other.model.load_state_dict(states)
    other.optimizer.load_state_dict(json_copy(optimizer))
    other.load_state_dict(state)
    go(one, 9, weighted=False)
    go(other, 9, weighted=False)
    return torch.equal(whole(one.model), whole(other.model)) and one.batch_size == other.batch_size


def json_copy(state: dict) -> dict:
    return {
        "state": {key: {k: v.clone() for k, v in value.items()} for key, value in state["state"].items()},
        "param_groups": [dict(group) for group in state["param_groups"]],
    }


def refusals(wrap) -> list[str]:
    found = []
    model = wrap(make_model())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for policy in (SimiGrad(), NoiseScale(), NoiseScale()):  # the second noise policy finds the hook of the first
        try:
            BatchEngine(model, optimizer, make_data(), policy=policy, batch_size=8)
        except InputError as error:
            found.append(str(error))
    try:
        BatchEngine(model, optimizer, make_data(), micro_batch_size=4 + dist.get_rank())
    except InputError as error:
        found.append(str(error))
    return found


def run_rank(rank: int, num_ranks: int, folder: Path) -> None:
    from torch.distributed.fsdp import fully_shard
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=num_ranks)

    def ddp(model: nn.Module) -> nn.Module:
        return DistributedDataParallel(model, bucket_cap_mb=1e-5)

    def compiled(model: nn.Module) -> nn.Module:
        return torch.compile(DistributedDataParallel(model), backend="eager", dynamic=True)

    results: dict = {name: run_case(name, ddp) for name in CASES}
    results["compiled"] = run_case("plain", compiled)
    results["ddp noise"] = measured_noise(ddp, sharded=False)
    results["own loader"] = own_loader(ddp, rank)
    results["resumed"] = resumed(ddp)
    results["refusals"] = refusals(ddp)
    if num_ranks == 2:

        def fsdp(model: nn.Module) -> nn.Module:
            for layer in list(model.children()):
                if any(True for _ in layer.parameters()):
                    fully_shard(layer)
            return fully_shard(model)

        for name in ("plain", "changing", "weights", "noise", "fewer examples than ranks", "clipped, wrapped"):
            results[f"fsdp {name}"] = run_case(name, fsdp)
        results["fsdp noise of steps"] = measured_noise(fsdp, sharded=True)
    (folder / f"{rank}.json").write_text(json.dumps(results))
    # Gloo's threads may abort the process when the interpreter takes them down while a peer is leaving, so nobody leaves before
    # all are done, and then without a teardown.
    for _ in range(1200):
        if all((folder / f"{other}.json").exists() for other in range(num_ranks)):
            break
        time.sleep(0.05)
    os._exit(0)


@pytest.fixture(scope="module", params=[2, 3])
def results(request, tmp_path_factory) -> list[dict]:
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("this torch has no gloo")
    folder = tmp_path_factory.mktemp("ranks")
    ranks = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(request.param), str(folder)], stderr=subprocess.PIPE)
        for rank in range(request.param)
    ]
    try:
        errors = [rank.communicate(timeout=280)[1].decode() for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0] * request.param, errors
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(request.param)]


def wanted(name: str) -> dict:
    return run_case(name, lambda model: model)


def near(found: dict, expected: dict) -> None:
    """The same batches, and parameters as close as another order of the same sums leaves them."""
    ours, theirs = torch.tensor(found["parameters"]), torch.tensor(expected["parameters"])
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-5
    for name in ("sizes", "next", "lr", "counts"):
        assert found[name] == expected[name]


def same_examples(each: list[dict], expected: dict, num_ranks: int) -> None:
    for update in range(NUM_UPDATES):
        parts = [sum(result["seen"][update], []) for result in each]  # noqa: RUF017 - a handful of lists
        # A rank without an example stands in with one of weight zero.
        size = expected["sizes"][update]
        if size >= num_ranks:
            assert sorted(sum(parts, [])) == sorted(sum(expected["seen"][update], []))  # noqa: RUF017
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_under_ddp_a_run_is_that_of_a_single_process(results):
    for name in set(CASES) - {"noise"}:
        expected = wanted(name)
        for result in results:
            near(result[name], expected)
        same_examples([result[name] for result in results], expected, len(results))
    near(results[0]["compiled"], wanted("plain"))


def test_all_ranks_decide_alike_from_noise(results):
    for name in ("noise", "noise, unequal"):
        for result in results[1:]:
            for key in ("sizes", "parameters", "noise", "next", "lr", "counts"):
                assert result[name][key] == results[0][name][key]
    assert results[0]["noise"]["next"] > 12
    assert results[0]["noise, unequal"]["noise"] is not None


def is_unbiased(found: list) -> None:
    for values, expected in zip(torch.tensor(found).double().T, (DIM, float(MEAN.square().sum())), strict=True):
        assert abs(float(values.mean()) - expected) < 4 * float(values.std()) / len(values) ** 0.5


def test_noise_from_ranks_is_unbiased_and_the_same_on_all(results):
    assert all(result["ddp noise"] == results[0]["ddp noise"] for result in results)
    assert len(results[0]["ddp noise"]) == 300
    is_unbiased(results[0]["ddp noise"])


def test_ranks_with_loaders_of_their_own_make_one_mean(results):
    expected = make_model()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.05)
    data = make_data()
    found = [result["own loader"] for result in results]
    assert len({tuple(each["sizes"]) for each in found}) == 1
    for update in range(5):
        examples = [number for each in found for part in each["seen"][update] for number in part]
        assert len(examples) == found[0]["sizes"][update]
        optimizer.zero_grad()
        loss(expected, tuple(tensor[examples] for tensor in data.tensors)).mean().backward()
        optimizer.step()
    ours, theirs = torch.tensor(found[0]["parameters"]), whole(expected).detach()
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-5
    assert found[0]["epoch"] >= 1
    assert found[0]["examples"] == sum(found[0]["sizes"])
    assert sq_norm([ours]) > 0


def test_ranks_go_on_exactly(results):
    assert all(result["resumed"] for result in results)


def test_what_ranks_cannot_do_is_refused(results):
    for result in results:
        assert "cosine of two halves must train in one process" in result["refusals"][0]
        assert "got a model that has one already" in result["refusals"][1]
        assert "batch_size must be the same on all ranks" in result["refusals"][2]


def test_under_fsdp_a_run_is_that_of_a_single_process(results):
    if len(results) != 2:
        pytest.skip("FSDP is run on two ranks")
    for name in ("plain", "changing", "weights", "fewer examples than ranks", "clipped, wrapped"):
        expected = wanted(name)
        for result in results:
            near(result[f"fsdp {name}"], expected)
    assert results[0]["fsdp noise"] == {**results[1]["fsdp noise"], "seen": results[0]["fsdp noise"]["seen"]}
    assert results[0]["fsdp noise"]["next"] > 12
    assert results[0]["fsdp noise of steps"] == results[1]["fsdp noise of steps"]
    is_unbiased(results[0]["fsdp noise of steps"])


if __name__ == "__main__":
    run_rank(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
