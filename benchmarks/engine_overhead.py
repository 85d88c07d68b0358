"""Time of an optimizer step on `bw.BatchEngine` over that of the same step written by hand, and of its peers over the same.

    python -m benchmarks.engine_overhead [--rounds N] [--models cnn gpt]

Every row is four optimizer steps of one batch size, from the same tensors in memory, each over as many micro-batches; so a
measurement every fourth step is in its share. The loop written by hand indexes the tensors by a shuffled order, divides the mean loss
by the number of micro-batches and steps. Rows "one forward pass" take the batch whole; the engine splits it in two on the steps that
it measures. "By hand, against itself" shows what the rest is worth; "one loss an example" is the loop by hand with the losses that
the engine takes, so what is over it is the engine's own. Accelerate and Lightning Fabric have the same loop with their own calls, and
Lightning's Trainer its own loop, without logger, bar and checkpoints, in a thread that is given four steps' batches at a time; they
measure nothing. A peer that is not installed is left out. Ratios and 95 % intervals as in benchmarks/ratios.py: process CPU time on
one thread.
"""

import argparse
import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import batchwright as bw
from batchwright.tasks.char_gpt import CharGPT, sequence_loss
from benchmarks.noise_overhead import loss as image_loss
from benchmarks.noise_overhead import make_cnn
from benchmarks.ratios import time_ratio

NUM_STEPS = 4


class Case:
    """A model with its data, and the mean loss that a loop written by hand takes."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        self.name = name
        if name == "cnn":
            self.model, self.batch_size, self.loss = make_cnn(), 128, image_loss
            self.data: tuple[Tensor, ...] = (torch.randn(2048, 3, 32, 32), torch.randint(10, (2048,)))
        else:
            self.model, self.batch_size, self.loss = CharGPT(num_symbols=65, context=64), 32, sequence_loss
            self.data = (torch.randint(65, (1024, 65)),)

    def make(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        return self.model, torch.optim.AdamW(self.model.parameters(), lr=1e-4)

    def mean_loss(self, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        if self.name == "cnn":
            return F.cross_entropy(model(batch[0]), batch[1])
        logits = model(batch[0][:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), batch[0][:, 1:].flatten())

    def micro_batches(self, size: int) -> Iterator[tuple[Tensor, ...]]:
        while True:
            order = torch.randperm(len(self.data[0]))
            for start in range(0, len(order), size):
                indices = order[start : start + size]
                yield tuple(tensor[indices] for tensor in self.data)


def by_hand(case: Case, num_parts: int, *, each: bool = False) -> Callable[[], None]:
    model, optimizer = case.make()
    batches = case.micro_batches(case.batch_size // num_parts)

    def mean_loss(batch: tuple[Tensor, ...]) -> Tensor:
        return case.loss(model, batch).mean() if each else case.mean_loss(model, batch)

    def steps() -> None:
        for _ in range(NUM_STEPS):
            optimizer.zero_grad()
            for _ in range(num_parts):
                (mean_loss(next(batches)) / num_parts).backward()
            optimizer.step()

    return steps


def on_engine(case: Case, num_parts: int, noise_every: int | None) -> Callable[[], None]:
    model, optimizer = case.make()
    policy = None if noise_every is None else bw.adapt.NoiseScale(cooldown=10**9, max_batch_size=case.batch_size)
    engine = bw.BatchEngine(
        model,
        optimizer,
        TensorDataset(*case.data),
        policy=policy,
        batch_size=case.batch_size,
        micro_batch_size=case.batch_size // num_parts,
        noise_every=noise_every or 1,
    )

    def forever() -> Iterator:
        while True:
            yield from engine

    updates = forever()

    def steps() -> None:
        for _ in range(NUM_STEPS):
            update = next(updates)
            for batch in update:
                update.backward(case.loss(model, batch))

    return steps


def on_accelerate(case: Case, num_parts: int) -> Callable[[], None]:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=num_parts)
    model, optimizer = accelerator.prepare(*case.make())
    batches = case.micro_batches(case.batch_size // num_parts)

    def steps() -> None:
        for _ in range(NUM_STEPS * num_parts):
            with accelerator.accumulate(model):
                accelerator.backward(case.mean_loss(model, next(batches)))
                optimizer.step()
                optimizer.zero_grad()

    return steps


def on_fabric(case: Case, num_parts: int) -> Callable[[], None]:
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    model, optimizer = fabric.setup(*case.make())
    batches = case.micro_batches(case.batch_size // num_parts)

    def steps() -> None:
        for _ in range(NUM_STEPS):
            optimizer.zero_grad()
            for number in range(num_parts):
                with fabric.no_backward_sync(model, enabled=number < num_parts - 1):
                    fabric.backward(case.mean_loss(model, next(batches)) / num_parts)
            optimizer.step()

    return steps


def on_trainer(case: Case, num_parts: int) -> Callable[[], None]:
    from lightning.pytorch import LightningModule, Trainer

    model, optimizer = case.make()
    batches = case.micro_batches(case.batch_size // num_parts)
    given, asked = threading.Semaphore(0), threading.Semaphore(0)

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: tuple[Tensor, ...], _: int) -> Tensor:
            return case.mean_loss(self.model, batch)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optimizer

    class Batches(IterableDataset):
        def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
            while True:
                for _ in range(NUM_STEPS * num_parts):
                    given.acquire()
                    yield next(batches)
                asked.release()

    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=-1,
        accumulate_grad_batches=num_parts,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(Batches(), batch_size=None)
    threading.Thread(target=trainer.fit, args=(Module(), loader), daemon=True).start()

    def steps() -> None:
        # The trainer fetches a batch ahead, so what is waited for is the last batch but one; the next call has the other.
        given.release(NUM_STEPS * num_parts)
        asked.acquire()

    return steps


def rows(case: Case) -> Iterator[tuple[str, str, Callable[[], None], Callable[[], None]]]:
    hand = by_hand(case, 4)
    yield "by hand, against itself", "", hand, by_hand(case, 4)
    yield "by hand, one loss an example", "", hand, by_hand(case, 4, each=True)
    yield "engine, no statistics", "≤ 1.01", hand, on_engine(case, 4, None)
    yield "engine, noise scale every 4th step", "≤ 1.03", hand, on_engine(case, 4, 4)
    yield "engine, noise scale every step", "≤ 1.03", hand, on_engine(case, 4, 1)
    whole = by_hand(case, 1)
    yield "engine, one forward pass, no statistics", "≤ 1.01", whole, on_engine(case, 1, None)
    yield "engine, one forward pass, noise scale every 4th step", "≤ 1.03", whole, on_engine(case, 1, 4)
    if find_spec("accelerate") is not None:
        yield "Accelerate", "", hand, on_accelerate(case, 4)
    if find_spec("lightning") is not None:
        yield "Lightning Fabric", "", hand, on_fabric(case, 4)
        yield "Lightning Trainer", "", hand, on_trainer(case, 4)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--models", nargs="+", choices=("cnn", "gpt"), default=("cnn", "gpt"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | loop | ratio (95 %) | four steps by hand, ms | target |")
    print("|---|---|---|---|---|")
    for name in options.models:
        case = Case(name)
        for label, target, hand, other in rows(case):
            ratio = time_ratio(hand, other, options.rounds)
            print(f"| {name} | {label} | {ratio} | {1e3 * ratio.plain_s:.0f} | {target} |", flush=True)


if __name__ == "__main__":
    main()
