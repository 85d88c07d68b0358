"""Cost of exact per-example gradient norms inside a training step, as ratios to the plain step; peers where installed.

    python -m benchmarks.per_example_norms [--rounds N]

Process CPU time on one thread (benchmarks/ratios.py). "Every tenth step" is ten steps over ten plain ones. Peak memory is that of a
step beyond what was held before it, as torch's allocator reports it to the profiler. Peers: opacus (ghost clipping), backpack.
Set MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 before Python for steadier times on glibc.
"""

import argparse
import warnings
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from batchwright.measure.per_example import PerExampleNorms, per_example_grad_norms
from benchmarks.ratios import time_ratio

Step = Callable[[], Any]


class Block(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(2, (4, -1)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, dim=2))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    def __init__(self, num_symbols: int = 65, dim: int = 128, length: int = 64, depth: int = 4) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(num_symbols, dim), nn.Embedding(length, dim)
        self.blocks = nn.Sequential(*(Block(dim) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, num_symbols)

    def forward(self, tokens: Tensor) -> Tensor:
        # Positions for each example, which Opacus needs too.
        positions = torch.arange(tokens.shape[1], device=tokens.device).repeat(len(tokens), 1)
        x = self.tokens(tokens) + self.positions(positions)
        return self.head(self.norm(self.blocks(x)))


def make_cnn() -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, 10))


def cnn_case(device: str) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(128, 3, 32, 32, device=device)
    return make_cnn().to(device), x, torch.randint(0, 10, (128,), device=device)


def transformer_case(device: str) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    tokens = torch.randint(0, 65, (32, 65), device=device)
    return Transformer().to(device), tokens[:, :-1].contiguous(), tokens[:, 1:]


CASES = {"3-conv CNN, B=128": cnn_case, "4-layer transformer, B=32, T=64": transformer_case}


def example_losses(output: Tensor, target: Tensor) -> Tensor:
    if output.ndim == 2:
        return F.cross_entropy(output, target, reduction="none")
    losses = F.cross_entropy(output.flatten(0, 1), target.flatten(), reduction="none")
    return losses.view(target.shape).mean(dim=1)


def plain_step(model: nn.Module, x: Tensor, y: Tensor) -> Step:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step() -> None:
        optimizer.zero_grad()
        example_losses(model(x), y).mean().backward()
        optimizer.step()

    return step


def our_step(model: nn.Module, x: Tensor, y: Tensor, parameters: list[nn.Parameter] | None = None) -> Step:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step() -> Tensor:
        optimizer.zero_grad()
        with PerExampleNorms(model, parameters=parameters) as norms:
            example_losses(model(x), y).mean().backward()
        optimizer.step()
        return norms.squared()

    return step


def our_norm_layers_step(model: nn.Module, x: Tensor, y: Tensor) -> Step:
    norm_layers = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    if not norm_layers:
        raise NotImplementedError("the model has no norm layers")
    return our_step(model, x, y, [parameter for module in norm_layers for parameter in module.parameters()])


def repeated(step: Step, times: int) -> None:
    for _ in range(times):
        step()


def our_step_every_tenth(model: nn.Module, x: Tensor, y: Tensor) -> Step:
    """Ten steps, the last of them with the norms."""
    plain, measured = plain_step(model, x, y), our_step(model, x, y)

    def steps() -> Tensor:
        repeated(plain, 9)
        return measured()

    return steps


def our_function(model: nn.Module, x: Tensor, y: Tensor) -> Step:
    return lambda: per_example_grad_norms(
        model, lambda m, batch: example_losses(m(batch[0]), batch[1]), (x, y), squared=True
    )


def opacus_step(model: nn.Module, x: Tensor, y: Tensor) -> Step:
    from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import GradSampleModuleFastGradientClipping

    wrapped = GradSampleModuleFastGradientClipping(model, max_grad_norm=1.0, use_ghost_clipping=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step() -> Tensor:
        optimizer.zero_grad()
        example_losses(wrapped(x), y).mean().backward()
        optimizer.step()
        return wrapped.get_norm_sample().square()

    return step


def backpack_step(model: nn.Module, x: Tensor, y: Tensor) -> Step:
    from backpack import backpack, extend
    from backpack.extensions import BatchL2Grad

    if isinstance(model, Transformer):
        raise NotImplementedError("no rule for LayerNorm")
    extended, criterion = extend(model), extend(nn.CrossEntropyLoss())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step() -> Tensor:
        optimizer.zero_grad()
        with backpack(BatchL2Grad()):
            criterion(extended(x), y).backward()
        sq_norms = sum(parameter.batch_l2 for parameter in model.parameters()) * len(x) ** 2
        optimizer.step()
        return sq_norms

    return step


METHODS = {
    "batchwright, in the step": our_step,
    "batchwright, every tenth step": our_step_every_tenth,
    "batchwright, norm layers alone": our_norm_layers_step,
    "batchwright, function alone": our_function,
}
if find_spec("opacus"):
    METHODS["opacus ghost, in the step"] = opacus_step
if find_spec("backpack"):
    METHODS["backpack BatchL2Grad, in the step"] = backpack_step


def peak_bytes(step: Step) -> int:
    """Largest memory that tensors took during a step beyond what they held before it."""
    step()
    if torch.cuda.is_available():
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - held
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        step()
    held = peak = 0
    for event in _allocations(found):
        held += event
        peak = max(peak, held)
    return peak


def _allocations(found: Any) -> list[int]:
    """Changes of the allocated memory in the order of time."""
    events: list[Any] = []
    pending = list(found.profiler.kineto_results.experimental_event_tree())
    while pending:
        node = pending.pop()
        pending.extend(node.children)
        if node.tag.name == "Allocation":
            events.append((node.start_time_ns, node.extra_fields.alloc_size))
    return [size for _, size in sorted(events, key=lambda event: event[0])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for name, make in CASES.items():
        model, x, y = make(device)
        num_parameters = sum(parameter.numel() for parameter in model.parameters())
        oracle = per_example_grad_norms(
            model.double(),
            lambda m, batch: example_losses(m(batch[0]), batch[1]),
            (x.double() if x.is_floating_point() else x, y),
            squared=True,
        )
        plain = plain_step(*make(device))
        plain_peak = peak_bytes(plain)
        print(f"{name}: {num_parameters} parameters, peak of the plain step {plain_peak / 2**20:.1f} MiB")
        for method, build in METHODS.items():
            try:
                step = build(*make(device))
                found = step()
            except Exception as cause:
                print(f"  {method:36} fails: {type(cause).__name__}: {str(cause)[:90]}")
                continue
            errors = ((found - oracle).abs() / oracle).sort().values
            # A unit at the kink of its ReLU may fall on the other side in float32, which changes the gradient of that example.
            error = f"error {errors[-2]:.0e} but for one example, {errors[-1]:.0e} there"
            if build in (our_norm_layers_step, our_step_every_tenth):
                error = ""  # of other parameters, or after other steps
            tenfold = build is our_step_every_tenth
            base = partial(repeated, plain, 10) if tenfold else plain
            ratio = time_ratio(base, step, max(rounds // 3, 5) if tenfold else rounds)
            memory = peak_bytes(step) / plain_peak
            print(
                f"  {method:32} time {ratio} x (plain {1e3 * ratio.plain_s:6.1f} ms)  memory {memory:.2f} x  {error}",
                flush=True,
            )


if __name__ == "__main__":
    main()
