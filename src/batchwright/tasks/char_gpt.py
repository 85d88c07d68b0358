"""A small GPT on characters: decoder-only transformer, pre-norm, learned positions, tied to no tokenizer."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from batchwright.core.batches import Batch
from batchwright.core.errors import DataError
from batchwright.data.readers import find_data_root, read_text, resolve_data_root
from batchwright.tasks.task import OptimizerSpec, Target, Task

MAX_EVALUATION_SEQUENCES = 512
# Big modules that every Python from 3.11 on has as one source file; about a million characters together.
SOURCE_MODULES = (
    "argparse",
    "ast",
    "calendar",
    "configparser",
    "difflib",
    "doctest",
    "inspect",
    "ipaddress",
    "mailbox",
    "optparse",
    "pickle",
    "pickletools",
    "smtplib",
    "socket",
    "statistics",
    "subprocess",
    "tarfile",
    "tempfile",
    "threading",
    "typing",
)


class CharGPT(nn.Module):
    """Token and position embeddings, ``num_layers`` blocks of causal attention and MLP, and a linear head."""

    def __init__(
        self, *, num_symbols: int, context: int, width: int = 128, num_heads: int = 4, num_layers: int = 2
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(num_symbols, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(_Block(width, num_heads) for _ in range(num_layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_symbols)
        # Torch's own deviation for an embedding, 1, drowns what the blocks add to it.
        for embedding in (self.tokens, self.positions):
            nn.init.normal_(embedding.weight, std=width**-0.5)

    def forward(self, symbols: Int[Tensor, "B T"]) -> Float[Tensor, "B T C"]:
        """Logits of the symbol that follows each position."""
        places = torch.arange(symbols.shape[1], device=symbols.device)
        hidden = self.blocks(self.tokens(symbols) + self.positions(places))
        logits: Tensor = self.head(self.norm(hidden))
        return logits


class _Block(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, hidden: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        width = hidden.shape[-1]
        parts = self.qkv(self.norm1(hidden)).unflatten(-1, (3, self.num_heads, width // self.num_heads))
        query, key, value = parts.movedim(-3, 0).transpose(-3, -2)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.project(mixed.transpose(-3, -2).flatten(-2))
        result: Tensor = hidden + self.mlp(self.norm2(hidden))
        return result


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """How large the task is.

    Attributes:
        context: Characters that the model sees.
        width: Of the residual stream.
        num_heads: Of attention.
        batch_size: Sequences in a step.
        target: Loss to reach.
    """

    context: int
    width: int
    num_heads: int
    batch_size: int
    target: float


# A step of the small one costs a sixteenth of the other's; AdamW at lr 0.008 needs about 450 steps to its target.
SIZES = {
    "default": Size(context=64, width=128, num_heads=4, batch_size=32, target=2.0),
    "small": Size(context=32, width=32, num_heads=2, batch_size=16, target=2.2),
}


def char_gpt(data_root: Path | None = None, *, size: str = "default") -> Task:
    """A GPT of 2 layers, width 128 and 4 heads over 64 characters; an example is one sequence.

    The size ``small`` has width 32 and 2 heads over 32 characters, for comparisons of many runs.

    With a data root the text is tiny Shakespeare, ``tinyshakespeare/input.txt``; else it is the source of twenty modules of
    the Python standard library, which differs a little between versions of Python. The first 90 % of the text are for
    training, the rest, thinned to 512 sequences, for evaluation.

    Raises:
        DataError: If the text is not there.
    """
    real = find_data_root(data_root) is not None
    text = read_text(resolve_data_root(data_root) / "tinyshakespeare/input.txt") if real else standard_library_text()
    symbols, num_symbols = encode(text)
    chosen = SIZES[size]
    train, evaluation = (
        _sequences(part, chosen.context)
        for part in (symbols[: len(symbols) * 9 // 10], symbols[len(symbols) * 9 // 10 :])
    )
    evaluation = evaluation[:: -(-len(evaluation) // MAX_EVALUATION_SEQUENCES)]
    return Task(
        name="char-gpt" if size == "default" else f"char-gpt:{size}",
        model=lambda: CharGPT(
            num_symbols=num_symbols, context=chosen.context, width=chosen.width, num_heads=chosen.num_heads
        ),
        loss=sequence_loss,
        train=TensorDataset(train),
        evaluation=TensorDataset(evaluation),
        # Loss on tiny Shakespeare after 200 steps at lr 0.001, 0.002, 0.004, no warm-up: 2.26, 2.16, 2.32.
        optimizer=OptimizerSpec(name="adamw", lr=2e-3, momentum=0.9, beta2=0.99, weight_decay=0.01),
        target=Target(value=chosen.target),
        batch_size=chosen.batch_size,
        metrics={"accuracy": next_symbol_accuracy},
        max_examples=10 * len(train),
        sequence_length=chosen.context,
        evaluation_batch_size=128,
        description=f"characters of {'tiny Shakespeare' if real else 'Python source text'}, two-layer GPT, width {chosen.width}",
    )


def sequence_loss(model: nn.Module, batch: Batch) -> Float[Tensor, " B"]:
    """Cross-entropy in nats a character, averaged over the positions of each sequence."""
    symbols = batch[0]
    logits = model(symbols[:, :-1])
    losses = functional.cross_entropy(logits.flatten(0, 1), symbols[:, 1:].flatten(), reduction="none")
    return losses.view(len(symbols), -1).mean(dim=1)


def next_symbol_accuracy(model: nn.Module, batch: Batch) -> Float[Tensor, " B"]:
    """Part of each sequence's characters that the model finds most likely."""
    symbols = batch[0]
    right: Tensor = model(symbols[:, :-1]).argmax(dim=2) == symbols[:, 1:]
    return right.float().mean(dim=1)


def encode(text: str) -> tuple[Int[Tensor, " T"], int]:
    """The text as positions in its sorted alphabet, and the size of that; every character outside ASCII counts as ``?``."""
    values = torch.frombuffer(bytearray(text.encode("ascii", "replace")), dtype=torch.uint8).long()
    alphabet, symbols = torch.unique(values, return_inverse=True)
    return symbols, len(alphabet)


def standard_library_text(modules: Sequence[str] = SOURCE_MODULES) -> str:
    """Source text of standard modules, one after the other; a module that is not there as source is left out.

    Raises:
        DataError: If less than a hundred thousand characters are there.
    """
    text = "".join(_source(name) for name in modules)
    if len(text) < 100_000:
        raise DataError(
            f"the text of the standard library must have at least 100000 characters, got {len(text)}; "
            "this Python has no sources: name a folder of data sets with --data-root"
        )
    return text


def _source(name: str) -> str:
    # Found, not imported: some of these modules do things on import.
    spec = importlib.util.find_spec(name)
    get_source = getattr(spec.loader, "get_source", None) if spec is not None else None
    source: str | None = get_source(name) if get_source is not None else None
    return source or ""


def _sequences(symbols: Int[Tensor, " T"], context: int) -> Int[Tensor, "N T1"]:
    # Each sequence brings the one symbol more that its last position predicts; the next one begins there.
    return symbols.unfold(0, context + 1, context).contiguous()
