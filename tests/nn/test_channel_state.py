"""States: sums, products, concatenation, padding, and what does not fit."""

import pytest
import torch

from batchwright.core.errors import InputError
from batchwright.nn import ChannelState
from batchwright.nn.channel_state import (
    add_states,
    concatenate_states,
    multiply_states,
    pad_channels,
    scale_state,
)

NUM = 400_000


def state(mean, var) -> ChannelState:
    return ChannelState(mean=torch.tensor(mean), var=torch.tensor(var))


def sampled(*, seed: int, mean: float, var: float) -> torch.Tensor:
    return mean + var**0.5 * torch.randn(NUM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def check(found: ChannelState, drawn: torch.Tensor) -> None:
    assert abs(float(found.mean) - drawn.mean()) < 4 * drawn.std() / NUM**0.5
    squared = (drawn - drawn.mean()).square()
    assert abs(float(found.var) - drawn.var()) < 4 * squared.std() / NUM**0.5


def test_sums_products_and_scales_meet_samples():
    first, second = sampled(seed=0, mean=0.5, var=2.0), sampled(seed=1, mean=-1.5, var=0.7)
    one, two = state([[0.5]], [[2.0]]), state([[-1.5]], [[0.7]])
    check(add_states(one, two), first + second)
    check(multiply_states(one, two), first * second)
    check(scale_state(one, -3.0, 1.0), -3 * first + 1)


def test_padding_four_ghosts_of_two_channels_keeps_ghosts_apart():
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    padded = pad_channels(ChannelState(mean=values, var=10 * values), 1, 1)
    rows = ["".join(str(int(number)) for number in row) for row in padded.mean]
    assert rows == ["0120", "0340", "0560", "0780"]
    assert padded.var.tolist() == (10 * padded.mean).tolist()
    # The trap of public code: one long vector padded at its ends.
    assert torch.nn.functional.pad(values.flatten(), (4, 4)).view(4, 4).tolist() != padded.mean.tolist()


def test_concatenation_is_along_channels_and_spreads_a_state_of_one_row():
    joined = concatenate_states([state([[1.0], [2.0]], [[1.0], [1.0]]), state([[5.0, 6.0]], [[2.0, 3.0]])])
    assert joined.mean.tolist() == [[1.0, 5.0, 6.0], [2.0, 5.0, 6.0]]
    assert joined.var.tolist() == [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]


def test_flattening_repeats_each_channel_once_a_pixel():
    assert state([[1.0, 2.0]], [[3.0, 4.0]]).repeated(2).mean.tolist() == [[1.0, 1.0, 2.0, 2.0]]


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"one shape \(ghost batches, channels\), got \(1, 2\) and \(1, 1\)"):
        state([[1.0, 2.0]], [[1.0]])
    with pytest.raises(InputError, match="one shape"):
        state([1.0], [1.0])
    wide, narrow = state([[1.0, 2.0]], [[1.0, 1.0]]), state([[1.0]], [[1.0]])
    with pytest.raises(InputError, match=r"same ghost batches and channels, got \(1, 2\) and \(1, 1\)"):
        add_states(wide, narrow)
    three, two = state([[1.0]] * 3, [[1.0]] * 3), state([[1.0]] * 2, [[1.0]] * 2)
    with pytest.raises(InputError, match="same ghost_size in every layer"):
        concatenate_states([three, two])
    with pytest.raises(InputError, match=r"prior must be of shape \(4, 1\) or \(1, 1\)"):
        three.checked(4, 1)
    with pytest.raises(InputError, match="at least one state"):
        concatenate_states([])
