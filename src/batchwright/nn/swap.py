"""Finding the normalization layers of a model and putting others in their places."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from batchwright.core.errors import InputError
from batchwright.nn.conversion import Change, Conversion, Kept

BatchNorm = nn.modules.batchnorm._BatchNorm
# By the number of axes beside batch and channels; BatchNorm1d takes both no further axis and one.
BATCH_NORMS: tuple[type[BatchNorm], ...] = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_SWAPPABLE: set[type[nn.Module]] = {*BATCH_NORMS}

Factory = Callable[[BatchNorm, int], tuple[nn.Module, str]]
Layer = TypeVar("Layer", bound=type[BatchNorm])


def swappable(layer: Layer) -> Layer:
    """Class decorator of a kin of torch's batch norms, by which it can be replaced again: exactly this class, since a subclass of
    it may compute something else.
    """
    _SWAPPABLE.add(layer)
    return layer


@dataclass(frozen=True, kw_only=True)
class Site:
    """A normalization layer and every name it has in the model.

    Attributes:
        layer: The layer.
        names: Its names, ``""`` for the model itself.
        kind: 0, 1 or 2 for the classes of one, two and three axes; None where it cannot be replaced.
        why_not: Why it cannot be; empty where it can.
    """

    layer: nn.Module
    names: tuple[str, ...]
    kind: int | None
    why_not: str


def sites(model: nn.Module) -> list[Site]:
    """The normalization layers of ``model``, those that cannot be replaced among them, in the order of its modules."""
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if _is_norm(module):
            names.setdefault(module, []).append(name)
    found = []
    for layer, places in names.items():
        why_not = _why_not(layer, model)
        kind = None if why_not else next(kind for kind, norm in enumerate(BATCH_NORMS) if isinstance(layer, norm))
        found.append(Site(layer=layer, names=tuple(places), kind=kind, why_not=why_not))
    return found


def swap(model: nn.Module, to: str, factory: Factory) -> Conversion:
    """Replace what can be replaced by what ``factory(layer, kind)`` returns, with its reason; all at the end, or nothing if it raises.

    The factory's layer gets the old one's mode. A layer that the factory returns unchanged counts as kept.

    Raises:
        InputError: If the factory refuses a layer; the message names its place.
    """
    changed, kept, new_layers = [], [], []
    for site in sites(model):
        if site.kind is None:
            kept.append(Kept(names=site.names, layer=str(site.layer), why=site.why_not))
            continue
        assert isinstance(site.layer, BatchNorm)
        try:
            layer, why = factory(site.layer, site.kind)
        except InputError as error:
            raise InputError(f"layer {site.names[0] or '(the model itself)'!r} cannot become {to}: {error}") from error
        if layer is site.layer:
            kept.append(Kept(names=site.names, layer=str(layer), why=why))
            continue
        layer.training = site.layer.training
        new_layers.append((site.names, layer))
        changed.append(Change(names=site.names, was=str(site.layer), becomes=str(layer), why=why))
    for places, layer in new_layers:
        model = put(model, places, layer)
    return Conversion(model=model, to=to, changed=tuple(changed), kept=tuple(kept))


def put(model: nn.Module, names: Sequence[str], layer: nn.Module) -> nn.Module:
    """Put ``layer`` at every name; returns the model, which is ``layer`` where a name is empty."""
    for name in names:
        if not name:
            return layer
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer)
    return model


def carry(old: BatchNorm, new: BatchNorm) -> None:
    """Give ``new`` the parameters and buffers of ``old``, the same tensors, so that an optimizer and ties still hold."""
    new.weight, new.bias = old.weight, old.bias
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        setattr(new, name, getattr(old, name))


def batch_norm_options(layer: BatchNorm) -> dict[str, Any]:
    """The options that a BatchNorm and its kin share."""
    return {
        "eps": layer.eps,
        "momentum": layer.momentum,
        "affine": layer.affine,
        "track_running_stats": layer.track_running_stats,
    }


def _is_norm(module: nn.Module) -> bool:
    known = nn.modules.batchnorm._NormBase | nn.LayerNorm | nn.GroupNorm | nn.RMSNorm | nn.LocalResponseNorm
    return isinstance(module, known) or "Norm" in getattr(module, "original_name", type(module).__name__)


def _why_not(layer: nn.Module, model: nn.Module) -> str:
    if isinstance(layer, nn.modules.lazy.LazyModuleMixin) and layer.has_uninitialized_params():
        return "it does not know its channels yet: run one batch through the model first"
    if isinstance(layer, nn.SyncBatchNorm):
        return "its statistics are those of all ranks by intent, and it does not say how many axes it is for: make it a BatchNorm first"
    if isinstance(
        layer, nn.LayerNorm | nn.GroupNorm | nn.RMSNorm | nn.LocalResponseNorm | nn.modules.instancenorm._InstanceNorm
    ):
        return "its statistics are those of one example, so the batch size does not matter to it"
    if type(layer) not in _SWAPPABLE:
        if isinstance(layer, torch.jit.ScriptModule):
            return "it is compiled by TorchScript: convert the model before"
        return f"{type(layer).__name__} is a class of its own, which may compute something else"
    if nn.utils.parametrize.is_parametrized(layer):
        return "its parameters are parametrized: remove the parametrizations first"
    if any((layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)):
        return "it has hooks, which would be lost: remove them first"
    if model.training and not layer.training:
        return "it is frozen: it stays in evaluation mode while the model trains, so it uses no batch"
    return ""
