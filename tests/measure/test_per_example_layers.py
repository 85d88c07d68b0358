"""Every layer of the battery: per-example norms against a loop over single examples, and the gradient left in ``.grad``."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from batchwright.measure.per_example import PerExampleNorms, grad_norms, per_example_sq_norms_by_layer

B, T = 5, 6
Make = Callable[[], tuple[nn.Module, Tensor]]


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape)


class Apply(nn.Module):
    """A model of named parts and a function of them and the input."""

    def __init__(self, forward: Callable[..., Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self._forward = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


def raw(*shape: int) -> nn.Parameter:
    return nn.Parameter(1 + 0.3 * torch.randn(shape))


def convolutions() -> dict[str, Make]:
    cases: dict[str, Make] = {}
    for axes in (1, 2, 3):
        conv, transposed = getattr(nn, f"Conv{axes}d"), getattr(nn, f"ConvTranspose{axes}d")
        sizes = (9, 8, 7)[:axes]
        options = {
            "plain": {},
            "grouped, strided, dilated": {"stride": 2, "padding": 2, "dilation": 2, "groups": 2},
            "depthwise": {"groups": 4, "padding": 1},
            "same": {"padding": "same", "dilation": 2},
            "valid": {"padding": "valid", "bias": False},
            "circular": {"padding": 1, "padding_mode": "circular"},
        }
        if axes < 3:
            options["reflect"] = {"padding": 1, "padding_mode": "reflect"}
        for name, option in options.items():
            cases[f"conv{axes}d, {name}"] = lambda c=conv, o=option, s=sizes: (c(4, 8, 3, **o), draw(B, 4, *s))
        for name, option in {
            "plain": {},
            "all options": {"stride": 3, "padding": 2, "output_padding": 1, "dilation": 2, "groups": 2},
        }.items():
            cases[f"transposed conv{axes}d, {name}"] = lambda c=transposed, o=option, s=sizes: (
                c(4, 6, 3, **o),
                draw(B, 4, *s),
            )
    return cases


def attention(batch_first: bool = True, **options: object) -> nn.MultiheadAttention:
    return nn.MultiheadAttention(8, 2, batch_first=batch_first, **options)


def encoder(**options: object) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, **options)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def gpt(positions: Callable[[nn.Module, Tensor], Tensor], num_symbols: int = 11) -> nn.Module:
    """Tokens and positions, a layer, and a head tied to the tokens."""

    def forward(m: nn.Module, tokens: Tensor) -> Tensor:
        x = positions(m, tokens)
        return F.linear(torch.tanh(m.layer(x)), m.tokens.weight)

    return Apply(forward, tokens=nn.Embedding(num_symbols, 8), positions=nn.Embedding(T, 8), layer=nn.Linear(8, 8))


def added(m: nn.Module, x: Tensor) -> Tensor:
    return m.tokens(x) + m.positions(torch.arange(x.shape[1]))


def tokens(length: int = T) -> Tensor:
    return torch.randint(0, 5, (B, length))


def vit(m: nn.Module, x: Tensor) -> Tensor:
    x = (x @ m.weight + m.bias) * m.scale
    x = torch.cat([m.token.expand(len(x), -1, -1), m.other.repeat(len(x), 1, 1), x], dim=1)
    return m.temperature * x + m.positions[:, : x.shape[1]]


def partly_frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    model[1].weight.requires_grad_(False)
    model[2].bias.requires_grad_(False)
    return model


FOLLOWED: dict[str, Make] = {
    "linear, one row": lambda: (nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), draw(B, 3)),
    "linear, three axes": lambda: (nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2)), draw(B, T, 3)),
    "linear, four axes": lambda: (nn.Linear(3, 4), draw(B, 2, T, 3)),
    "linear, gram": lambda: (nn.Linear(60, 40), draw(B, 3, 60)),
    "linear, examples flattened": lambda: (
        Apply(lambda m, x: m.a(x.flatten(0, 1)).view(len(x), -1), a=nn.Linear(3, 4)),
        draw(B, T, 3),
    ),
    "linear, matrix on the right": lambda: (
        Apply(lambda m, x: torch.addmm(m.b, x.view(-1, 3), m.w).view(len(x), T, 4), w=raw(3, 4), b=raw(4)),
        draw(B, T, 3),
    ),
    **convolutions(),
    "conv, gram": lambda: (nn.Conv2d(40, 60, 3, padding=1, groups=2), draw(B, 40, 3, 3)),
    "conv, channels last": lambda: (
        nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.SiLU(inplace=True), nn.Conv2d(6, 3, 3, stride=2)).to(
            memory_format=torch.channels_last
        ),
        draw(B, 4, 9, 8).to(memory_format=torch.channels_last),
    ),
    "conv, frames of a video": lambda: (
        Apply(lambda m, x: m.a(x.flatten(0, 1)).view(len(x), -1), a=nn.Conv2d(3, 4, 3)),
        draw(B, 2, 3, 5, 5),
    ),
    "group norm": lambda: (nn.Sequential(nn.Conv2d(4, 6, 3), nn.GroupNorm(3, 6)), draw(B, 4, 5, 5)),
    "instance norm": lambda: (nn.Sequential(nn.Conv2d(4, 6, 3), nn.InstanceNorm2d(6, affine=True)), draw(B, 4, 5, 5)),
    "batch norm in eval mode": lambda: (nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)).eval(), draw(B, 4, 5, 5)),
    "layer norm": lambda: (nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6)), draw(B, T, 4)),
    "layer norm, two axes": lambda: (nn.Sequential(nn.Linear(4, 6), nn.LayerNorm((3, 6))), draw(B, 2, 3, 4)),
    "rms norm": lambda: (nn.Sequential(nn.Linear(4, 6), nn.RMSNorm(6)), draw(B, T, 4)),
    "rms norm by hand": lambda: (
        Apply(
            lambda m, x: m.g * (m.a(x) * m.a(x).square().mean(-1, keepdim=True).rsqrt()), g=raw(6), a=nn.Linear(4, 6)
        ),
        draw(B, T, 4),
    ),
    "embedding": lambda: (nn.Sequential(nn.Embedding(5, 4, padding_idx=-1), nn.Linear(4, 3)), tokens()),
    "embedding of one index": lambda: (nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3)), tokens()[:, 0]),
    "attention": lambda: (Apply(lambda m, x: m.a(x, x, x)[0], a=attention()), draw(B, T, 8)),
    "attention, time first": lambda: (
        Apply(lambda m, x: m.a(*[x.transpose(0, 1)] * 3)[0].transpose(0, 1), a=attention(False)),
        draw(B, T, 8),
    ),
    "attention, bias_kv": lambda: (Apply(lambda m, x: m.a(x, x, x)[0], a=attention(add_bias_kv=True)), draw(B, T, 8)),
    "attention, to other keys": lambda: (
        Apply(lambda m, x: m.a(x, x[:, :2], x[:, :2], need_weights=False)[0], a=attention()),
        draw(B, T, 8),
    ),
    "attention, keys and values apart": lambda: (
        Apply(lambda m, x: m.a(x, x[:, :3].sin(), x[:, :3].cos())[0], a=attention(kdim=8, vdim=8)),
        draw(B, T, 8),
    ),
    "attention, used twice": lambda: (
        Apply(lambda m, x: m.a(x, x, x)[0] + m.a(x, x[:, :3].sin(), x[:, :3].cos())[0], a=attention()),
        draw(B, T, 8),
    ),
    "transformer": lambda: (encoder(batch_first=True), draw(B, T, 8)),
    "transformer, time first": lambda: (
        Apply(lambda m, x: m.a(x.transpose(0, 1)).transpose(0, 1), a=encoder()),
        draw(B, T, 8),
    ),
    "transformer, encoder and decoder": lambda: (
        Apply(lambda m, x: m.a(x, x[:, :3]), a=nn.Transformer(8, 2, 1, 1, 16, dropout=0.0, batch_first=True)),
        draw(B, T, 8),
    ),
    "gpt, shared positions": lambda: (gpt(added), tokens()),
    "gpt, as many positions as examples": lambda: (gpt(added), tokens(B)),
    "gpt, positions in a row": lambda: (
        gpt(lambda m, x: m.positions(torch.arange(x.shape[1])[None]) + m.tokens(x)),
        tokens(),
    ),
    "gpt, positions for each": lambda: (
        gpt(lambda m, x: m.tokens(x) + m.positions(torch.arange(x.shape[1]).expand(x.shape))),
        tokens(),
    ),
    "gpt, positions sliced": lambda: (gpt(lambda m, x: m.tokens(x) + m.positions.weight[: x.shape[1]]), tokens()),
    "gpt, many symbols": lambda: (gpt(added, num_symbols=3000), tokens()),
    "tied linear": lambda: (Apply(lambda m, x: m.a(torch.tanh(m.a(x))), a=nn.Linear(4, 4)), draw(B, T, 4)),
    "tied linear, gram": lambda: (Apply(lambda m, x: m.a(torch.tanh(m.a(x))), a=nn.Linear(40, 40)), draw(B, 40)),
    "tied embedding, gram": lambda: (Apply(lambda m, x: m.a(x) * m.a(x.flip(1)), a=nn.Embedding(500, 40)), tokens(2)),
    "conv used twice": lambda: (
        Apply(lambda m, x: m.a(torch.tanh(m.a(x))), a=nn.Conv2d(3, 3, 3, padding=1)),
        draw(B, 3, 4, 4),
    ),
    "raw parameters": lambda: (
        Apply(
            vit,
            weight=raw(4, 6),
            bias=raw(6),
            scale=raw(6),
            token=raw(1, 1, 6),
            other=raw(1, 1, 6),
            temperature=raw(),
            positions=raw(1, 9, 6),
        ),
        draw(B, T, 4),
    ),
    "frozen parameters": lambda: (partly_frozen(), draw(B, 3)),
    "unused parameters": lambda: (Apply(lambda m, x: m.a(x), a=nn.Linear(3, 2), b=nn.Linear(3, 2)), draw(B, 3)),
    "one example": lambda: (nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), draw(1, 3)),
}


class Double(torch.autograd.Function):
    """An operation that no mode sees."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return 2 * grad


