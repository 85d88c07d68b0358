"""Muon against a slow plain version and torch's own, its state, its groups, and what it leaves alone."""

import copy
import inspect
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from batchwright.core.errors import InputError
from batchwright.optim import Muon, param_groups
from batchwright.optim.muon import update_scale
from batchwright.optim.polar import svd_polar
from batchwright.optim.shares import owners

HAS_TORCH_MUON = hasattr(torch.optim, "Muon")


def make_model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 20), nn.Tanh(), nn.Linear(20, 3))


def make_batch(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(16, 2, 6, 6, generator=generator), torch.randint(3, (16,), generator=generator)


def train(model, optimizer, steps, first=0):
    losses = []
    for step in range(first, first + steps):
        inputs, labels = make_batch(step)
        loss = F.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def matrices(count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(12, 20), (20, 12), (9, 9)][:count]
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def give_gradients(parameters, step):
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjust_lr_fn", [None, "original", "match_rms_adamw", "spectral"])
def test_the_exact_route_is_the_slow_plain_version(nesterov, adjust_lr_fn):
    parameters = matrices()
    plain = [parameter.detach().double() for parameter in parameters]
    buffers = [torch.zeros_like(each) for each in plain]
    optimizer = Muon(
        parameters, lr=0.02, weight_decay=0.1, momentum=0.9, nesterov=nesterov, adjust_lr_fn=adjust_lr_fn, route="exact"
    )
    for step in range(5):
        give_gradients(parameters, step)
        optimizer.step()
        for number, parameter in enumerate(parameters):
            gradient = parameter.grad.double()
            buffers[number] = 0.9 * buffers[number] + 0.1 * gradient
            update = 0.1 * gradient + 0.9 * buffers[number] if nesterov else buffers[number]
            scale = update_scale(*parameter.shape, adjust_lr_fn)
            plain[number] = (1 - 0.02 * 0.1) * plain[number] - 0.02 * scale * svd_polar(update)
    for parameter, wanted in zip(parameters, plain, strict=True):
        assert torch.allclose(parameter.double(), wanted, atol=2e-5)


def test_the_scales_are_those_of_the_sources():
    assert update_scale(4, 16, "original") == 1.0
    assert update_scale(16, 4, None) == 2.0
    assert update_scale(4, 16, "match_rms_adamw") == pytest.approx(0.8)
    assert update_scale(4, 16, "spectral") == 0.5
    # What the second is for: a polar factor has squared norm min(m, n), so its root mean square is 1/sqrt(max(m, n)).
    factor = svd_polar(torch.randn(30, 50, generator=torch.Generator().manual_seed(0)))
    rms = factor.square().mean().sqrt() * update_scale(30, 50, "match_rms_adamw")
    assert float(rms) == pytest.approx(0.2, rel=1e-4)


@pytest.mark.skipif(not HAS_TORCH_MUON, reason="this torch has no Muon")
def test_the_route_of_torch_goes_the_way_of_torch():
    ours, theirs = matrices(), matrices()
    one = Muon(ours, lr=0.02, weight_decay=0.1, route="newton-schulz")
    two = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1)
    for step in range(6):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        one.step()
        two.step()
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() < 6 * 0.02 * 0.02 * 1.3  # bfloat16's digits of six steps
        assert torch.equal(one.state[a]["momentum_buffer"], two.state[b]["momentum_buffer"])


@pytest.mark.skipif(not HAS_TORCH_MUON, reason="this torch has no Muon")
def test_checkpoints_of_torch_load_here_and_ours_load_there():
    def run(optimizer, parameters, first, steps):
        for step in range(first, first + steps):
            give_gradients(parameters, step)
            optimizer.step()

    for to_ours in (True, False):
        start, whole = matrices(), matrices()
        makers = [
            lambda parameters: torch.optim.Muon(parameters, lr=0.03, momentum=0.8),
            lambda parameters: Muon(parameters, lr=0.03, momentum=0.8, route="newton-schulz"),
        ]
        first, second = makers if to_ours else makers[::-1]
        one = first(start)
        run(one, start, 0, 4)
        # The new optimizer has other settings until it loads.
        moved = [nn.Parameter(parameter.detach().clone()) for parameter in start]
        two = Muon(moved, lr=1.0, route="newton-schulz") if to_ours else torch.optim.Muon(moved, lr=1.0)
        two.load_state_dict(copy.deepcopy(one.state_dict()))
        assert two.param_groups[0]["lr"] == 0.03
        assert two.param_groups[0]["momentum"] == 0.8
        run(two, moved, 4, 3)
        reference = second(whole)
        run(reference, whole, 0, 7)
        for a, b in zip(moved, whole, strict=True):
            assert (a - b).abs().max() < 7 * 0.03 * 0.026


