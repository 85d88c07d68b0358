"""Functions that searches of the tests call in workers; what else they do they leave in files, since processes share nothing."""

import math
import os
import signal
import time
from pathlib import Path

from batchwright.tuning.outcome import Outcome


def bowl(values: dict, seed: int) -> float:
    """Smallest, 0, at x = 0.3 and a rate of 0.1, with noise that the seed decides."""
    noise = 0.02 * math.sin(12.9898 * seed)
    return (values["x"] - 0.3) ** 2 + 0.1 * math.log10(values["rate"] / 0.1) ** 2 + noise


def steps(values: dict) -> float:
    """Of a whole number alone, so settings come twice."""
    return abs(values["n"] - 2.0)


def narrow_valley(values: dict) -> float:
    """Deepest in a narrow valley at 0.8, nearly as deep in a wide one at 0.3."""
    x = values["x"]
    return -math.exp(-(((x - 0.3) / 0.15) ** 2)) - 1.15 * math.exp(-(((x - 0.8) / 0.03) ** 2))


def counted_bowl(values: dict, seed: int) -> float:
    """`bowl`, and one line more in the file that the environment names."""
    time.sleep(0.02)
    with Path(os.environ["TUNING_COUNT"]).open("a") as file:
        file.write(f"{seed}\n")
    return bowl(values, seed)


def deadly(values: dict, seed: int) -> float:
    """`bowl`, but the process that runs it dies the first time that x is below 0.5."""
    mark = Path(os.environ["TUNING_COUNT"]).with_suffix(".died")
    if values["x"] < 0.5 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return bowl(values, seed)


def always_deadly(values: dict, seed: int) -> float:
    """`bowl`, but no process survives an x below 0.25."""
    if values["x"] < 0.25:
        os.kill(os.getpid(), signal.SIGKILL)
    return bowl(values, seed)


def moody(values: dict) -> float:
    """NaN on one side, an error beyond 0.9, and a hang in a small part."""
    if values["x"] > 0.9:
        raise RuntimeError("no memory left")
    return math.nan if values["x"] > 0.7 else values["x"] ** 2


def sleepy(values: dict) -> float:
    """Takes longer than any limit of a test."""
    time.sleep(60)
    return 0.0


def double(number: int) -> int:
    """For executors."""
    return 2 * number


def die(number: int) -> int:
    """For executors: the worker is gone."""
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def sleep(seconds: float) -> float:
    """For executors."""
    time.sleep(seconds)
    return seconds


def failed() -> Outcome:
    """For the journal."""
    return Outcome.failure("it broke")
