"""Whatever is done to a model inside the context, it comes back as it was; so do the random generators."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from batchwright.core.preserve import RandomState, preserved


class Net(nn.Module):
    """Tied weights, dropout, batch norm, a frozen layer, one sub-module in eval mode, and a buffer that is bound anew."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)
        self.drop = nn.Dropout(0.5)
        self.decoder = nn.Linear(6, 6)
        self.decoder.weight = self.encoder.weight
        self.frozen = nn.Linear(6, 2).requires_grad_(False).eval()
        self.register_buffer("running", torch.zeros(6))
        self.register_buffer("lazy", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.running = 0.9 * self.running + 0.1 * x.mean(dim=0).detach()
            self.lazy = x.mean().detach()
        return self.frozen(self.decoder(self.drop(self.norm(self.encoder(x)))) + self.running)


def make_model() -> Net:
    """A model that has been used: running statistics, gradients, and one parameter without a gradient."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Net()
        model(torch.randn(8, 6)).sum().backward()
    model.norm.bias.grad = None
    return model


def photograph(model: nn.Module) -> dict[str, object]:
    """All that must come back; tensors by value, and by identity where the objects themselves must."""
    return {
        "values": {name: value.clone() for name, value in model.state_dict().items()},
        "parameters": [(name, id(value)) for name, value in model.named_parameters(remove_duplicate=False)],
        "buffers": [(name, id(value)) for name, value in model.named_buffers(remove_duplicate=False)],
        "grads": [(id(parameter.grad), parameter.grad is None) for parameter in model.parameters()],
        "grad values": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "lazy": model.lazy,
    }


def assert_same(found: dict[str, object], expected: dict[str, object]) -> None:
    for name, value in expected["values"].items():
        assert torch.equal(found["values"][name], value), name
    assert found["values"].keys() == expected["values"].keys()
    for mine, its in zip(found["grad values"], expected["grad values"], strict=True):
        assert (mine is None and its is None) or torch.equal(mine, its)
    for name in ("parameters", "buffers", "grads", "requires_grad", "modes", "lazy"):
        assert found[name] == expected[name], name


def draws() -> list[float]:
    """One number of each global generator."""
    return [float(torch.rand(())), float(np.random.rand()), random.random()]


def forward_in_training_mode(model: Net) -> None:
    model(torch.randn(8, 6))


def backward(model: Net) -> None:
    assert all(parameter.grad is None for parameter in model.parameters())
    model(torch.randn(8, 6)).square().sum().backward()


def replace_gradients(model: Net) -> None:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)


def move_modes(model: Net) -> None:
    model.eval()
    model.frozen.train()


def unfreeze(model: Net) -> None:
    model.requires_grad_(True)
    model.encoder.weight.requires_grad_(False)


def train(model: Net) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(8, 6)).square().sum().backward()
        optimizer.step()


def poison(model: Net) -> None:
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            tensor.fill_(float("nan") if tensor.is_floating_point() else -1)


def bind_anew(model: Net) -> None:
    model.encoder.weight = nn.Parameter(torch.zeros(6, 6))
    model.norm.running_mean = torch.ones(6)
    model.register_buffer("extra", torch.ones(1))
    model.frozen.register_parameter("bias", None)


def draw_numbers(_model: Net) -> None:
    torch.manual_seed(99)
    np.random.seed(99)
    random.seed(99)
    draws()


BODIES = [
    forward_in_training_mode,
    backward,
    replace_gradients,
    move_modes,
    unfreeze,
    train,
    poison,
    bind_anew,
    draw_numbers,
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
@pytest.mark.parametrize("raises", [False, True])
def test_the_model_and_the_generators_come_back(body: Callable[[Net], None], raises: bool):
    model, own = make_model(), torch.Generator().manual_seed(5)
    before, random_state = photograph(model), RandomState.capture()
    random_state.restore()
    unmeasured, expected_own = draws(), torch.rand(3, generator=own)
    # The type checks of this test run take numbers from Python's own generator, the same ones around any body.
    random_state.restore()
    with preserved(model, generators=[own]):
        pass
    expected = [*unmeasured[:2], draws()[2]]
    random_state.restore()
    own.manual_seed(5)

    def run() -> None:
        with preserved(model, generators=[own]):
            torch.rand(7, generator=own)
            body(model)
            if raises:
                raise KeyError("from the body")

    if raises:
        with pytest.raises(KeyError, match="from the body"):
            run()
    else:
        run()

    assert_same(photograph(model), before)
    assert model.decoder.weight is model.encoder.weight
    assert draws() == expected
    assert torch.equal(torch.rand(3, generator=own), expected_own)


def test_contexts_nest():
    model = make_model()
    before = photograph(model)
    with preserved(model):
        train(model)
        between = photograph(model)
        with preserved(model):
            train(model)
        assert_same(photograph(model), between)
    assert_same(photograph(model), before)


def test_an_optimizer_of_the_user_goes_on_as_if_nothing_had_been_measured():
    def run(measure: bool) -> torch.Tensor:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.randn(8, 6)).square().sum().backward()
            if measure:
                with preserved(model):
                    model(torch.randn(20, 6)).sum().backward()
            optimizer.step()
        return torch.cat([value.reshape(-1).double() for value in model.state_dict().values()])

    with preserved(nn.Identity()):
        assert torch.equal(run(measure=True), run(measure=False))


def test_a_model_without_parameters_is_kept_too():
    model = nn.Sequential(nn.ReLU(), nn.Dropout(0.5))
    model[1].eval()
    with preserved(model):
        model.train()
    assert [module.training for module in model.modules()] == [True, True, False]


def test_random_state_restores_what_it_captured_any_number_of_times():
    with preserved(nn.Identity()):
        state = RandomState.capture()
        state.restore()
        first = draws()
        for _ in range(2):
            state.restore()
            assert draws() == first
        assert draws() != first
