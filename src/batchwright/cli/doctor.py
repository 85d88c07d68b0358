"""``batchwright doctor``: what this machine and its extras can do, and what distorts timings on it."""

from importlib.util import find_spec
from typing import Any

from batchwright.cli.options import Device, Json, Out, Seed
from batchwright.cli.output import console, print_json

EXTRAS = {
    "report": ("kaleido", "matplotlib"),
    "rl": ("gymnasium",),
    "tune": ("ray", "optuna"),
    "lightning": ("lightning",),
    "transformers": ("transformers", "accelerate"),
}


def doctor(out: Out = None, seed: Seed = 0, device: Device = "auto", json: Json = False) -> None:
    """Say what this machine, its device and its extras can do.

    Example: batchwright doctor
    """
    from batchwright.core.environment import available_memory_bytes, environment, resolve_device

    where = resolve_device(device)
    facts = environment(where)
    extras = {name: [module for module in modules if find_spec(module) is None] for name, modules in EXTRAS.items()}
    memory = available_memory_bytes(where)
    notes = _notes(facts)
    if json:
        result = {"available_memory_bytes": memory, "missing": extras, "notes": notes}
        print_json("doctor", result, {}, str(where))
        return
    screen = console()
    for name, value in facts.items():
        screen.print(f"{name:20} {value}")
    screen.print(f"{'available memory':20} {'unknown' if memory is None else f'{memory / 2**30:.1f} GiB'}")
    for name, missing in extras.items():
        text = "installed" if not missing else f"missing {', '.join(missing)}: pip install 'batchwright[{name}]'"
        screen.print(f"{'extra ' + name:20} {text}")
    for note in notes:
        screen.print(f"Note: {note}")


def _notes(facts: dict[str, Any]) -> list[str]:
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
    return notes