def test_loading_a_state_of_torch_keeps_our_own_settings():
    parameters = matrices(1)
    optimizer = Muon(parameters, route="exact", polar_every=3)
    state = optimizer.state_dict()
    saved = {name: value for name, value in state["param_groups"][0].items() if name in ("params", "lr", "momentum")}
    optimizer.load_state_dict({"state": {}, "param_groups": [saved | {"lr": 0.5}]})
    group = optimizer.param_groups[0]
    assert (group["route"], group["polar_every"], group["lr"], group["nesterov"]) == ("exact", 3, 0.5, True)


SETTINGS = {
    "default": {},
    "exact": {"route": "exact"},
    "every third": {"polar_every": 3},
    "measured spectrum": {"spectrum_every": 2},
    "smoothed": {"smoothing": 0.3},
    "bfloat16": {"route": "polar-express"},
    "gram": {"route": "gram"},
    "norms": {"nuclear_norms": True},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_descends_and_leaves_gradients_alone(name):
    model = make_model()
    optimizer = Muon(param_groups(model, adamw_lr=0.01), lr=0.02, **SETTINGS[name])
    inputs, labels = make_batch(0)
    first = F.cross_entropy(model(inputs), labels)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        before = [parameter.grad.clone() for parameter in model.parameters()]
        optimizer.step()
        assert all(torch.equal(a, b.grad) for a, b in zip(before, model.parameters(), strict=True))
    assert F.cross_entropy(model(inputs), labels) < 0.5 * first


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_resumes_exactly(name):
    def fresh():
        model = make_model()
        return model, Muon(param_groups(model, adamw_lr=0.01), lr=0.02, **SETTINGS[name])

    whole, optimizer = fresh()
    train(whole, optimizer, 11)
    model, optimizer = fresh()
    train(model, optimizer, 5)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    again, optimizer = fresh()
    again.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    train(again, optimizer, 6, first=5)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_the_factor_is_made_as_often_as_asked_and_the_matrices_take_turns(monkeypatch):
    parameters = [nn.Parameter(torch.randn(6, 8)) for _ in range(4)]
    optimizer = Muon(parameters, polar_every=2, lr=0.1, weight_decay=0.0)
    made = []
    original = Muon._make_factors

    def counted(self, group, some, updates):
        made.append([number for number, each in enumerate(parameters) if any(each is one for one in some)])
        original(self, group, some, updates)

    monkeypatch.setattr(Muon, "_make_factors", counted)
    for step in range(5):
        give_gradients(parameters, step)
        before = [parameter.detach().clone() for parameter in parameters]
        held = [optimizer.state[parameter].get("polar_factor") for parameter in parameters]
        held = [None if each is None else each.clone() for each in held]
        optimizer.step()
        for number, parameter in enumerate(parameters):
            if number not in made[-1]:  # the same direction again, at full length
                assert torch.allclose(before[number] - parameter, 0.1 * held[number], atol=1e-6)
    assert made == [[0, 1, 2, 3], [1, 3], [0, 2], [1, 3], [0, 2]]
    # Without it no factor is kept.
    plain = Muon(parameters)
    plain.step()
    assert set(plain.state[parameters[0]]) == {"momentum_buffer"}


def test_a_kernel_is_the_matrix_of_its_first_axis_by_the_rest():
    kernel, matrix = nn.Parameter(torch.randn(6, 2, 3, 3)), nn.Parameter(torch.empty(6, 18))
    matrix.data = kernel.detach().flatten(1).clone()
    kernel.grad = torch.randn(6, 2, 3, 3).to(memory_format=torch.channels_last)
    matrix.grad = kernel.grad.flatten(1)
    for parameter in (kernel, matrix):
        Muon([parameter], lr=0.1).step()
    assert torch.allclose(kernel.flatten(1), matrix, atol=1e-6)


def test_groups_of_adamw_step_as_torchs_does():
    generator = torch.Generator().manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((7,), (3, 4), ())]
    theirs = [nn.Parameter(parameter.detach().clone()) for parameter in ours]
    settings = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
    one = Muon([{"params": ours, "optimizer": "adamw", **settings}])
    two = torch.optim.AdamW(theirs, **settings)
    for step in range(6):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        if step == 2:  # a parameter that took no part keeps its own count
            ours[0].grad = theirs[0].grad = None
        one.step()
        two.step()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-6)
        assert set(one.state[a]) == set(two.state[b])
        assert int(one.state[a]["step"]) == int(two.state[b]["step"])
    assert "ns_steps" not in one.param_groups[0]


