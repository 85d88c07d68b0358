"""A task trains with Muon and Scion by their names, from the start to a resumed end, also under a policy."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import batchwright as bw
from batchwright.adapt import parse_policy
from batchwright.core.errors import InputError
from batchwright.core.records import read_records
from batchwright.measure.snapshot import Snapshot
from batchwright.optim import Muon, Scion, build_optimizer
from batchwright.tasks.task import OptimizerSpec, Task

SPECS = {
    "muon": OptimizerSpec(name="muon", lr=0.01, momentum=0.95, beta2=0.99, weight_decay=0.01),
    "muon, every second": OptimizerSpec(name="muon", lr=0.01, options={"polar_every": 2}),
    "scion": OptimizerSpec(name="scion", lr=0.03, options={"radii": {"default": 5.0, "head": 5.0}}),
}


def make_model():
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 2))


def make_task(spec, **changes):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 6, generator=generator)
    labels = (inputs[:, 0] + inputs[:, 1] > 0).long()
    settings = {
        "name": "toy",
        "model": make_model,
        "loss": lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none"),
        "train": TensorDataset(inputs, labels),
        "optimizer": spec,
        "batch_size": 16,
        "max_examples": 1600,
        "sequence_length": 6,
    }
    return Task(**{**settings, **changes})


def test_muon_is_made_with_the_settings_of_the_specification():
    optimizer = build_optimizer(SPECS["muon"], make_model())
    assert isinstance(optimizer, Muon)
    muon, adamw, vectors = optimizer.param_groups
    assert (muon["lr"], muon["momentum"], muon["weight_decay"]) == (0.01, 0.95, 0.01)
    assert muon["adjust_lr_fn"] == "match_rms_adamw"
    assert (adamw["lr"], adamw["betas"], adamw["weight_decay"]) == (0.01, (0.9, 0.99), 0.01)
    assert vectors["weight_decay"] == 0.0
    assert [tuple(parameter.shape) for parameter in muon["params"]] == [(16, 6), (16, 16)]
    options = {"adamw_lr": 0.5, "overrides": {"2.weight": "adamw"}, "nesterov": False}
    optimizer = build_optimizer(OptimizerSpec(name="muon", options=options), make_model())
    assert optimizer.param_groups[1]["lr"] == 0.5
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 2, 3]
    assert optimizer.param_groups[0]["nesterov"] is False


def test_scion_is_made_with_the_published_radii():
    optimizer = build_optimizer(OptimizerSpec(name="scion", lr=1e-3), make_model())
    assert isinstance(optimizer, Scion)
    found = {(group["norm"], group["radius"]): len(group["params"]) for group in optimizer.param_groups}
    assert found == {("spectral", 50.0): 2, ("sign", 5.0): 3, ("sign", 3000.0): 1}
    with pytest.raises(InputError, match=r"weight_decay of scion must be 0, got 0.1"):
        build_optimizer(OptimizerSpec(name="scion", weight_decay=0.1), make_model())


def test_an_option_that_is_none_is_named():
    for name in ("muon", "scion"):
        with pytest.raises(InputError, match=r"must be keywords of batchwright.optim.*got polar_evry"):
            build_optimizer(OptimizerSpec(name=name, options={"polar_evry": 2}), make_model())


def test_the_others_are_those_of_torch():
    assert type(build_optimizer(OptimizerSpec(), make_model())) is torch.optim.SGD


@pytest.mark.parametrize("name", SPECS)
def test_a_task_trains_with_it_and_resumes_exactly(tmp_path, name):
    task = make_task(SPECS[name])
    whole = bw.train(task, out=tmp_path / "whole", checkpoint_every=7)
    losses = [line["loss"] for line in read_records(tmp_path / "whole").of_kind("step")]
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])

    def crash(progress):
        if progress.step == 40:
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        bw.train(task, out=tmp_path / "cut", checkpoint_every=7, on_progress=crash)
    cut = bw.train(task, out=tmp_path / "cut", resume=True)
    states = zip(whole.model.state_dict().values(), cut.model.state_dict().values(), strict=True)
    assert all(torch.equal(left, right) for left, right in states)


@pytest.mark.parametrize("optimizer", ["muon", "scion"])
def test_the_restarted_budget_moves_batch_and_lr_in_train(tmp_path, optimizer):
    spec = SPECS[optimizer]
    policy = parse_policy("restarted-budget:2400 9600", [])
    run = bw.train(make_task(spec), out=tmp_path / "run", policy=policy)
    (decision,) = read_records(tmp_path / "run").of_kind("decision")
    # Four times the tokens: 4^(2/3) = 2.52 in the batch, to the next power of two 2, so the lr is times 2/4.
    assert (decision["previous"], decision["batch_size"]) == (16, 32)
    assert run.batch_size == 32
    lrs = [line["lr"] for line in read_records(tmp_path / "run").of_kind("step")]
    assert lrs[0] == spec.lr
    assert lrs[-1] == pytest.approx(spec.lr / 2)


@pytest.mark.parametrize("name", SPECS)
def test_a_snapshot_goes_on_with_other_settings(name):
    task = make_task(SPECS[name])
    model = task.make_model(0)
    optimizer = build_optimizer(task.optimizer, model)
    task.loss(model, (torch.ones(4, 6), torch.ones(4, dtype=torch.long))).mean().backward()
    optimizer.step()
    restored, other = Snapshot.take(model, optimizer).restore(
        task, OptimizerSpec(name=SPECS[name].name, lr=0.7, options=SPECS[name].options), "cpu"
    )
    assert all(group["lr"] == 0.7 for group in other.param_groups)
    first = next(iter(optimizer.state.values()))["momentum_buffer"]
    assert torch.equal(next(iter(other.state.values()))["momentum_buffer"], first)
    assert torch.equal(next(restored.parameters()), next(model.parameters()))


def test_a_plan_is_made_for_muon_and_refused_for_scion_with_the_way_out():
    plan = bw.plan(make_task(SPECS["muon"], target=bw.Target(value=0.3)), device="cpu")
    assert "normalised updates, which no source has measured for Muon" in plan.reasons["lr"]
    with pytest.raises(InputError, match=r"got task 'toy' with scion.*give tokens \(--tokens\)"):
        bw.plan(make_task(SPECS["scion"]), device="cpu")


@pytest.mark.parametrize("kind", ["ours", "torch", "scion"])
def test_the_restarted_budget_runs_in_a_loop_of_ones_own(kind):
    if kind == "torch" and not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    task = make_task(SPECS["muon"])
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16, bias=False), nn.Tanh(), nn.Linear(16, 2, bias=False))
    makers = {
        "ours": lambda: Muon(model.parameters(), lr=0.01),
        "torch": lambda: torch.optim.Muon(model.parameters(), lr=0.01),
        "scion": lambda: Scion(model.parameters(), lr=0.01, radius=5.0),
    }
    optimizer = makers[kind]()
    policy = bw.adapt.RestartedBudget(budgets="2400 9600")
    engine = bw.BatchEngine(model, optimizer, task.train, policy=policy, batch_size=16, micro_batch_size=16)
    sizes = []
    for _ in range(4):  # epochs
        for update in engine:
            for batch in update:
                losses = task.loss(model, batch)
                update.backward(losses, torch.full_like(losses, 6.0))
            sizes.append(update.batch_size)
    assert sizes[0] == 16
    assert max(sizes) == 32  # an epoch's last batch is short
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 / 2)
