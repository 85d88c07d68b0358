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
        shared = _shared([change.was for change in self.changed] + [change.becomes for change in self.changed])
        of_new = _shared([change.becomes for change in self.changed])
        if shared:
            lines.append(f"  all of them, before and after: {', '.join(shared)}")
        if new := [each for each in of_new if each not in shared]:
            lines.append(f"  all of them, after: {', '.join(new)}")
        lines += [
            f"  {_places(change.names)}: {_without(change.was, shared)} -> {_without(change.becomes, of_new)} ({change.why})"
            for change in self.changed
        ]
        lines += [f"  {_places(kept.names)}: {kept.layer} kept ({kept.why})" for kept in self.kept]
        return "\n".join(lines)


def _places(names: tuple[str, ...]) -> str:
    return " = ".join(name or "(the model itself)" for name in names)


def _arguments(layer: str) -> list[str]:
    """The named arguments in a layer as it prints."""
    return [each for each in layer.partition("(")[2].removesuffix(")").split(", ") if "=" in each]


def _shared(layers: list[str]) -> list[str]:
    """Named arguments that all these layers have alike; none where there are fewer than three, which are short enough as they are."""
    if len(layers) < 3:
        return []
    return [each for each in _arguments(layers[0]) if all(each in _arguments(layer) for layer in layers)]


def _without(layer: str, arguments: list[str]) -> str:
    name, _, rest = layer.partition("(")
    return f"{name}({', '.join(each for each in rest.removesuffix(')').split(', ') if each not in arguments)})"