def by_value(m: nn.Module, x: Tensor) -> Tensor:
    """Control flow on a value, which `vmap` cannot follow."""
    return torch.stack([row * m.w.exp() if row.sum().item() > 0 else row * m.w for row in x])


FALLS_BACK: dict[str, tuple[Make, set[str]]] = {
    "lstm": (
        lambda: (
            Apply(lambda m, x: m.b(m.a(x)[0][:, -1]), a=nn.LSTM(3, 4, batch_first=True), b=nn.Linear(4, 2)),
            draw(B, T, 3),
        ),
        {"a.weight_ih_l0", "a.weight_hh_l0", "a.bias_ih_l0", "a.bias_hh_l0"},
    ),
    "einsum of a raw parameter": (
        lambda: (
            Apply(lambda m, x: m.a(torch.einsum("bi,ij->bj", x, m.w.exp())), w=raw(4, 6), a=nn.Linear(6, 3)),
            draw(B, 4),
        ),
        {"w"},
    ),
    "parametrized": (
        lambda: (nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.Linear(4, 2)), draw(B, 3)),
        {"0.parametrizations.weight.original0", "0.parametrizations.weight.original1"},
    ),
    "prelu": (lambda: (nn.Sequential(nn.Linear(3, 4), nn.PReLU()), draw(B, 3)), {"1.weight"}),
    "control flow": (lambda: (Apply(by_value, w=raw(3)), draw(B, 3)), {"w"}),
    "custom function": (
        lambda: (Apply(lambda m, x: m.a(x) * Double.apply(m.w), a=nn.Linear(3, 4), w=raw(4)), draw(B, 3)),
        {"w"},
    ),
    "custom function and a known use": (
        lambda: (Apply(lambda m, x: m.a(F.linear(x, Double.apply(m.a.weight))), a=nn.Linear(3, 3)), draw(B, 3)),
        {"a.weight"},
    ),
    "time first and flattened": (
        lambda: (
            Apply(
                lambda m, x: m.a(x.transpose(0, 1).reshape(-1, 3)).view(T, len(x), 4).transpose(0, 1), a=nn.Linear(3, 4)
            ),
            draw(B, T, 3),
        ),
        {"a.weight", "a.bias"},
    ),
    "time first and as long as the batch": (
        lambda: (Apply(lambda m, x: m.a(x.transpose(0, 1)).transpose(0, 1), a=nn.Linear(3, 4)), draw(B, B, 3)),
        {"a.weight", "a.bias"},
    ),
    "checkpointed": (
        lambda: (
            Apply(lambda m, x: checkpoint(m.b, m.a(x), use_reentrant=False), a=nn.Linear(3, 4), b=nn.Linear(4, 4)),
            draw(B, 3),
        ),
        {"b.weight", "b.bias"},
    ),
    "checkpointed, reentrant": (
        lambda: (
            Apply(lambda m, x: checkpoint(m.b, m.a(x), use_reentrant=True), a=nn.Linear(3, 4), b=nn.Linear(4, 4)),
            draw(B, 3),
        ),
        {"b.weight", "b.bias"},
    ),
    "gradient within the loss": (
        lambda: (
            Apply(
                lambda m, x: torch.autograd.grad(torch.tanh(m.a(x.requires_grad_())).sum(), x, create_graph=True)[0],
                a=nn.Linear(3, 4),
            ),
            draw(B, 3),
        ),
        {"a.weight", "a.bias"},
    ),
}


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    """Something with another gradient at each output."""
    return model(batch).reshape(len(batch), -1).sin().cumsum(dim=1).square().mean(dim=1)


