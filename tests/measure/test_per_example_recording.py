"""Per-example norms around a user's own forward and backward pass; the layers are in test_per_example_layers."""

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from batchwright.core.errors import InputError
from batchwright.measure.per_example import PerExampleNorms, per_example_grad_norms


def losses(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().sum(dim=1)


def make() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 3)).double(), torch.randn(
        6, 4
    ).double()


def test_norms_are_those_of_the_function_whatever_the_weight_of_an_example() -> None:
    model, batch = make()
    expected = per_example_grad_norms(model, losses, batch, squared=True)
    with PerExampleNorms(model) as norms:
        losses(model, batch).mean().backward()
        torch.testing.assert_close(norms.squared(), expected)
        losses(model, batch).sum().backward()
        torch.testing.assert_close(norms.squared(example_weight=1.0), expected)
        (1024 * losses(model, batch).mean()).backward()
    torch.testing.assert_close(norms.squared(example_weight=1024 / 6), expected)


def test_micro_batches_of_a_step_are_read_one_by_one_while_their_gradient_accumulates() -> None:
    model, batch = make()
    expected = per_example_grad_norms(model, losses, batch, squared=True)
    losses(model, batch).mean().backward()
    grads = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    found = []
    with PerExampleNorms(model) as norms:
        for part in batch.split(4):
            (losses(model, part).sum() / len(batch)).backward()
            found.append(norms.squared(example_weight=1 / len(batch)))
    torch.testing.assert_close(torch.cat(found), expected)
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        torch.testing.assert_close(parameter.grad, grad)


def test_training_goes_the_same_way_with_the_norms_as_without() -> None:
    ends = []
    for measured in (False, True):
        model, batch = make()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
        for _ in range(5):
            optimizer.zero_grad()
            if measured:
                with PerExampleNorms(model) as norms:
                    losses(model, batch).mean().backward()
                    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                norms.squared()
            else:
                losses(model, batch).mean().backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
        ends.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(ends[1], ends[0])


def test_without_the_gradient_none_is_made() -> None:
    model, batch = make()
    with PerExampleNorms(model, keep_gradient=False) as norms:
        losses(model, batch).mean().backward()
    torch.testing.assert_close(norms.squared(), per_example_grad_norms(model, losses, batch, squared=True))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_some_parameters_may_be_measured_alone() -> None:
    model, batch = make()
    with PerExampleNorms(model) as norms:
        losses(model, batch).mean().backward()
    whole = norms.squared_by_parameter()
    with PerExampleNorms(model, parameters=model[2].parameters()) as norms:
        losses(model, batch).mean().backward()
    found = norms.squared_by_parameter()
    assert list(found) == ["2.weight", "2.bias"]
    for name, sq_norms in found.items():
        torch.testing.assert_close(sq_norms, whole[name])
    with pytest.raises(InputError, match="parameters must hold a trainable parameter of the model, got none among 0"):
        PerExampleNorms(model, parameters=[])


def test_two_forward_passes_may_share_a_backward_pass() -> None:
    model, batch = make()
    both = lambda m, x: losses(m, x) + losses(m, 2 * x)  # noqa: E731
    with PerExampleNorms(model) as norms:
        both(model, batch).mean().backward()
    torch.testing.assert_close(norms.squared(), per_example_grad_norms(model, both, batch, squared=True))


def test_evaluation_without_gradients_leaves_no_trace() -> None:
    model, batch = make()
    with PerExampleNorms(model) as norms:
        losses(model, batch).mean().backward()
        with torch.no_grad():
            losses(model, batch[:3])
        assert norms.squared().shape == (6,)


def test_a_backward_pass_of_two_batches_is_refused() -> None:
    model, batch = make()
    with PerExampleNorms(model) as norms:
        (losses(model, batch).sum() + losses(model, batch[:3]).sum()).backward()
    with pytest.raises(InputError, match=r"must be of one batch, got \[3, 6\] examples"):
        norms.squared()


def test_the_number_of_examples_may_be_given_where_the_model_is_not_called_as_a_whole() -> None:
    model, batch = make()
    with PerExampleNorms(model, num_examples=6) as norms:
        model[3](model[0](batch)).square().mean().backward()
    assert norms.squared().shape == (6,)
    with PerExampleNorms(model), pytest.raises(InputError, match="num_examples must be given"):
        model[0](batch)


def test_an_operation_without_a_rule_is_named_and_the_rest_can_be_read() -> None:
    torch.manual_seed(0)
    model, batch = nn.Sequential(nn.Linear(4, 8), nn.PReLU(), nn.Linear(8, 3)), torch.randn(6, 4)
    with PerExampleNorms(model) as norms:
        losses(model, batch).mean().backward()
    assert norms.unfollowed == ["1.weight"]
    with pytest.raises(InputError, match=r"got others for 1\.weight; use per_example_grad_norms"):
        norms.squared()
    assert "1.weight" not in norms.squared_by_parameter(followed_only=True)


def test_reading_at_the_wrong_time_is_refused() -> None:
    model, batch = make()
    norms = PerExampleNorms(model)
    with norms:
        with pytest.raises(InputError, match="after a backward pass, got none"):
            norms.squared()
        losses(model, batch).mean().backward()
        with pytest.raises(InputError, match="got another forward pass"):
            losses(model, batch)
        norms.squared()
        with pytest.raises(InputError, match="after a backward pass, got none"):
            norms.squared()


def test_batch_norm_is_refused_before_anything_is_hooked() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
    with pytest.raises(InputError, match="BatchNorm1d"):
        PerExampleNorms(model)
    PerExampleNorms(model.eval())


def test_hooks_and_mode_are_gone_after_the_context_also_when_it_raises() -> None:
    model, batch = make()
    with pytest.raises(TypeError), PerExampleNorms(model):
        losses(model, batch).backward("wrong")
    assert not any(parameter._backward_hooks for parameter in model.parameters())
    assert not model._forward_pre_hooks
    assert not torch.overrides._get_current_function_mode_stack()


def test_nothing_of_a_step_is_held_after_the_reading() -> None:
    model, batch = make()
    with PerExampleNorms(model) as norms:
        hidden = batch.clone()
        losses(model, hidden).mean().backward()
    norms.squared()
    held = weakref.ref(hidden)
    del hidden
    gc.collect()
    assert held() is None
