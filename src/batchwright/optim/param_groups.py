"""Which parameter goes to which optimizer and norm, with the reason of each: the groups for `Muon` and `Scion`.

Public lists of parameters go wrong silently: an embedding among the matrices, a head tied to it in two groups, a network of
convolutions whose kernels all went to AdamW because they have four axes. Here each parameter has a line in a table.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from batchwright.core.checks import check_choice, check_number
from batchwright.core.errors import InputError
from batchwright.optim.kinds import Kind, kinds_of

# What Muon does with each kind, and the norm that Scion takes: Pethick et al. (2025), arXiv:2502.07529, table 2 and section 5.
MUON_RULES: Mapping[str, str] = {
    "matrix": "muon",
    "convolution": "muon",
    "embedding": "adamw",
    "head": "adamw",
    "vector": "adamw",
    "row": "adamw",
    "grouped": "adamw",
    "recurrent": "adamw",
    "unknown": "adamw",
}
SCION_RULES: Mapping[str, str] = {
    "matrix": "spectral",
    "convolution": "spectral",
    "embedding": "sign",
    "head": "sign",
    "vector": "sign",
    "row": "sign",
    "grouped": "sign",
    "recurrent": "sign",
    "unknown": "sign",
}
NOT_MATRICES = ("embedding", "vector", "row")


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """One line of the table.

    Attributes:
        name: Of the parameter; of a tied one, the first name.
        shape: Of the parameter.
        kind: What it is: ``matrix``, ``convolution``, ``embedding``, ``head``, ``vector``, ``row``, ``grouped``, ``recurrent``,
        ``unknown``.
        goes_to: ``muon`` or ``adamw``; for Scion the norm.
        reason: Why.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    goes_to: str
    reason: str


