"""What a conversion did to a model, and what it left alone and why."""

from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A layer that was replaced.

    Attributes:
        names: Where it stands in the model; more than one where the layer is shared.
        was: The old layer, as it prints.
        becomes: The new one.
        why: What changes with it.
    """

    names: tuple[str, ...]
    was: str
    becomes: str
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """A normalization layer that was left as it was.

    Attributes:
        names: Where it stands in the model.
        layer: As it prints.
        why: Why it was left, with a way out where there is one.
    """

    names: tuple[str, ...]
    layer: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A converted model with the account of its conversion; prints as a list.

    Attributes:
        model: The model that was given, with its layers replaced in place; another object only where the model itself was one of
            the layers, or where the conversion says so.
        to: The target.
        changed: Layers that were replaced.
        kept: Normalization layers that were not.
    """

    model: nn.Module
    to: str
    changed: tuple[Change, ...]
    kept: tuple[Kept, ...]

    def __str__(self) -> str:
        lines = [f"converted to {self.to}: {len(self.changed)} layers changed, {len(self.kept)} kept"]
        lines += [
            f"  {_places(change.names)}: {change.was} -> {change.becomes} ({change.why})" for change in self.changed
        ]
        lines += [f"  {_places(kept.names)}: {kept.layer} kept ({kept.why})" for kept in self.kept]
        return "\n".join(lines)


def _places(names: tuple[str, ...]) -> str:
    return " = ".join(name or "(the model itself)" for name in names)
