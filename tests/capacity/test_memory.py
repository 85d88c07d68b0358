"""The memory's gradient and loss against autograd, its batches and its draws."""

import pytest
import torch
from torch.nn import functional

from batchwright.capacity import AssociativeMemory
from batchwright.capacity import memory as memory_module
from batchwright.core.errors import InputError


def plain_loss(memory, matrix, weights):
    scores = (memory.inputs.double() @ matrix.mT) @ memory.outputs.double().mT
    return (weights * functional.cross_entropy(scores, torch.arange(memory.num_items), reduction="none")).sum()


@pytest.fixture(scope="module")
def memory():
    return AssociativeMemory(dim=12, num_items=50, alpha=1.5, seed=3)


@pytest.mark.parametrize("scale", [0.0, 1.0, 20.0])
@pytest.mark.parametrize("batch_size", [None, 7])
def test_gradient_and_loss_are_those_of_autograd(memory, scale, batch_size):
    weights = memory.probabilities if batch_size is None else memory.sample_weights(batch_size)
    matrix = scale * torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    matrix.requires_grad_()
    loss = plain_loss(memory, matrix, weights)
    (gradient,) = torch.autograd.grad(loss, matrix)
    given = None if batch_size is None else weights
    # Scores are computed in float32.
    torch.testing.assert_close(memory.negative_gradient(matrix.detach(), given), -gradient, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(memory.loss(matrix.detach(), given), loss.detach(), rtol=1e-5, atol=1e-6)


def test_at_zero_no_scores_are_needed(memory):
    at_zero = memory.negative_gradient(memory.zeros())
    torch.testing.assert_close(memory.negative_gradient(), at_zero, rtol=1e-5, atol=1e-8)


def test_each_draw_is_the_same_alone_and_among_others():
    several = AssociativeMemory(dim=8, num_items=20, alpha=2.0, seed=[4, 9])
    assert several.lead == (2,)
    for place, seed in enumerate((4, 9)):
        alone = AssociativeMemory(dim=8, num_items=20, alpha=2.0, seed=seed)
        assert alone.lead == ()
        assert torch.equal(several.inputs[place], alone.inputs)
        assert torch.equal(several.outputs[place], alone.outputs)
        assert torch.equal(several.sample_weights(5)[place], alone.sample_weights(5))
        torch.testing.assert_close(several.negative_gradient()[place], alone.negative_gradient())


def test_the_result_does_not_depend_on_the_chunks(memory, monkeypatch):
    matrix = torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    whole = memory.negative_gradient(matrix), memory.loss(matrix), memory.negative_gradient()
    monkeypatch.setattr(memory_module, "MAX_SCORES", 3 * memory.num_items)
    assert len(list(memory.chunks(torch.arange(50)))) == 17
    parts = memory.negative_gradient(matrix), memory.loss(matrix), memory.negative_gradient()
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def test_batches_follow_the_frequencies(memory):
    weights = torch.stack([memory.sample_weights(16, step=step) for step in range(4000)])
    assert torch.allclose(weights.sum(-1), torch.ones(4000, dtype=torch.float64))
    assert torch.equal(weights * 16, (weights * 16).round())
    error = (memory.probabilities * (1 - memory.probabilities) / (16 * 4000)).sqrt()
    assert ((weights.mean(0) - memory.probabilities).abs() < 4.5 * error).all()


def test_embeddings_have_unit_length_on_average_and_the_asked_anisotropy():
    found = AssociativeMemory(dim=16, num_items=40_000, alpha=1.5, seed=0, input_decay=1.0)
    assert float(found.outputs.square().sum(-1).mean()) == pytest.approx(1.0, abs=0.01)
    assert float(found.inputs.square().sum(-1).mean()) == pytest.approx(1.0, abs=0.02)
    spectrum = found.inputs.square().mean(0)
    torch.testing.assert_close(spectrum / spectrum[0], 1 / torch.arange(1, 17).float(), rtol=0.05, atol=0.0)
    torch.testing.assert_close(found.probabilities[3] / found.probabilities[0], torch.tensor(4.0).double() ** -1.5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dim": 1}, "dim must be an integer of at least 2, got 1"),
        ({"num_items": 1}, "num_items must be an integer of at least 2, got 1"),
        ({"alpha": 0.0}, "alpha must be a finite number and above 0, got 0.0"),
        ({"seed": []}, "seed must be an integer or a sequence of at least one"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
    ],
)
def test_wrong_arguments_are_named(arguments, words):
    with pytest.raises(InputError, match=words):
        AssociativeMemory(**{"dim": 4, "num_items": 8, "alpha": 2.0, **arguments})


@pytest.mark.slow
def test_a_hundred_thousand_items_of_dimension_1024_fit_8_gib():
    import resource

    from batchwright.capacity import Muon, recovered_items

    memory = AssociativeMemory(dim=1024, num_items=100_000, alpha=2.0, seed=0)
    matrix = Muon()(memory, memory.negative_gradient())
    assert int(recovered_items(memory, matrix, num_queries=3000).sum()) > 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < 8 * 2**30
