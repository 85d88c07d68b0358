"""What each parameter of a model is, by its module, its shape and its names."""

from dataclasses import dataclass

from torch import nn

HEAD_NAMES = frozenset(
    {
        "head",
        "heads",
        "lm_head",
        "classifier",
        "score",
        "logits",
        "unembed",
        "unembedding",
        "embed_out",
        "cls",
        "output_layer",
    }
)
EMBEDDING_NAMES = (
    "embed",
    "wte",
    "wpe",
    "cls_token",
    "class_token",
    "mask_token",
    "position_bias",
    "relative_attention_bias",
)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# Transformers' GPT-2 has a linear layer of this name, with its weight as inputs by outputs.
_LINEAR_NAMES = ("Linear", "Conv1D")


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A parameter and what it is.

    Attributes:
        parameter: The parameter.
        names: All its names, of a tied one several.
        kind: As of `Assignment`.
        reason: In a few words.
    """

    parameter: nn.Parameter
    names: tuple[str, ...]
    kind: str
    reason: str


def kinds_of(model: nn.Module) -> list[Kind]:
    """Each trainable parameter once, in the model's order."""
    places: dict[int, list[tuple[str, str, nn.Module]]] = {}
    parameters: dict[int, nn.Parameter] = {}
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            if parameter.requires_grad:
                full = f"{module_name}.{name}" if module_name else name
                places.setdefault(id(parameter), []).append((full, name, module))
                parameters[id(parameter)] = parameter
    head = _head(model)
    found = []
    for key, uses in places.items():
        kind, reason = _kind(parameters[key], uses, head)
        names = tuple(dict.fromkeys(full for full, _, _ in uses))
        found.append(Kind(parameter=parameters[key], names=names, kind=kind, reason=reason))
    return found


def _kind(parameter: nn.Parameter, uses: list[tuple[str, str, nn.Module]], head: nn.Module | None) -> tuple[str, str]:
    if parameter.ndim < 2:
        return "vector", "a vector or scalar: a bias, a gain or a scale"
    for full, _, module in uses:
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            tied = [other for other, _, _ in uses if other != full]
            return "embedding", "an embedding" + (f", tied to {tied[0]}" if tied else "")
    full, name, module = uses[0]
    if _is_embedding_by_name(full, module):
        return "embedding", "an embedding, by its name"
    if isinstance(module, _CONVOLUTIONS):
        if module.groups > 1:
            return "grouped", f"a kernel in {module.groups} groups, whose rows see different inputs"
        return "convolution", f"a kernel, as a matrix {parameter.shape[0]}x{parameter[0].numel()}"
    if min(parameter.shape[0], parameter[0].numel()) == 1:
        return "row", "a single row or column"
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return "recurrent", "the stacked gates of a recurrent layer"
    if module is head:
        return "head", "the head: its rows are classes or symbols"
    if isinstance(module, nn.MultiheadAttention) and parameter.ndim == 2:
        stacked = ", three stacked" if name == "in_proj_weight" else ""
        return "matrix", f"a projection of attention{stacked}"
    if parameter.ndim == 2 and (isinstance(module, nn.Linear | nn.Bilinear) or _is_linear_by_name(module)):
        return "matrix", f"the matrix of a {type(module).__name__}"
    shape = "x".join(map(str, parameter.shape))
    return "unknown", f"no rule knows a {shape} parameter of {type(module).__name__}: name it in overrides"


def _head(model: nn.Module) -> nn.Module | None:
    """The linear layer named as a head, else the last linear layer; none where the model is a single layer."""
    layers: list[tuple[str, nn.Module]] = [
        (name, module) for name, module in model.named_modules() if _is_linear(module)
    ]
    named = [
        (name, module)
        for name, module in layers
        if HEAD_NAMES & set(name.split(".")[:1] + name.split(".")[-1:] + name.split(".")[-2:-1])
    ]
    if named:
        return named[-1][1]
    return layers[-1][1] if len(layers) > 1 else None


def _is_linear(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return (
        isinstance(weight, nn.Parameter)
        and weight.ndim == 2
        and (isinstance(module, nn.Linear) or _is_linear_by_name(module))
    )


def _is_linear_by_name(module: nn.Module) -> bool:
    return any(part in type(module).__name__ for part in _LINEAR_NAMES)


def _is_embedding_by_name(full: str, module: nn.Module) -> bool:
    parts = full.lower().split(".")
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return False  # "embed_proj", "patch_embed.proj": a layer that computes an embedding is a layer
    return (
        "embedding" in type(module).__name__.lower()
        or any(word in part for part in parts[-2:] for word in EMBEDDING_NAMES)
        or any(part.startswith(("pos_emb", "position")) for part in parts[-2:])
    )
