"""Cost and true error of the top Hessian eigenvalue, and of one Hessian product, in plain training steps; peers where installed.

    python -m benchmarks.curvature [--case cnn|gpt] [--rounds N]

A plain step is forward, backward and optimizer step on the same batch. Process CPU time on one thread; in each round every method
runs once between two plain steps, which it is divided by. Between rounds the network trains ten steps further, and each search
gets another random start, so that neither one point nor a lucky start makes the number. A warm search starts from the vector that the
same method found in the round before. The true error is that against ARPACK with residuals below 1e-4, whose values are good to 1e-6.

A tolerance means something else in each package: the change between two iterations (PyHessian), that and the residual
(hessian-eigenthings), the residual (ARPACK, which curvlinops hands its operator to), the estimated error (ours). So each peer runs
with several, and the one to compare with is the cheapest whose worst error is within 1 %, which its user could not have known.

Set MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 before Python for steadier times on glibc.
"""

import argparse
import copy
import importlib
import math
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from typing import Any, TypeVar
from unittest import mock

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from batchwright.core.vectors import flatten, trainable
from batchwright.measure import sharpness
from batchwright.measure.curvature import HessianOperator, hvp
from benchmarks.batch_sharpness import Batch, clock, cnn_case, gpt_case, loss, plain_step

CASES = {"cnn": ("3-conv CNN, B=128", cnn_case), "gpt": ("2-layer GPT, B=32, T=64", gpt_case)}
NUM_BEFORE, NUM_BETWEEN = 110, 10
LIMIT = 0.01
HELD = "batchwright, the graph held from before"


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What one search found: the eigenvalue, products taken, and the vector where the method gives one."""

    value: float
    num_products: int
    vector: Any = None


Result = TypeVar("Result")
Search = Callable[[nn.Module, Batch, int, Any], Found]


def attentive(work: Callable[..., Any]) -> Callable[..., Any]:
    """The same with plain attention: the fused one has no second derivative, which the peers leave to their callers."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with sdpa_kernel(SDPBackend.MATH):
            return work(*args, **kwargs)

    return run


