"""Conversion of whole models: what is kept, what is reported, what is refused."""

import copy

import pytest
import torch
from tests.nn.models import MODELS
from torch import nn

import batchwright as bw
from batchwright.core.errors import InputError
from batchwright.nn import REGISTRY, GhostBatchNorm1d, GhostBatchNorm2d


@pytest.mark.parametrize("name", MODELS)
def test_evaluation_of_a_published_model_is_unchanged_by_ghosts(name):
    make, shape = MODELS[name]
    torch.manual_seed(0)
    model = make()
    x = torch.randn(shape)
    with torch.no_grad():
        model.train()(x)  # running statistics that are not 0 and 1
        expected = model.eval()(x)
    num_norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    state = copy.deepcopy(model.state_dict())
    done = bw.nn.convert(model, "ghost", ghost_size=2)
    assert done.model is model
    assert len(done.changed) == num_norms
    assert not done.kept
    assert sum(isinstance(module, GhostBatchNorm2d) for module in model.modules()) == num_norms
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    out = model.train()(x)
    out.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("to", REGISTRY)
def test_parameters_stay_the_same_tensors_with_mode_and_requires_grad(to):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, dtype=torch.float64), nn.ReLU()).eval()
    model[1].weight.requires_grad_(False)
    weight, bias = model[1].weight, model[1].bias
    bw.nn.convert(model, to)
    assert model[1].weight is weight
    assert model[1].bias is bias
    assert not weight.requires_grad
    assert not model[1].training


@pytest.mark.parametrize("to", REGISTRY)
def test_a_converted_model_trains_loads_its_own_state_and_says_what_was_done(to):
    def make():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm1d(8))

    model, other = make(), make()
    done = bw.nn.convert(model, to)
    assert done.to == to
    assert len(done.changed) + len(done.kept) == 2
    assert all(each.why for each in (*done.changed, *done.kept))
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    model(x).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    bw.nn.convert(other, to)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(x), model.eval()(x))


@pytest.mark.parametrize("to", REGISTRY)
def test_kin_of_batch_norms_become_batch_norms_again_and_what_is_none_stays(to):
    model = nn.Sequential(nn.BatchNorm1d(4, eps=1e-3, momentum=None), nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    bw.nn.convert(model, to)
    was = [type(layer) for layer in model]
    bw.nn.convert(model, "batch")
    torchs = [nn.BatchNorm1d, nn.Conv2d, nn.BatchNorm2d]
    for old, new, torch_one in zip(was, map(type, model), torchs, strict=True):
        assert new is (torch_one if issubclass(old, nn.modules.batchnorm._BatchNorm) else old)
    assert not isinstance(model[0], nn.BatchNorm1d) or (model[0].eps, model[0].momentum) == (1e-3, None)


def test_a_shared_layer_stays_one_layer():
    shared = nn.BatchNorm1d(4)
    model = nn.ModuleDict({"a": nn.Sequential(nn.Linear(4, 4), shared), "b": shared})
    done = bw.nn.convert(model, "ghost")
    assert model["b"] is model["a"][1]
    assert isinstance(model["b"], GhostBatchNorm1d)
    assert done.changed[0].names == ("a.1", "b")


def test_a_model_that_is_a_norm_itself_is_returned_new():
    done = bw.nn.convert(nn.BatchNorm1d(4), "ghost", ghost_size=8)
    assert isinstance(done.model, GhostBatchNorm1d)
    assert "(the model itself): BatchNorm1d(4" in str(done)


class OwnBatchNorm(nn.BatchNorm1d):
    pass


def test_what_cannot_be_replaced_is_reported_with_the_reason():
    hooked, frozen = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
    hooked.register_forward_hook(lambda *_: None)
    model = nn.Sequential(
        nn.LayerNorm(4),
        nn.SyncBatchNorm(4),
        OwnBatchNorm(4),
        hooked,
        frozen,
        nn.LazyBatchNorm1d(),
        nn.InstanceNorm1d(4),
    )
    frozen.eval()
    done = bw.nn.convert(model, "ghost")
    assert not done.changed
    reasons = {kept.names[0]: kept.why for kept in done.kept}
    words = [
        "one example",
        "all ranks",
        "class of its own",
        "hooks",
        "frozen",
        "does not know its channels",
        "one example",
    ]
    for place, word in enumerate(words):
        assert word in reasons[str(place)], word
    assert "0 layers changed, 7 kept" in str(done)


def test_a_report_of_many_layers_says_what_they_share_once():
    model = nn.Sequential(nn.BatchNorm2d(8), nn.BatchNorm2d(16), nn.BatchNorm2d(32, momentum=0.2))
    lines = str(bw.nn.convert(model, "ghost", ghost_size=2)).splitlines()
    assert max(map(len, lines)) < 136
    assert lines[1].startswith("  all of them, before and after: eps=1e-05, ")
    assert "momentum" not in lines[1]
    assert "ghost_size=2" in lines[2]
    assert lines[3].startswith("  0: BatchNorm2d(8, momentum=0.1) -> GhostBatchNorm2d(8, momentum=0.1) (")
    assert lines[5].startswith("  2: BatchNorm2d(32, momentum=0.2) -> GhostBatchNorm2d(32, momentum=0.2) (")


def test_unknown_targets_and_options_are_refused():
    with pytest.raises(InputError, match=f"to must be one of {', '.join(sorted(REGISTRY))}"):
        bw.nn.convert(nn.BatchNorm1d(4), "goast")
    with pytest.raises(InputError, match=r"options of to='ghost' must be among ghost_size, .*got size"):
        bw.nn.convert(nn.BatchNorm1d(4), "ghost", size=4)


def test_a_layer_that_cannot_be_what_is_asked_is_named_and_nothing_has_changed():
    model = nn.Sequential(nn.BatchNorm1d(8), nn.Sequential(nn.BatchNorm1d(6)))
    with pytest.raises(InputError, match=r"layer '1.0' cannot become group: num_groups must divide.*6 channels"):
        bw.nn.convert(model, "group", num_groups=4)
    assert all(type(layer) is nn.BatchNorm1d for layer in (model[0], model[1][0]))
