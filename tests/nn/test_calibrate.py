"""Calibration against the statistics of all values at once, and what it leaves alone."""

import copy

import pytest
import torch
from torch import nn

from batchwright.core.errors import InputError
from batchwright.nn import GhostBatchNorm2d, calibrate


@pytest.mark.parametrize("make", [nn.BatchNorm2d, lambda channels, **kw: GhostBatchNorm2d(channels, 2, **kw)])
def test_statistics_of_unequal_batches_are_those_of_all_values_at_once(make):
    torch.manual_seed(0)
    batches = [torch.randn(size, 3, 4, 5, dtype=torch.float64) * size + size for size in (8, 3, 5)]
    layer = make(3, dtype=torch.float64)
    assert calibrate(layer, batches) == ("",)
    values = torch.cat(batches).transpose(0, 1).flatten(1)
    torch.testing.assert_close(layer.running_mean, values.mean(dim=1), rtol=1e-12, atol=0)
    torch.testing.assert_close(layer.running_var, values.var(dim=1), rtol=1e-12, atol=0)
    assert int(layer.num_batches_tracked) == 3


def test_of_one_batch_evaluation_is_training_but_for_bessels_factor():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6, eps=1e-12), nn.ReLU(), nn.Linear(6, 3), nn.BatchNorm1d(3, eps=1e-12)
    )
    model.double()
    x = torch.randn(16, 4, dtype=torch.float64)
    calibrate(model, [x])
    trained = copy.deepcopy(model)(x)
    model[1].running_var *= 15 / 16
    model[4].running_var *= 15 / 16
    torch.testing.assert_close(model.eval()(x), trained, rtol=0, atol=1e-9)


def test_the_rest_of_the_model_is_left_alone_and_dropout_is_off():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4), nn.BatchNorm1d(4, track_running_stats=False)
    )
    model[2].eval()
    grads = torch.ones_like(model[0].weight)
    model[0].weight.grad = grads
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    generator = torch.get_rng_state()
    x = torch.randn(32, 4)
    state = torch.get_rng_state()
    assert calibrate(model, [(x, None)]) == ("2",)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(generator, state)
    assert [module.training for module in model.modules()] == modes
    assert model[0].weight.grad is grads
    after = model.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"2.running_mean", "2.running_var", "2.num_batches_tracked"}
    torch.testing.assert_close(model[2].running_mean, model[0](x).mean(dim=0).detach())
    assert not model[2]._forward_pre_hooks


def test_a_shared_layer_pools_its_uses_and_an_unused_one_stays():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.unused = nn.BatchNorm1d(2), nn.BatchNorm1d(2)

        def forward(self, x):
            return self.norm(x) + self.norm(x + 10.0)

    model = Twice()
    x = torch.randn(64, 2)
    assert calibrate(model, [x]) == ("norm",)
    values = torch.cat([x, x + 10.0])
    torch.testing.assert_close(model.norm.running_mean, values.mean(dim=0))
    torch.testing.assert_close(model.norm.running_var, values.var(dim=0))
    assert int(model.unused.num_batches_tracked) == 0


def test_a_loss_may_run_the_model():
    model = nn.Sequential(nn.BatchNorm1d(2))
    calibrate(model, [{"x": torch.ones(4, 2)}], forward=lambda model, batch: model(batch["x"]).sum())
    assert model[0].running_mean.tolist() == [1.0, 1.0]


def test_nothing_changes_when_it_raises():
    model = nn.Sequential(nn.BatchNorm1d(2))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match="at least one batch, got none"):
        calibrate(model, [])
    with pytest.raises(InputError, match="finite values, got others at layer '0'"):
        calibrate(model, [torch.full((4, 2), torch.nan)])
    with pytest.raises(ValueError, match="expected 2D or 3D"):
        calibrate(model, [torch.ones(4, 2), torch.ones(4, 2, 2, 2)])
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    with pytest.raises(InputError, match="must have batch normalization layers"):
        calibrate(nn.Linear(2, 2), [torch.ones(4, 2)])