def test_a_group_of_adamw_has_its_own_settings_and_no_others():
    model = make_model()
    optimizer = Muon(param_groups(model), lr=0.02, weight_decay=0.3)
    muon, adamw, vectors = optimizer.param_groups
    assert (muon["lr"], muon["weight_decay"]) == (0.02, 0.3)
    assert (adamw["lr"], adamw["weight_decay"]) == (1e-3, 0.01)
    assert vectors["weight_decay"] == 0.0
    assert "momentum" not in adamw


def test_the_nuclear_norm_is_that_of_the_update():
    parameters = matrices()
    optimizer = Muon(parameters, nuclear_norms=True, tolerance=0.02, nesterov=False, momentum=0.0)
    give_gradients(parameters, 0)
    optimizer.step()
    for parameter in parameters:
        wanted = torch.linalg.svdvals(parameter.grad).sum()
        assert float(optimizer.state[parameter]["nuclear_norm"]) == pytest.approx(float(wanted), rel=0.02)


def test_smoothing_leaves_what_is_noise_small():
    parameter = nn.Parameter(torch.zeros(8, 8))
    values = torch.tensor([1.0] * 4 + [1e-3] * 4)
    parameter.grad = torch.diag(values)
    Muon([parameter], lr=1.0, weight_decay=0.0, smoothing=0.1).step()
    size = 0.1 * math.sqrt(float(values.square().mean()))
    wanted = values / (values.square() + size**2).sqrt()
    assert torch.allclose(-parameter.diagonal(), wanted, atol=1e-5)


def test_a_zero_gradient_moves_nothing_and_nan_is_seen():
    parameter = nn.Parameter(torch.ones(3, 4))
    parameter.grad = torch.zeros(3, 4)
    Muon([parameter], weight_decay=0.0).step()
    assert torch.equal(parameter, torch.ones(3, 4))
    parameter.grad = torch.full((3, 4), math.nan)
    Muon([parameter]).step()
    assert parameter.isnan().all()


def test_the_closure_is_evaluated_with_gradients_and_its_loss_comes_back():
    model = nn.Linear(3, 2, bias=False)
    optimizer = Muon(model.parameters(), lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(4, 3)).square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) > optimizer.step(closure)


def test_learning_rates_may_be_tensors_and_schedules_go():
    parameters = matrices(1)
    optimizer = Muon(parameters, lr=torch.tensor(0.1))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.5, total_iters=2)
    for step in range(3):
        give_gradients(parameters, step)
        optimizer.step()
        schedule.step()
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: Muon([nn.Parameter(torch.ones(3))]), r"must be a matrix.*got shape \(3,\).*param_groups\(model\)"),
        (lambda: Muon(matrices(1), lr=-1.0), "lr must be a finite number and at least 0"),
        (lambda: Muon(matrices(1), momentum=1.0), "momentum must be a finite number"),
        (lambda: Muon(matrices(1), polar_every=0), "polar_every must be an integer of at least 1"),
        (lambda: Muon(matrices(1), adjust_lr_fn="rms"), "adjust_lr_fn must be one of"),
        (lambda: Muon(matrices(1), route="svd"), "route must be one of"),
        (
            lambda: Muon([{"params": matrices(1), "optimizer": "sgd"}]),
            "optimizer of a group must be one of adamw, muon",
        ),
        (lambda: Muon([{"params": matrices(1), "optimizer": "adamw", "betas": (0.9, 1.0)}]), "betas must be"),
    ],
)
def test_bad_arguments_are_refused(make, rule):
    with pytest.raises(InputError, match=rule):
        make()


def test_a_sparse_gradient_is_refused():
    embedding = nn.Embedding(5, 3, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(InputError, match="gradients of Muon must be dense"):
        Muon(embedding.parameters()).step()


def test_work_is_shared_evenly():
    assert owners([], 3) == []
    found = owners([1.0] * 7, 3)
    assert sorted(found.count(rank) for rank in range(3)) == [2, 2, 3]
    assert owners([10.0, 1.0, 1.0, 1.0], 2) == [0, 1, 1, 1]


def test_a_model_in_place_of_its_groups_is_refused_with_the_way_to_them():
    with pytest.raises(
        InputError, match=r"got the module Linear; batchwright.optim.param_groups\(model\) makes the groups"
    ):
        inspect.unwrap(Muon.__init__)(object.__new__(Muon), nn.Linear(2, 2))