def looped(model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    """The slow plain version: one backward pass an example."""
    rows: dict[str, list[Tensor]] = {name: [] for name, p in model.named_parameters() if p.requires_grad}
    for i in range(len(batch)):
        model.zero_grad()
        loss(model, batch[i : i + 1])[0].backward()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                grad = torch.zeros(()) if parameter.grad is None else parameter.grad
                rows[name].append(grad.double().square().sum())
    model.zero_grad()
    return {name: torch.stack(values) for name, values in rows.items()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert list(found) == list(expected)
    total = torch.stack(list(expected.values())).sum(dim=0)
    for name, sq_norms in expected.items():
        # A gradient that is zero but for rounding is compared with the whole.
        assert ((found[name] - sq_norms).abs() <= tolerance * sq_norms + tolerance**2 * total).all(), name


@pytest.fixture
def fallen_back(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the parameters that were measured by the fallback."""
    names: set[str] = set()
    original = grad_norms.fallback_sq_norms

    def spy(model: nn.Module, loss: object, batch: Tensor, rest: list[str]) -> dict[str, Tensor]:
        names.update(rest)
        return original(model, loss, batch, rest)

    monkeypatch.setattr(grad_norms, "fallback_sq_norms", spy)
    return names


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", FOLLOWED)
def test_norms_of_a_layer_are_those_of_single_examples_without_fallback(
    name: str, dtype: torch.dtype, fallen_back: set[str]
) -> None:
    torch.manual_seed(1)
    model, batch = FOLLOWED[name]()
    model = model.to(dtype)
    batch = batch.to(dtype) if batch.is_floating_point() else batch
    found = per_example_sq_norms_by_layer(model, loss, batch)
    assert_same(found, looped(model, batch), 1e-11 if dtype == torch.float64 else 1e-5)
    assert not fallen_back


@pytest.mark.parametrize("name", FALLS_BACK)
def test_norms_of_what_has_no_rule_are_those_of_single_examples_by_fallback(name: str, fallen_back: set[str]) -> None:
    torch.manual_seed(1)
    make, expected = FALLS_BACK[name]
    model, batch = make()
    model, batch = model.double(), batch.double()
    found = per_example_sq_norms_by_layer(model, loss, batch)
    assert_same(found, looped(model, batch), 1e-11)
    assert fallen_back == expected


@pytest.mark.parametrize("name", FOLLOWED)
def test_the_context_leaves_the_ordinary_gradient_and_output(name: str) -> None:
    torch.manual_seed(1)
    model, batch = FOLLOWED[name]()
    model = model.double()
    batch = batch.double() if batch.is_floating_point() else batch
    expected = loss(model, batch)
    expected.mean().backward()
    grads = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    with PerExampleNorms(model) as norms:
        found = loss(model, batch)
        found.mean().backward()
    torch.testing.assert_close(found, expected)
    for key, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, grads[key])
    assert_same(norms.squared_by_parameter(), looped(model, batch), 1e-11)