class ParamGroups(list[dict[str, Any]]):
    """Parameter groups for an optimizer, which also say what is in them and why.

    Attributes:
        assignments: One a parameter, in the model's order.
    """

    def __init__(self, groups: list[dict[str, Any]], assignments: tuple[Assignment, ...]) -> None:
        super().__init__(groups)
        self.assignments = assignments

    def table(self) -> str:
        """A line a parameter: name, shape, where it goes, why; and how many numbers go where."""
        header = ("parameter", "shape", "goes to", "why")
        rows = [header] + [
            (each.name, "x".join(map(str, each.shape)) or "scalar", each.goes_to, each.reason)
            for each in self.assignments
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = ["  ".join([*(row[i].ljust(widths[i]) for i in range(3)), row[3]]) for row in rows]
        return "\n".join([*lines, ", ".join(f"{name}: {count:,} numbers" for name, count in self.counts().items())])

    def counts(self) -> dict[str, int]:
        """Numbers that go to each place."""
        found: dict[str, int] = {}
        for each in self.assignments:
            size = 1
            for length in each.shape:
                size *= length
            found[each.goes_to] = found.get(each.goes_to, 0) + size
        return found


def param_groups(
    model: nn.Module,
    optimizer: str = "muon",
    *,
    overrides: Mapping[str, str] | None = None,
    adamw_lr: float | None = None,
    radii: Mapping[str, float] | None = None,
    decay_vectors: bool = False,
) -> ParamGroups:
    """The groups of a model's trainable parameters for `Muon` or `Scion`.

    The rule for Muon: matrices of linear layers and kernels of convolutions are Muon's, a kernel as a matrix of outputs by inputs
    and places. AdamW's are embeddings and what is tied to them; the head (a last linear layer, or one named so), whose rows are
    symbols as an embedding's are; vectors and scalars (biases, gains, LayerScale); matrices of one row or column, whose polar
    factor is themselves over their length; kernels of grouped and depth-wise convolutions, whose rows see different inputs; the
    stacked gates of recurrent layers; and what no rule knows. For Scion the first are ``spectral`` and all others ``sign``, as
    in paper 3 of papers-2026 (Sign, Spectral, Sign).

    Args:
        model: Any model; parameters that do not require a gradient are left out.
        optimizer: ``muon`` or ``scion``.
        overrides: Place by name pattern, as ``{"*.gate.weight": "adamw", "decoder.weight": "muon"}``; the last that fits counts.
        adamw_lr: Learning rate of AdamW's groups; `Muon`'s default of 1e-3 where left out.
        radii: For Scion, radius by kind, with ``default`` for the rest: ``{"embedding": 3000.0, "head": 3000.0, "default": 50.0}``.
        decay_vectors: Whether vectors and scalars have AdamW's weight decay.

    Raises:
        InputError: If an override fits no parameter, or puts what is no matrix into Muon or under the spectral norm.

    Example:
        >>> groups = param_groups(nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 5), nn.Linear(5, 9)))
        >>> [(each.name, each.goes_to) for each in groups.assignments][:3]
        [('0.weight', 'adamw'), ('1.weight', 'muon'), ('1.bias', 'adamw')]
    """
    check_choice("optimizer", optimizer, ("muon", "scion"))
    places = ("muon", "adamw") if optimizer == "muon" else ("euclidean", "sign", "spectral", "row", "column")
    for pattern, place in (overrides or {}).items():
        check_choice(f"place of {pattern!r}", place, places)
    if adamw_lr is not None:
        check_number("adamw_lr", adamw_lr, at_least=0.0)
    kinds = kinds_of(model)
    for pattern in overrides or {}:
        if not any(fnmatchcase(name, pattern) for kind in kinds for name in kind.names):
            known = ", ".join(kind.names[0] for kind in kinds[:8])
            raise InputError(f"overrides must fit a trainable parameter, got {pattern!r}; there are {known}")
    rules = MUON_RULES if optimizer == "muon" else SCION_RULES
    assignments = tuple(_assign(kind, rules, overrides or {}) for kind in kinds)
    make = _muon_groups(kinds, assignments, adamw_lr, decay_vectors) if optimizer == "muon" else None
    groups = make if make is not None else _scion_groups(kinds, assignments, radii or {})
    return ParamGroups(list(groups), assignments)


def _assign(kind: Kind, rules: Mapping[str, str], overrides: Mapping[str, str]) -> Assignment:
    place, reason = rules[kind.kind], kind.reason
    for pattern, wanted in overrides.items():
        if any(fnmatchcase(name, pattern) for name in kind.names):
            place, reason = wanted, f"asked for by {pattern!r}; it is {kind.reason}"
    if place in ("muon", "spectral") and kind.kind in NOT_MATRICES:
        raise InputError(
            f"{kind.names[0]} must not go to {place}, got shape {tuple(kind.parameter.shape)}: it is {kind.reason}; "
            f"take it out of overrides, and it goes to {rules[kind.kind]}"
        )
    return Assignment(
        name=kind.names[0], shape=tuple(kind.parameter.shape), kind=kind.kind, goes_to=place, reason=reason
    )


def _muon_groups(
    kinds: list[Kind], assignments: tuple[Assignment, ...], adamw_lr: float | None, decay_vectors: bool
) -> Iterator[dict[str, Any]]:
    pairs = list(zip(kinds, assignments, strict=True))
    muon = [kind.parameter for kind, each in pairs if each.goes_to == "muon"]
    if muon:
        yield {"params": muon, "optimizer": "muon"}
    lr = {} if adamw_lr is None else {"lr": adamw_lr}
    for is_vector in (False, True):
        chosen = [
            kind.parameter for kind, each in pairs if each.goes_to == "adamw" and (each.kind == "vector") == is_vector
        ]
        if chosen:
            decay = {"weight_decay": 0.0} if is_vector and not decay_vectors else {}
            yield {"params": chosen, "optimizer": "adamw", **lr, **decay}


def _scion_groups(
    kinds: list[Kind], assignments: tuple[Assignment, ...], radii: Mapping[str, float]
) -> Iterator[dict[str, Any]]:
    by_setting: dict[tuple[str, float | None], list[nn.Parameter]] = {}
    for kind, each in zip(kinds, assignments, strict=True):
        radius = radii.get(each.kind, radii.get("default"))
        by_setting.setdefault((each.goes_to, radius), []).append(kind.parameter)
    for (norm, radius), parameters in by_setting.items():
        yield {"params": parameters, "norm": norm, **({} if radius is None else {"radius": radius})}
