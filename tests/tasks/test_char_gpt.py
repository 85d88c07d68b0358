"""The character task: its text, its loss and that no position sees what it predicts."""

import pytest
import torch

from batchwright.core.errors import DataError
from batchwright.core.vectors import num_parameters
from batchwright.tasks.char_gpt import (
    CharGPT,
    char_gpt,
    encode,
    next_symbol_accuracy,
    sequence_loss,
    standard_library_text,
)
from batchwright.tasks.loading import load_task


@pytest.fixture
def model() -> CharGPT:
    torch.manual_seed(0)
    return CharGPT(num_symbols=11, context=8)


def test_a_position_does_not_see_what_follows(model):
    symbols = torch.randint(11, (2, 8), generator=torch.Generator().manual_seed(0))
    changed = symbols.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 11
    before, after = model(symbols), model(changed)
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert (before[:, 5] - after[:, 5]).abs().max() > 1e-3


def test_attention_is_that_of_the_formula(model):
    block = model.blocks[0]
    hidden = torch.randn(2, 8, 128, generator=torch.Generator().manual_seed(0))
    query, key, value = block.qkv(block.norm1(hidden)).chunk(3, dim=-1)
    mixed = torch.zeros_like(query)
    for head in range(4):
        part = slice(32 * head, 32 * head + 32)
        scores = query[..., part] @ key[..., part].transpose(1, 2) / 32**0.5
        weights = scores.masked_fill(torch.ones(8, 8).triu(1).bool(), -torch.inf).softmax(dim=2)
        mixed[..., part] = weights @ value[..., part]
    middle = hidden + block.project(mixed)
    torch.testing.assert_close(block(hidden), middle + block.mlp(block.norm2(middle)), rtol=1e-4, atol=1e-5)


def test_the_loss_of_a_sequence_is_the_mean_over_its_positions(model):
    symbols = torch.randint(11, (3, 9), generator=torch.Generator().manual_seed(0))
    log_probabilities = model(symbols[:, :-1]).log_softmax(dim=2)
    slow = [-sum(log_probabilities[i, t, symbols[i, t + 1]] for t in range(8)) / 8 for i in range(3)]
    torch.testing.assert_close(sequence_loss(model, (symbols,)), torch.stack(slow))
    right = [sum(log_probabilities[i, t].argmax() == symbols[i, t + 1] for t in range(8)) / 8 for i in range(3)]
    torch.testing.assert_close(next_symbol_accuracy(model, (symbols,)), torch.stack(right).float())


def test_a_fresh_model_is_near_the_uniform_distribution(model):
    symbols = torch.randint(11, (16, 9), generator=torch.Generator().manual_seed(0))
    loss = sequence_loss(model, (symbols,)).mean().item()
    assert 2.0 < loss < 3.0  # log 11 = 2.4


def test_the_offline_text_is_plain_long_and_the_same_each_time(monkeypatch):
    monkeypatch.delenv("BATCHWRIGHT_DATA", raising=False)
    text = standard_library_text()
    assert 500_000 < len(text) < 5_000_000
    assert text == standard_library_text()
    task = char_gpt()
    assert "Python" in task.description
    assert task.train.tensors[0].shape[1] == 65
    assert len(task.evaluation) <= 512


def test_each_sequence_goes_on_where_the_last_one_ended(monkeypatch):
    monkeypatch.delenv("BATCHWRIGHT_DATA", raising=False)
    task = char_gpt()
    sequences = task.train.tensors[0]
    symbols, _ = encode(standard_library_text())
    assert torch.equal(sequences[:-1, -1], sequences[1:, 0])
    assert torch.equal(sequences[:, :-1].flatten(), symbols[: 64 * len(sequences)])


def test_symbols_are_positions_in_the_sorted_alphabet():
    symbols, size = encode("bca\u00e9a")
    assert symbols.tolist() == [2, 3, 1, 0, 1]  # what is outside ASCII is "?", which comes before the letters
    assert size == 4


def test_a_python_without_sources_is_told_apart():
    with pytest.raises(
        DataError, match=r"at least 100000 characters, got 0; this Python has no sources: .*--data-root"
    ):
        standard_library_text(("sys", "batchwright_no_such_module"))


def test_a_data_root_without_the_text_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"data file must be there, got '.*tinyshakespeare/input.txt'"):
        char_gpt(tmp_path)


@pytest.mark.shared_data
def test_tiny_shakespeare_has_65_symbols_and_its_first_nine_tenths_are_for_training(data_root):
    task = char_gpt(data_root)
    assert len(task.train) == (1_115_394 * 9 // 10 - 1) // 64
    # A block has 198,272; embeddings of 65 symbols and 64 positions; last norm and head
    assert num_parameters(task.make_model(0)) == 2 * 198_272 + (65 + 64) * 128 + 2 * 128 + 65 * 129


def test_the_small_size_is_the_same_task_in_little(monkeypatch):
    monkeypatch.delenv("BATCHWRIGHT_DATA", raising=False)
    task, large = load_task("char-gpt:small"), char_gpt()
    assert (task.name, task.batch_size, task.sequence_length) == ("char-gpt:small", 16, 32)
    symbols, large_symbols = task.train.tensors[0], large.train.tensors[0]
    assert symbols.shape[1] == 33
    assert torch.equal(symbols[:, :-1].flatten()[: 64 * 100], large_symbols[:100, :-1].flatten())
    # Two blocks of width 32: 4 matrices of 12 * 32^2 together with their biases, two norms.
    num_symbols = task.make_model(0).head.out_features
    block = 12 * 32**2 + (3 + 1 + 4 + 1) * 32 + 2 * 2 * 32
    assert num_parameters(task.make_model(0)) == 2 * block + (num_symbols + 32) * 32 + 2 * 32 + num_symbols * 33
    losses = task.loss(task.make_model(0), [symbols[:4]])
    assert losses.shape == (4,)
