"""One run of the published NanoGPT layout, or a part of its tokens: on a GPU in bfloat16, in parts that a kill loses one of."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from batchwright.core.preserve import RandomState
from batchwright.data.readers import resolve_data_root
from batchwright.data.token_files import TokenFiles, find_token_files
from batchwright.optim import Scion
from batchwright.studies.conditional_gradient.nanogpt import make_nanogpt, sequence_losses
from batchwright.studies.conditional_gradient.scion_run import fit, make_scion
from batchwright.studies.state_files import load_state, save_state
from batchwright.studies.streams import stream
from batchwright.studies.study import Place

# Under the data root, as the public speed runs name them.
FOLDER, TRAIN_FILES, EVALUATION_FILES = "fineweb10B", "fineweb_train_*.bin", "fineweb_val_*.bin"
# Matrices begin at the edge of their ball, as in the authors' code; the proof asks for half of it. At the edge of its own ball the tied
# embedding would begin with logits in the tens, so it has the deviation that is common for tied weights.
START, EMBEDDING_DEVIATION = 1.0, 0.02


def run_nanogpt(
    place: Place,
    *,
    layout: Mapping[str, int],
    budgets: Sequence[int],
    batch_size: int,
    sequence_length: int,
    lr: float,
    seed: int,
    micro_batch_size: int,
    num_evaluation: int,
    run: str,
    part: int = 0,
    num_parts: int = 1,
) -> Mapping[str, Any]:
    """Train the network, or one part of its tokens; the last part evaluates it.

    Args:
        place: Where to compute, where the token files are, and where the state between parts is kept.
        layout: Sizes of the network.
        budgets: Totals of tokens of the schedule; one for a fixed batch and step size.
        batch_size: Sequences in a step, at first.
        sequence_length: Tokens in a sequence.
        lr: Step size, at first.
        seed: Of the weights; the sequences come in the order of the files.
        micro_batch_size: Sequences in one forward pass.
        num_evaluation: Sequences of the held-out files that are evaluated, from the first on.
        run: Name of the run, for the files of its state.
        part: Number of this part.
        num_parts: Parts of the run.

    Returns:
        ``used``, ``num_steps`` so far and ``batch_sizes`` as of `fit`; of the last part also ``loss``, in nats a token.

    Raises:
        DataError: If the token files are not there, or are of another vocabulary.
        RecordError: If the state of the part before is missing.
    """
    folder = resolve_data_root(place.data_root) / FOLDER
    texts = [
        TokenFiles(
            paths=find_token_files(folder, pattern),
            sequence_length=sequence_length,
            num_symbols=layout["num_symbols"],
        )
        for pattern in (TRAIN_FILES, EVALUATION_FILES)
    ]
    network, optimizer = _begin(place, layout, lr, seed)
    stem = run.replace("/", "-")
    used, num_steps = _load(place, f"{stem}-part-{part - 1:02d}", network, optimizer) if part else (0, 0)

    def gradient(first: int, number: int) -> float:
        optimizer.zero_grad()
        total = torch.zeros((), device=place.device)
        for begin in range(0, number, micro_batch_size):
            size = min(micro_batch_size, number - begin)
            with _precision(place):
                losses = sequence_losses(network, _read(texts[0], first + begin, size, place))
            (losses.sum() / number).backward()
            total += losses.detach().sum()
        return float(total) / number

    found = fit(
        optimizer,
        gradient,
        budgets=budgets,
        batch_size=batch_size,
        sequence_length=sequence_length,
        lr=lr,
        first=used,
        last=math.ceil(budgets[-1] * (part + 1) / num_parts),
    )
    steps = num_steps + int(found["num_steps"])
    ended = part == num_parts - 1
    if not ended:
        _save(place, f"{stem}-part-{part:02d}", network, optimizer, int(found["used"]), steps)
    return {
        "used": found["used"],
        "num_steps": steps,
        "batch_sizes": found["batch_sizes"],
        "num_gradients": float((int(found["used"]) - used) // sequence_length),
        **({"loss": _evaluate(network, texts[1], num_evaluation, micro_batch_size, place)} if ended else {}),
    }


def _begin(place: Place, layout: Mapping[str, int], lr: float, seed: int) -> tuple[nn.Module, Scion]:
    before = RandomState.capture()
    try:
        network = make_nanogpt(layout).to(place.device)
    finally:
        before.restore()
    optimizer = make_scion(network, lr)
    generator = stream(seed, "conditional-gradient", "nanogpt")
    optimizer.init(generator, part=START)
    weight = network.tokens.weight
    with torch.no_grad():
        weight.copy_(torch.randn(weight.shape, generator=generator) * EMBEDDING_DEVIATION)
    return network, optimizer


def _precision(place: Place) -> AbstractContextManager[Any]:
    return torch.autocast("cuda", torch.bfloat16) if place.device.type == "cuda" else nullcontext()


def _read(text: TokenFiles, first: int, number: int, place: Place) -> Tensor:
    return torch.from_numpy(text.read(first, number)).to(place.device)


@torch.no_grad()
def _evaluate(network: nn.Module, text: TokenFiles, number: int, micro_batch_size: int, place: Place) -> float:
    number = min(number, len(text))
    total = torch.zeros((), dtype=torch.float64, device=place.device)
    for begin in range(0, number, micro_batch_size):
        with _precision(place):
            batch = _read(text, begin, min(micro_batch_size, number - begin), place)
            total += sequence_losses(network, batch).double().sum()
    return float(total) / number


def _save(place: Place, stem: str, network: nn.Module, optimizer: Scion, used: int, num_steps: int) -> None:
    # By parameter, since its tied weights have two names in a state dict.
    tensors = {"progress": torch.tensor([used, num_steps])}
    for index, parameter in enumerate(network.parameters()):
        tensors[f"weight.{index}"] = parameter
        tensors[f"momentum.{index}"] = optimizer.state[parameter]["momentum_buffer"]
    save_state(place, stem, tensors)


@torch.no_grad()
def _load(place: Place, stem: str, network: nn.Module, optimizer: Scion) -> tuple[int, int]:
    tensors = load_state(place, stem)
    for index, parameter in enumerate(network.parameters()):
        parameter.copy_(tensors[f"weight.{index}"])
        optimizer.state[parameter]["momentum_buffer"] = tensors[f"momentum.{index}"]
    used, num_steps = tensors["progress"].tolist()
    return int(used), int(num_steps)
