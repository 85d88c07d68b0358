"""Checkpoints: safetensors and JSON in a folder that appears whole or not at all; nothing is unpickled.

A kill at any instant leaves either the old checkpoints or the old ones and the new. Each file's SHA-256 stands in the JSON, so a
damaged checkpoint is noticed and the one before it is used.
"""

import hashlib
import json
import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from batchwright.core.errors import CheckpointError
from batchwright.core.preserve import RandomState
from batchwright.core.records import output_errors
from batchwright.core.serialization import to_plain

SCHEMA = 2
FOLDER = "checkpoints"
NUM_KEPT = 2


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """All that a run needs to go on bit by bit.

    Attributes:
        model: ``state_dict`` of the model.
        optimizer: ``state_dict`` of the optimizer.
        random_state: Global generators of torch, NumPy and Python.
        progress: Counters and states of the loop, plain values.
        stability: State of the stability gauge; None for a run without one.
        measures: State of what is measured over many steps; None where nothing is.
    """

    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    random_state: RandomState
    progress: dict[str, Any]
    stability: dict[str, Any] | None = None
    measures: dict[str, Any] | None = None


def save_checkpoint(folder: Path, step: int, checkpoint: Checkpoint) -> Path:
    """Write ``folder/checkpoints/step-...`` and drop all but the last two."""
    parent = folder / FOLDER
    final = parent / f"step-{step:09d}"
    working = parent / f".writing-{os.getpid()}-{step:09d}"
    with output_errors(folder):
        clean_up(folder)
        working.mkdir(parents=True)
        tensors, structure = _split(checkpoint.optimizer, "optimizer")
        gauge_tensors, gauge_structure = _split(checkpoint.stability, "stability")
        measures_tensors, measures_structure = _split(checkpoint.measures, "measures")
        tensors |= gauge_tensors | measures_tensors
        generators = checkpoint.random_state.to_state()
        tensors["random.torch_cpu"] = generators["torch_cpu"]
        for number, state in enumerate(generators["torch_cuda"]):
            tensors[f"random.torch_cuda.{number}"] = state
        try:
            save_file({name: _plain(value) for name, value in checkpoint.model.items()}, working / "model.safetensors")
            save_file({name: _plain(value) for name, value in tensors.items()}, working / "optimizer.safetensors")
        except OSError:
            raise
        except Exception as error:  # safetensors has an error class of its own for a full disk
            raise OSError(str(error)) from error
        document = {
            "schema": SCHEMA,
            "step": step,
            "progress": checkpoint.progress,
            "optimizer": structure,
            "stability": gauge_structure,
            "measures": measures_structure,
            "random": {"numpy": generators["numpy"], "python": generators["python"]},
            "sha256": {name: _digest(working / name) for name in ("model.safetensors", "optimizer.safetensors")},
        }
        (working / "state.json").write_text(json.dumps(to_plain(document), allow_nan=False), encoding="utf-8")
        for file in working.iterdir():
            _sync(file)
        if final.exists():  # the same step was reached before a kill; the files are equal, unless they were damaged
            replaced = parent / f".replaced-{os.getpid()}-{step:09d}"
            final.rename(replaced)
        working.rename(final)
        _sync(parent)
        clean_up(folder)
        for old in _present(folder)[NUM_KEPT:]:
            shutil.rmtree(old)
    return final


def load_newest(folder: Path) -> tuple[Checkpoint, list[str]] | None:
    """The newest checkpoint that is whole, with a line for each damaged one that was passed over; None if there are none.

    Raises:
        CheckpointError: If there are checkpoints and all are damaged.
    """
    damaged: list[str] = []
    for path in _present(folder):
        try:
            return _load(path), damaged
        except CheckpointError as error:
            damaged.append(str(error))
    if damaged:
        raise CheckpointError(
            f"no checkpoint in {folder} can be read: {'; '.join(damaged)}; start anew in another folder"
        )
    return None


def clean_up(folder: Path) -> None:
    """Remove what a kill in the middle of a write has left."""
    for pattern in (".writing-*", ".replaced-*"):
        for leftover in (folder / FOLDER).glob(pattern):
            shutil.rmtree(leftover, ignore_errors=True)


def _present(folder: Path) -> list[Path]:
    """Checkpoint folders, the newest first."""
    return sorted((folder / FOLDER).glob("step-*"), reverse=True)


def _load(path: Path) -> Checkpoint:
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        if state["schema"] != SCHEMA:
            way_out = (
                "update batchwright" if state["schema"] > SCHEMA else "begin the run anew, or go on with that version"
            )
            raise CheckpointError(f"{path.name} must be of schema {SCHEMA}, got {state['schema']}; {way_out}")
        for name, digest in state["sha256"].items():
            if _digest(path / name) != digest:
                raise CheckpointError(f"{path.name}/{name} does not match its SHA-256")
        model = load_file(path / "model.safetensors")
        tensors = load_file(path / "optimizer.safetensors")
        cuda = sorted(name for name in tensors if name.startswith("random.torch_cuda."))
        return Checkpoint(
            model=model,
            optimizer=_join(state["optimizer"], tensors),
            random_state=RandomState.from_state(
                {
                    **state["random"],
                    "torch_cpu": tensors["random.torch_cpu"],
                    "torch_cuda": [tensors[name] for name in cuda],
                }
            ),
            progress=state["progress"],
            stability=_join(state["stability"], tensors) if "stability" in state else None,
            measures=_join(state["measures"], tensors) if "measures" in state else None,
        )
    except CheckpointError:
        raise
    except Exception as error:  # any damage at all: a missing file, bad JSON, a torn header
        raise CheckpointError(f"{path.name} is damaged ({type(error).__name__}: {error})") from error


def _split(state: dict[str, Any] | None, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a state by names that begin with ``name``, and the rest with a mark where each tensor was."""
    tensors: dict[str, Tensor] = {}

    def walk(value: Any, name: str) -> Any:
        if isinstance(value, Tensor):
            tensors[name] = value
            return {"tensor": name}
        if isinstance(value, dict):
            # Keys of the state are parameter numbers; JSON would make strings of them.
            return {"items": [[key, walk(item, f"{name}.{key}")] for key, item in value.items()]}
        if isinstance(value, list | tuple):
            kind = "list" if isinstance(value, list) else "tuple"
            return {kind: [walk(item, f"{name}.{number}") for number, item in enumerate(value)]}
        return {"value": value}

    return tensors, walk(state, name)


def _join(value: Any, tensors: dict[str, Tensor]) -> Any:
    (kind, content), *_ = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "items":
        return {key: _join(item, tensors) for key, item in content}
    if kind == "list":
        return [_join(item, tensors) for item in content]
    if kind == "tuple":
        return tuple(_join(item, tensors) for item in content)
    return content


def _plain(tensor: Tensor) -> Tensor:
    # A copy of its own: safetensors refuses tensors that share memory, as tied weights do.
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def seed_everything(seed: int) -> None:
    """Seed torch, NumPy and Python for a new run."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
