"""A small char-gpt trained with Scion: one run of the grid, or one of the schedules.

The network is that of the task ``char-gpt`` with one layer, width 32 and sequences of 16 characters, so that a step may hold as few as
16 tokens: at the task's 64 the best batch of a small budget is a single sequence, and there is no left side of the U.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from batchwright.core.preserve import RandomState
from batchwright.data.readers import find_data_root, read_text, resolve_data_root
from batchwright.measure import conditional_gradient_constants
from batchwright.studies.conditional_gradient.scion_run import fit, make_scion
from batchwright.studies.streams import stream
from batchwright.studies.study import Place
from batchwright.tasks.char_gpt import CharGPT, encode, sequence_loss, standard_library_text

CONTEXT, WIDTH, NUM_HEADS, NUM_LAYERS = 16, 32, 4, 1
EVALUATION_CHUNK = 1024
# Nats above which points are left out of the fit of mu, as in the paper.
MAX_LOSS = 5.0


@lru_cache(maxsize=2)
def load_text(root: Path | None) -> tuple[Int[Tensor, " T"], Int[Tensor, " V"], int]:
    """Training symbols (the first 90 % of the text), those for evaluation, and the size of the alphabet.

    Tiny Shakespeare under a data root; without one, sources of the standard library, as for the task.
    """
    text = standard_library_text() if root is None else read_text(root / "tinyshakespeare/input.txt")
    symbols, num_symbols = encode(text)
    cut = len(symbols) * 9 // 10
    return symbols[:cut], symbols[cut:], num_symbols


def run_language(
    place: Place, *, budgets: Sequence[int], batch_size: int, lr: float, seed: int, num_evaluation: int = 0
) -> Mapping[str, Any]:
    """Train from the seed's weights on the seed's sequences and evaluate.

    All runs of a seed begin with the same weights and see the same sequences in the same order; they differ by where the steps end.

    Args:
        place: Where the text is.
        budgets: Totals of tokens of the schedule; one for a fixed batch and step size.
        batch_size: Sequences in a step, at first.
        lr: Step size, at first.
        seed: Of weights and sequences.
        num_evaluation: Sequences that are evaluated, from the first on; 0 for all.

    Returns:
        ``loss`` in nats a character on the part held out, and what `fit` gives.
    """
    train, evaluation, num_symbols = _text(place)
    network = _network(num_symbols, seed).to(place.device)
    optimizer = make_scion(network, lr)
    sequences_of = _sequences(train, budgets[-1] // CONTEXT, seed)

    def gradient(first: int, number: int) -> float:
        optimizer.zero_grad()
        loss = sequence_loss(network, [sequences_of(first, number).to(place.device)]).mean()
        loss.backward()
        return float(loss.detach())

    found = fit(optimizer, gradient, budgets=budgets, batch_size=batch_size, sequence_length=CONTEXT, lr=lr)
    sequences = evaluation.unfold(0, CONTEXT + 1, CONTEXT)
    sequences = sequences[:num_evaluation] if num_evaluation else sequences
    with torch.no_grad():
        parts = [
            sequence_loss(network, [part.to(place.device)]).double().sum() for part in sequences.split(EVALUATION_CHUNK)
        ]
    return {
        **found,
        "loss": float(torch.stack(parts).sum()) / len(sequences),
        "num_parameters": sum(parameter.numel() for parameter in network.parameters()),
        "num_gradients": float(found["used"] // CONTEXT),
    }


def measure_constants(
    place: Place, *, batch_size: int, lr: float, num_steps: int, last: int, seed: int
) -> Mapping[str, Any]:
    """The constants of the bound along a run of constant step size, and where the rule puts its two thresholds.

    Args:
        place: Where the text is.
        batch_size: Sequences in a step.
        lr: Step size.
        num_steps: Steps of the run.
        last: Steps at its end that give smoothness, norm ratio and noise.
        seed: Of weights and sequences.

    Returns:
        ``smoothness``, ``mu``, ``rho`` and ``sigma``, the last of one token, each as value, low and high.
    """
    train, _, num_symbols = _text(place)
    network = _network(num_symbols, seed).to(place.device)
    sequences_of = _sequences(train, batch_size * (num_steps + 1), seed)
    found = conditional_gradient_constants(
        network,
        sequence_loss,
        make_scion(network, lr),
        [[sequences_of(batch_size * step, batch_size).to(place.device)] for step in range(num_steps + 1)],
        last=last,
        max_loss=MAX_LOSS,
    )
    intervals = {
        "smoothness": found.smoothness,
        "mu": found.mu,
        "rho": found.rho,
        "sigma": found.sigma.scaled(CONTEXT**0.5),
    }
    return {
        **{name: [each.value, each.low, each.high] for name, each in intervals.items()},
        "num_gradients": float(found.num_gradients * batch_size),
    }


def _text(place: Place) -> tuple[Int[Tensor, " T"], Int[Tensor, " V"], int]:
    return load_text(None if find_data_root(place.data_root) is None else resolve_data_root(place.data_root))


def _network(num_symbols: int, seed: int) -> CharGPT:
    before = RandomState.capture()
    try:
        torch.manual_seed(stream(seed, "conditional-gradient", "weights").initial_seed())
        return CharGPT(
            num_symbols=num_symbols, context=CONTEXT, width=WIDTH, num_heads=NUM_HEADS, num_layers=NUM_LAYERS
        )
    finally:
        before.restore()


def _sequences(train: Int[Tensor, " T"], number: int, seed: int) -> Callable[[int, int], Int[Tensor, "B T1"]]:
    """Sequences ``first`` to ``first + number`` of a seed, at random places of the text."""
    generator = stream(seed, "conditional-gradient", "sequences")
    starts = torch.randint(0, len(train) - CONTEXT, (number,), generator=generator)
    places = torch.arange(CONTEXT + 1)
    return lambda first, number: train[starts[first : first + number, None] + places]
