"""``batchwright doctor``: what this machine and its extras can do, and what distorts timings on it."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from batchwright.cli.options import DataRoot, Device, Json, Out, Seed
from batchwright.cli.output import console, print_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Extra:
    """An optional part of the installation.

    Attributes:
        packages: Their names on the package index, with the installed version or None.
        enables: What they are for.
    """

    packages: dict[str, str | None]
    enables: str

    @property
    def missing(self) -> list[str]:
        """Packages that are not installed."""
        return [name for name, version in self.packages.items() if version is None]


EXTRAS = {
    "images": (("pillow",), "a folder of PNG and JPEG files for batchwright gan"),
    "report": (("matplotlib",), "figures of a study as image files; the interactive page needs none of it"),
    "rl": (("gymnasium",), "safe policy gradients on Gymnasium's environments"),
    "tune": (("ray", "optuna"), "tuning on several machines, and Optuna's search beside ours"),
    "lightning": (("lightning",), "the callback for Lightning"),
    "transformers": (
        ("transformers", "accelerate"),
        "the callback for transformers' Trainer, and loops with Accelerate",
    ),
    "tensorboard": (("tensorboard",), "curves of batch size, noise scale and lr in TensorBoard"),
    "wandb": (("wandb",), "the same in Weights & Biases"),
}


def doctor(
    out: Out = None, seed: Seed = 0, device: Device = "auto", data_root: DataRoot = None, json: Json = False
) -> None:
    """Say what this machine, its device and its extras can do.

    Example: batchwright doctor
    """
    from batchwright.core.environment import available_memory_bytes, environment, resolve_device
    from batchwright.core.host import MALLOC_SETTINGS, package_version
    from batchwright.tasks.registry import REGISTRY

    where = resolve_device(device)
    facts = environment(where)
    extras = {
        name: Extra(packages={package: package_version(package) for package in packages}, enables=enables)
        for name, (packages, enables) in EXTRAS.items()
    }
    memory = available_memory_bytes(where)
    malloc = {name: os.environ.get(name) for name in MALLOC_SETTINGS}
    needing = [name for name, entry in REGISTRY.items() if entry.needs_data]
    # Whether it is there, not where: what is printed may be passed on.
    has_data = data_root is not None and Path(data_root).is_dir()
    notes = _notes(facts, data_root is not None and not has_data)
    if json:
        result = {
            "available_memory_bytes": memory,
            "malloc": malloc,
            "data_root_found": has_data,
            "tasks_that_need_data": needing,
            "extras": {name: asdict(extra) for name, extra in extras.items()},
            "missing": {name: extra.missing for name, extra in extras.items()},
            "notes": notes,
        }
        print_json("doctor", result, {}, str(where))
        return
    rows = {**facts, "available memory": "unknown" if memory is None else f"{memory / 2**30:.1f} GiB"}
    rows |= {name: "not set" if value is None else value for name, value in malloc.items()}
    rows["data root"] = f"{'found' if has_data else 'not found'}; {', '.join(needing)} need it"
    for name, extra in extras.items():
        versions = ", ".join(f"{package} {version}" for package, version in extra.packages.items() if version)
        missing = f"missing {', '.join(extra.missing)}: pip install 'batchwright[{name}]'" if extra.missing else ""
        rows[f"extra {name}"] = f"{'; '.join(filter(None, (versions, missing)))} -- {extra.enables}"
    screen = console()
    for name, value in rows.items():
        screen.print(f"{name:23} {value}", markup=False)
    for note in notes:
        screen.print(f"Note: {note}", markup=False)


def _notes(facts: dict[str, Any], data_root_is_wrong: bool) -> list[str]:
    notes = []
    if facts["malloc_keeps_memory"] is False and facts["device"] == "cpu":
        notes.append(
            "glibc gives large buffers back after each step, which can double the time of large-batch steps; set "
            "MALLOC_MMAP_MAX_=0 and MALLOC_TRIM_THRESHOLD_=100000000000 before Python starts"
        )
    load = facts["load"]
    if load is not None and load > facts["num_cpus"] / 2 and facts["num_threads"] > 1 and facts["device"] == "cpu":
        notes.append(
            f"the machine is busy (load {load:.1f} on {facts['num_cpus']} processors): several torch threads can be slower than "
            "one; set OMP_NUM_THREADS=1"
        )
    if data_root_is_wrong:
        notes.append("--data-root or BATCHWRIGHT_DATA names a folder that is not there; real data sets are not found")
    return notes