class MeanCrossEntropy(nn.CrossEntropyLoss):
    """The mean of `loss` from the output, as the peers want it."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return super().forward(output.flatten(0, -2), target.flatten())


def ours(model: nn.Module, batch: Batch, seed: int, start: Any, *, high_tol: float | None = None) -> Found:
    generator = torch.Generator().manual_seed(seed)
    found = sharpness(model, loss, batch, tol=LIMIT, start=start, high_tol=high_tol, generator=generator)
    return Found(value=found.value, num_products=found.num_hvps, vector=found.vector)


@attentive
def pyhessian(model: nn.Module, batch: Batch, seed: int, start: Any, *, tol: float) -> Found:
    module = importlib.import_module("pyhessian.hessian")
    torch.manual_seed(seed)
    with mock.patch.object(module, "hessian_vector_product", wraps=module.hessian_vector_product) as product:
        values, _ = module.hessian(model, MeanCrossEntropy(), data=batch, cuda=False).eigenvalues(tol=tol, top_n=1)
    model.zero_grad()  # it leaves gradients with their graph
    return Found(value=values[0], num_products=product.call_count)


def eigenthings_operator(model: nn.Module, batch: Batch) -> Any:
    from hessian_eigenthings import HessianOperator as PeerOperator
    from hessian_eigenthings import supervised_loss

    return PeerOperator(model, [batch], supervised_loss(MeanCrossEntropy()))


@attentive
def eigenthings_power(model: nn.Module, batch: Batch, seed: int, start: Any, *, tol: float) -> Found:
    from hessian_eigenthings import power_iteration_one

    value, vector, _, count, _ = power_iteration_one(eigenthings_operator(model, batch), tol=tol, init=start, seed=seed)
    return Found(value=value, num_products=count, vector=vector)


@attentive
def eigenthings_lanczos(model: nn.Module, batch: Batch, seed: int, start: Any, *, max_iter: int | None) -> Found:
    from hessian_eigenthings import lanczos

    found = lanczos(eigenthings_operator(model, batch), k=1, max_iter=max_iter, which="LA", seed=seed)
    return Found(value=float(found.eigenvalues[0]), num_products=found.iterations)


def curvlinops_operator(model: nn.Module, batch: Batch) -> Any:
    from curvlinops import HessianLinearOperator

    return HessianLinearOperator(model, MeanCrossEntropy(), trainable(model), [batch], check_deterministic=False)


def arpack(
    product: Callable[[Any], Any], dim: int, *, tol: float, seed: int = 0, start: Any = None, ncv: int | None = None
) -> Found:
    count = 0

    def counted(vector: Any) -> Any:
        nonlocal count
        count += 1
        return product(vector.astype(np.float32))

    first = np.random.default_rng(seed).standard_normal(dim) if start is None else start
    operator = LinearOperator((dim, dim), matvec=counted, dtype=np.float32)
    values, vectors = eigsh(operator, k=1, which="LA", tol=tol, v0=first.astype(np.float32), ncv=ncv)
    return Found(value=float(values[0]), num_products=count, vector=vectors[:, 0])


@attentive
def curvlinops_eigsh(model: nn.Module, batch: Batch, seed: int, start: Any, *, tol: float, ncv: int | None) -> Found:
    operator = curvlinops_operator(model, batch)
    return arpack(operator.to_scipy().matvec, operator.shape[0], tol=tol, seed=seed, start=start, ncv=ncv)


def reference(model: nn.Module, batch: Batch) -> float:
    """The largest eigenvalue by ARPACK, far below the limit."""
    operator = HessianOperator(model, loss, batch)
    with operator.held():
        return arpack(
            lambda v: operator.matvec(torch.from_numpy(v)).numpy(), operator.dim, tol=1e-4, seed=999, ncv=24
        ).value


def cold_searches() -> dict[str, Search]:
    found: dict[str, Search] = {"batchwright": ours, "batchwright, high_tol=inf": partial(ours, high_tol=math.inf)}
    if find_spec("pyhessian"):
        for tol in (1e-2, 1e-3):
            found[f"pyhessian, tol={tol:g}{' (default)' if tol == 1e-3 else ''}"] = partial(pyhessian, tol=tol)
    if find_spec("hessian_eigenthings"):
        for tol in (1e-1, 3e-2):
            found[f"hessian-eigenthings, power, tol={tol:g}"] = partial(eigenthings_power, tol=tol)
        for count in (None, 8, 10):
            name = "Lanczos as it comes" if count is None else f"Lanczos, max_iter={count}"
            found[f"hessian-eigenthings, {name}"] = partial(eigenthings_lanczos, max_iter=count)
    if find_spec("curvlinops"):
        for ncv, tol in ((None, 1e-2), (8, 1e-1), (8, 1e-2)):
            name = f"curvlinops + eigsh, tol={tol:g}" + (f", ncv={ncv}" if ncv else "")
            found[name] = partial(curvlinops_eigsh, tol=tol, ncv=ncv)
    return found


def warm_searches() -> dict[str, Search]:
    found: dict[str, Search] = {"batchwright, warm": ours}
    if find_spec("hessian_eigenthings"):
        for tol in (1e-1, 3e-2):
            found[f"hessian-eigenthings, power, warm, tol={tol:g}"] = partial(eigenthings_power, tol=tol)
    if find_spec("curvlinops"):
        found["curvlinops + eigsh, warm, tol=0.1, ncv=8"] = partial(curvlinops_eigsh, tol=1e-1, ncv=8)
    return found


@dataclass(kw_only=True, slots=True)
class Rows:
    """What one method took and found, round by round."""

    steps: list[float] = field(default_factory=list)
    products: list[int] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)

    def add(self, steps: float, found: Found, true: float) -> None:
        self.steps.append(steps)
        self.products.append(found.num_products)
        self.errors.append(found.value / true - 1)

    @property
    def worst(self) -> float:
        return max(self.errors, key=abs)


def spread(values: Sequence[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def timed(step: Callable[[], Any], search: Callable[[], Result]) -> tuple[float, Result]:
    """A search in plain steps, those right before and after it, and what it found."""
    found: list[Result] = []
    first = clock(step)
    seconds = clock(lambda: found.append(search()))
    return seconds / (0.5 * (first + clock(step))), found[0]


def search_rows(
    model: nn.Module, batches: list[Batch], batch: Batch, rounds: int
) -> tuple[dict[str, Rows], list[float]]:
    """What each method took and found at ``rounds`` points of training, and the true values there."""
    searches, warm = {**cold_searches(), **warm_searches()}, set(warm_searches())
    rows = {name: Rows() for name in searches}
    starts: dict[str, Any] = {}
    optimizer = torch.optim.SGD(trainable(model), lr=0.05)
    step = partial(plain_step, model, torch.optim.SGD(trainable(model), lr=0.0), batch)
    truths = []
    for before in batches[: NUM_BEFORE - NUM_BETWEEN]:
        plain_step(model, optimizer, before)
    between = iter(batches[NUM_BEFORE - NUM_BETWEEN :])
    # The round before the first warms up, and gives the warm searches their first vectors.
    for round_ in range(rounds + 1):
        for _ in range(NUM_BETWEEN):
            plain_step(model, optimizer, next(between))
        truths.append(reference(model, batch))
        for name, search in searches.items():
            if not round_ and name not in warm and search is not ours:
                continue
            steps, found = timed(step, partial(search, model, batch, round_, starts.get(name)))
            if name in warm:
                starts[name] = found.vector
            if round_:
                rows[name].add(steps, found, truths[-1])
    return rows, truths[1:]


def print_searches(rows: dict[str, Rows], truths: list[float]) -> None:
    print(f"largest eigenvalue along the way: {', '.join(f'{value:.4g}' for value in truths)}\n")
    print("| top eigenvalue | products | plain steps | over ours | error, median | worst |")
    print("|---|---|---|---|---|---|")
    own = {True: rows["batchwright, warm"], False: rows["batchwright"]}
    for name, row in rows.items():
        over = [a / b for a, b in zip(row.steps, own["warm" in name].steps, strict=True)]
        middle = 100 * statistics.median(map(abs, row.errors))
        missed = ", beyond 1 %" if abs(row.worst) > LIMIT else ""
        print(
            f"| {name} | {spread(row.products, 0)} | {spread(row.steps, 1)} | {spread(over, 2)} | {middle:.3f} % "
            f"| {100 * row.worst:+.3f} %{missed} |",
            flush=True,
        )


def products(model: nn.Module, batch: Batch, vector: Tensor) -> dict[str, Callable[[], Tensor]]:
    """One Hessian product in several ways, each as a flat vector."""
    names = [name for name, _ in model.named_parameters()]
    sizes = [parameter.numel() for parameter in trainable(model)]
    pieces = [part.view_as(p) for part, p in zip(vector.split(sizes), trainable(model), strict=True)]
    criterion = MeanCrossEntropy()

    def mean_loss(parameters: dict[str, Tensor]) -> Tensor:
        return criterion(torch.func.functional_call(model, parameters, (batch[0],)), batch[1])

    def forward_over_reverse() -> Tensor:
        point = {name: parameter.detach() for name, parameter in model.named_parameters()}
        tangent = dict(zip(names, pieces, strict=True))
        _, product = torch.func.jvp(torch.func.grad(mean_loss), (point,), (tangent,))
        return flatten([product[name] for name in names])

    def gradient() -> Tensor:
        return flatten(torch.autograd.grad(criterion(model(batch[0]), batch[1]), trainable(model)))

    def differences() -> Tensor:
        parameters = trainable(model)
        width = 1e-3 * float(torch.linalg.vector_norm(flatten(parameters)) / torch.linalg.vector_norm(vector))
        kept = [parameter.detach().clone() for parameter in parameters]
        found = []
        for side in (1, -1):
            with torch.no_grad():
                for parameter, value, piece in zip(parameters, kept, pieces, strict=True):
                    parameter.copy_(value + side * width * piece)
            found.append(gradient())
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)
        return (found[0] - found[1]) / (2 * width)

    found: dict[str, Callable[[], Tensor]] = {
        "batchwright, `hvp`": lambda: hvp(model, loss, batch, vector),
        "forward over reverse (torch.func)": attentive(forward_over_reverse),
        "central difference of gradients": attentive(differences),
    }
    if find_spec("hessian_eigenthings"):
        found["hessian-eigenthings, `matvec`"] = attentive(lambda: eigenthings_operator(model, batch).matvec(vector))
    if find_spec("curvlinops"):
        found["curvlinops, `@`"] = attentive(lambda: curvlinops_operator(model, batch) @ vector)
    return found


def print_products(model: nn.Module, batch: Batch, rounds: int) -> None:
    step = partial(plain_step, model, torch.optim.SGD(trainable(model), lr=0.0), batch)
    operator = HessianOperator(model, loss, batch)
    vector = operator.random_vector(torch.Generator().manual_seed(0))
    wide = copy.deepcopy(model).double()
    images = batch[0].double() if batch[0].is_floating_point() else batch[0]
    true = HessianOperator(wide, loss, (images, batch[1])).matvec(vector.double())
    ways = products(model, batch, vector)
    graphs: list[float] = []
    found: dict[str, list[float]] = {name: [] for name in [HELD, *ways]}
    values: dict[str, Tensor] = {}
    for round_ in range(rounds + 1):
        # No step in between: it would change the parameters under the graph that is held.
        first = clock(step)
        with operator.held():
            graph = clock(operator.gradient)
            start = time.process_time()
            values[HELD] = operator.matvec(vector)
            held = time.process_time() - start
        plain = 0.5 * (first + clock(step))
        steps = {HELD: held / plain}
        for name, way in ways.items():
            steps[name], values[name] = timed(step, way)
        if round_:
            graphs.append(graph / plain)
            for name, value in steps.items():
                found[name].append(value)
    print("\n| one Hessian product | plain steps | error in the norm |")
    print("|---|---|---|")
    print(f"| the gradient with its graph, before the first product of a search | {spread(graphs, 2)} | |")
    for name, taken in found.items():
        error = float(torch.linalg.vector_norm(values[name].double() - true) / torch.linalg.vector_norm(true))
        print(f"| {name} | {spread(taken, 2)} | {error:.0e} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, help="one network alone; both when left out")
    parser.add_argument("--rounds", type=int, default=5, help="points of training, and starts")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for key, (name, make) in CASES.items():
        if options.case in (None, key):
            model, batches = make(NUM_BEFORE + NUM_BETWEEN * options.rounds + 1)
            print(f"### {name}\n")
            print_searches(*search_rows(model, batches[:-1], batches[-1], options.rounds))
            print_products(model, batches[-1], options.rounds)
            print()


if __name__ == "__main__":
    main()
