"""Per-example norms as a function: what it takes, refuses and leaves behind."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from batchwright.core.errors import InputError, TaskError
from batchwright.measure.per_example import grad_norms, per_example_grad_norms, per_example_sq_norms_by_layer
from batchwright.measure.per_example.contributions import row_sq_norms

Batch = tuple[Tensor, Tensor]


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def make_batch(num_examples: int = 6) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num_examples, 4, generator=generator), torch.arange(num_examples) % 3


def make_model(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), *layers, nn.Linear(8, 3))


def looped(model: nn.Module, batch: Batch) -> Tensor:
    rows = []
    for i in range(len(batch[0])):
        loss = cross_entropy(model, (batch[0][i : i + 1], batch[1][i : i + 1]))[0]
        grads = torch.autograd.grad(loss, list(model.parameters()))
        rows.append(torch.cat([grad.flatten() for grad in grads]).double().norm())
    return torch.stack(rows)


def test_norms_are_not_divided_by_the_number_of_examples() -> None:
    model, batch = make_model(nn.Tanh()), make_batch()
    found = per_example_grad_norms(model, cross_entropy, batch)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, looped(model, batch), rtol=1e-5, atol=0)
    torch.testing.assert_close(per_example_grad_norms(model, cross_entropy, batch, squared=True), found.square())


def test_squared_norms_by_layer_have_the_names_of_the_parameters_and_add_up() -> None:
    model, batch = make_model(nn.Tanh()), make_batch()
    by_layer = per_example_sq_norms_by_layer(model, cross_entropy, batch)
    assert list(by_layer) == [name for name, _ in model.named_parameters()]
    total = torch.stack(list(by_layer.values())).sum(dim=0)
    torch.testing.assert_close(total, per_example_grad_norms(model, cross_entropy, batch, squared=True))


@pytest.mark.parametrize("chunk_size", [1, 4, 100])
def test_norms_do_not_depend_on_the_chunk_size(chunk_size: int) -> None:
    model, batch = make_model(nn.Tanh()), make_batch()
    whole = per_example_grad_norms(model, cross_entropy, batch)
    torch.testing.assert_close(per_example_grad_norms(model, cross_entropy, batch, chunk_size=chunk_size), whole)


def test_a_last_chunk_as_long_as_the_sequences_is_checked_too() -> None:
    torch.manual_seed(0)
    model, batch = nn.Linear(3, 2).double(), torch.randn(7, 3, 3).double()

    def time_first(model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch.transpose(0, 1)).square().sum(dim=(0, 2))

    whole = per_example_grad_norms(model, time_first, batch)
    torch.testing.assert_close(per_example_grad_norms(model, time_first, batch, chunk_size=4), whole)


def test_batches_may_be_nested() -> None:
    model, (x, y) = make_model(nn.Tanh()), make_batch()
    found = per_example_grad_norms(
        model, lambda m, batch: cross_entropy(m, (batch["x"][0], batch["y"])), {"x": [x], "y": y}
    )
    torch.testing.assert_close(found, per_example_grad_norms(model, cross_entropy, (x, y)))


def test_dropout_draws_one_mask_for_the_batch_and_needs_no_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grad_norms, "fallback_sq_norms", None)
    model, batch = make_model(nn.Dropout(0.5)), make_batch()
    torch.manual_seed(3)
    found = per_example_grad_norms(model, cross_entropy, batch)
    torch.manual_seed(3)
    losses = cross_entropy(model, batch)  # the same mask
    for i, loss in enumerate(losses):
        grads = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
        expected = torch.cat([grad.flatten() for grad in grads]).double().norm()
        torch.testing.assert_close(found[i], expected, rtol=1e-5, atol=0)


def test_random_losses_are_checked_under_equal_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grad_norms, "fallback_sq_norms", None)

    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.randn_like(x)

    model, batch = make_model(Noisy().eval()), make_batch()
    torch.manual_seed(3)
    found = per_example_grad_norms(model, cross_entropy, batch)
    torch.testing.assert_close(per_example_grad_norms(model, cross_entropy, batch), found)  # the generator was put back
    torch.manual_seed(4)
    assert not torch.allclose(per_example_grad_norms(model, cross_entropy, batch), found)


def test_norms_of_half_precision_are_within_its_rounding_and_need_no_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grad_norms, "fallback_sq_norms", None)
    model, batch = make_model(nn.LayerNorm(8), nn.Tanh()), make_batch()
    exact = per_example_grad_norms(model, cross_entropy, batch)

    def autocast(model: nn.Module, batch: Batch) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return cross_entropy(model, batch).float()

    torch.testing.assert_close(per_example_grad_norms(model, autocast, batch), exact, rtol=0.03, atol=0)
    half = per_example_grad_norms(model.bfloat16(), cross_entropy, (batch[0].bfloat16(), batch[1]))
    torch.testing.assert_close(half, exact, rtol=0.03, atol=0)


def test_squared_norm_of_millions_of_elements_is_exact_to_float32() -> None:
    values = torch.randn(2, 3_000_001, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(row_sq_norms(values), values.double().square().sum(dim=1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(8), nn.BatchNorm1d(8, track_running_stats=False).eval()])
def test_batch_norm_with_statistics_of_the_batch_is_refused_with_the_way_out(norm: nn.Module) -> None:
    model = make_model(norm)
    with pytest.raises(
        InputError, match=r"got 1, a BatchNorm1d with statistics of the batch; put .* eval mode .* ghost"
    ):
        per_example_grad_norms(model, cross_entropy, make_batch())


def test_functional_batch_norm_in_training_is_refused() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.batch_norm(x, None, None, self.weight, training=True)

    with pytest.raises(InputError, match="examples must not depend on each other"):
        per_example_grad_norms(Model(), cross_entropy, make_batch())


def test_examples_that_depend_on_each_other_are_refused() -> None:
    class Centred(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.mean(dim=0)

    with pytest.raises(InputError, match="got another gradient for one example beside others than alone"):
        per_example_grad_norms(make_model(Centred()), cross_entropy, make_batch())


def test_bad_arguments_are_refused() -> None:
    model, batch = make_model(), make_batch()
    with pytest.raises(InputError, match="chunk_size must be an integer of at least 1, got 0"):
        per_example_grad_norms(model, cross_entropy, batch, chunk_size=0)
    with pytest.raises(TaskError, match="one floating-point loss an example"):
        per_example_grad_norms(model, lambda m, b: cross_entropy(m, b)[:2], batch)
    with pytest.raises(TaskError, match="at least one parameter"):
        per_example_grad_norms(model.requires_grad_(False), cross_entropy, batch)


class Restless(nn.Module):
    """Changes all that a forward pass can change, and fails when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 8)
        self.fails = False
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.train()
        np.random.rand()
        if self.fails and self.calls > 1:
            raise ArithmeticError("told to")
        return torch.dropout(self.lstm(x.unsqueeze(1))[0].squeeze(1), 0.1, True)


def states(model: nn.Module) -> list[object]:
    tensors = [*model.parameters(), *model.buffers()]
    numpy = np.random.get_state()
    return [
        *[tensor.tolist() for tensor in tensors],
        [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
        [module.training for module in model.modules()],
        [p.requires_grad for p in model.parameters()],
        [len(p._backward_hooks or {}) for p in model.parameters()],
        [len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules()],
        torch.get_rng_state().tolist(),
        [numpy[1].tolist(), *numpy[2:]],
        torch.overrides._get_current_function_mode_stack(),
    ]


@pytest.mark.parametrize("fails", [False, True])
def test_a_measurement_leaves_everything_as_it_was_also_when_it_raises(fails: bool) -> None:
    restless = Restless()
    model, batch = make_model(restless), make_batch()
    model.eval()
    restless.fails = fails
    model[0].weight.grad = torch.ones(8, 4)
    model[2].bias.requires_grad_(False)
    grad, before = model[0].weight.grad, states(model)
    if fails:
        with pytest.raises(ArithmeticError, match="told to"):
            per_example_grad_norms(model, cross_entropy, batch)
    else:
        per_example_grad_norms(model, cross_entropy, batch)
    assert states(model) == before
    assert model[0].weight.grad is grad
