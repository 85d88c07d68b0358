"""Dataclasses go to strict JSON and come back equal; what cannot be read is named by its place."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Optional

import numpy as np
import pytest
import torch

from batchwright.core.errors import InputError, RecordError
from batchwright.core.serialization import from_plain, to_plain
from batchwright.core.statistics import Interval
from batchwright.planning.plan import (
    Calibration,
    Cost,
    CurvePoint,
    Evidence,
    NoisePoint,
    Plan,
    StepTimePoint,
)


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True, kw_only=True)
class Leaf:
    name: str
    number: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Tree:
    leaf: Leaf
    leaves: tuple[Leaf, ...]
    by_name: Mapping[str, Leaf]
    pair: tuple[int, float]
    maybe: Leaf | None
    old_maybe: Optional[float]  # noqa: UP045 - users' annotations are of both forms
    flag: bool
    anything: Any
    listed: list = field(default_factory=list)


def tree(**changes: object) -> Tree:
    fields: dict[str, Any] = {
        "leaf": Leaf(name="a", number=-math.inf),
        "leaves": (Leaf(name="b"), Leaf(name="c", number=0.1)),
        "by_name": {"d": Leaf(name="d", number=1e-300)},
        "pair": (3, 4.0),
        "maybe": None,
        "old_maybe": math.inf,
        "flag": True,
        "anything": {"deep": [1, "two", None]},
        "listed": [1, 2],
    }
    return Tree(**(fields | changes))


def interval(value: float) -> Interval:
    return Interval(value=value, low=value / 2, high=math.inf if value > 100 else value * 1.7, level=0.9)


def full_plan() -> Plan:
    """A plan in which every field of every part is set, with infinite ends among them."""
    return Plan(
        task="digits-mlp",
        objective="balanced",
        batch_size=256,
        micro_batch_size=64,
        lr=0.1 + 0.2,
        momentum=0.9,
        beta2=0.999,
        base_batch_size=32,
        base_lr=0.02,
        seed=3,
        intervals={"batch_size": interval(256.0), "noise_scale": interval(80.0)},
        reasons={"batch_size": "the largest with at most 20 % more examples – “balanced”"},
        cost=Cost(plain_steps=310.5, num_examples=9000, seconds=4.25, parts={"pilot": 200.0, "noise": 110.5}),
        evidence=Evidence(
            noise=(NoisePoint(step=10, noise_scale=interval(50.0)), NoisePoint(step=90, noise_scale=interval(500.0))),
            pilot_losses=(2.3, 1.1, math.nextafter(1.0, 2.0)),
            step_times=(StepTimePoint(batch_size=32, step_time_s=interval(1e-4)),),
            overhead_s=interval(1e-4),
            per_example_s=interval(3e-6),
            bytes_per_example=None,
            memory_budget_bytes=2**40 + 1,
            kappa=interval(3.0),
            kappa_source="fitted on the built-in tasks",
            calibration=Calibration(
                batch_sizes=(32, 128),
                losses=(0.5, 0.625),
                standard_errors=(0.01, math.inf),
                critical_batch_size=interval(700.0),
                largest_harmless=interval(math.inf),
                num_seeds=3,
            ),
            curve=(CurvePoint(batch_size=64, time=interval(1.5), examples=1.0, step_time_s=2e-4),),
            warnings=("the load is high",),
        ),
        environment={"torch": "2.13.0", "num_cpus": 2, "load": 0.5, "malloc_keeps_memory": None},
    )


def through_json(value: object) -> Any:
    return json.loads(json.dumps(to_plain(value), allow_nan=False))


@pytest.mark.parametrize(
    "value",
    [
        interval(3.0),
        Interval(value=math.inf, low=2.5, high=math.inf),
        Interval(value=0.1, low=-math.inf, high=math.inf, level=0.5),
        Interval(value=5e-324, low=0.0, high=1.7976931348623157e308),
        tree(),
        tree(maybe=Leaf(name="m"), old_maybe=None, leaves=(), by_name={}),
        full_plan(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_round_trip_through_strict_json_is_exact(value):
    assert from_plain(type(value), through_json(value)) == value


def test_nan_comes_back_as_nan():
    found = from_plain(Interval, through_json(Interval(value=math.nan, low=math.nan, high=math.nan)))
    assert all(math.isnan(number) for number in (found.value, found.low, found.high))


def test_a_plan_saved_to_disk_is_loaded_equal_from_the_file_and_from_its_folder(tmp_path):
    path = full_plan().save(tmp_path)
    assert Plan.load(path) == Plan.load(tmp_path) == full_plan()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array([[1.0, math.nan]]), [[1.0, "nan"]]),
        (torch.tensor(2.5, requires_grad=True), 2.5),
        (torch.tensor([1, 2]), [1, 2]),
        (np.float64(-math.inf), "-inf"),
        ({"a": (1, {2})}, {"a": [1, [2]]}),
        ({3: math.inf}, {"3": "inf"}),
        (Colour.RED, "red"),
        (Path("runs") / "a", "runs/a"),
        (range(3), [0, 1, 2]),
        (None, None),
        ("inf", "inf"),
    ],
)
def test_plain_values_are_what_json_holds(value, expected):
    found = to_plain(value)
    assert found == expected
    json.dumps(found, allow_nan=False)


def test_unknown_keys_of_a_newer_writer_are_ignored_and_missing_defaults_are_filled():
    assert from_plain(Leaf, {"name": "x", "added_later": 1}) == Leaf(name="x", number=1.0)


def test_an_integer_is_read_as_a_float_where_a_float_is_meant():
    found = from_plain(Leaf, {"name": "x", "number": 2}).number
    assert found == 2.0
    assert type(found) is float


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"leaf": {}}, "tree.leaf cannot be read from {}: .*'name'"),
        ({"leaf": 3}, "tree.leaf cannot be read from 3: expected the fields of Leaf"),
        ({"leaf": []}, r"tree.leaf cannot be read from \[\]"),
        ({"leaf": {"name": 5}}, "tree.leaf.name cannot be read from 5: expected str"),
        ({"leaf": {"name": "a", "number": "much"}}, "tree.leaf.number cannot be read from 'much'"),
        ({"leaves": [{"name": "a"}, {"name": None}]}, r"tree.leaves\[1\].name cannot be read from None"),
        ({"leaves": 7}, "tree.leaves cannot be read from 7"),
        ({"leaves": "abc"}, "tree.leaves cannot be read from 'abc': expected a list"),
        ({"by_name": {"d": {"name": "d", "number": []}}}, r"tree.by_name.d.number cannot be read from \[\]"),
        ({"by_name": [1]}, r"tree.by_name cannot be read from \[1\]"),
        ({"pair": [1]}, r"tree.pair cannot be read from \[1\]"),
        ({"pair": [1.5, 2.0]}, "tree.pair cannot be read from 1.5: expected int"),
        ({"maybe": "none"}, "tree.maybe cannot be read from 'none'"),
        ({"old_maybe": "x"}, "tree.old_maybe cannot be read from 'x'"),
        ({"flag": "yes"}, "tree.flag cannot be read from 'yes': expected bool"),
    ],
)
def test_an_error_names_the_place(change, place):
    with pytest.raises(RecordError, match=place):
        from_plain(Tree, through_json(tree()) | change, "tree")


def test_a_missing_field_is_named():
    plain = through_json(full_plan())
    del plain["evidence"]["kappa"]
    with pytest.raises(RecordError, match=r"plan\.evidence cannot be read from .*'kappa'"):
        from_plain(Plan, plain, "plan")


def test_a_value_that_breaks_a_rule_of_its_class_is_named():
    with pytest.raises(RecordError, match=r"noise cannot be read from .*an interval must hold its value") as info:
        from_plain(Interval, {"value": 1.0, "low": 2.0, "high": 3.0}, "noise")
    assert isinstance(info.value.__cause__, InputError)
