"""The examples of docs/requests.md, each run as its reader runs it, with a fact of its output that is known from elsewhere."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def output(example: str) -> str:
    """What it prints; it must end well and without a warning of ours."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), *_paths()])}
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{example}.py")],
        capture_output=True,
        text=True,
        timeout=240,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _paths() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def numbers(pattern: str, text: str) -> list[float]:
    return [float(found) for found in re.findall(pattern, text)]


def test_a_schedule_in_a_plain_loop_uses_its_examples_and_ends_its_lr_schedule_in_time():
    printed = output("batch_size_schedule")
    # 94 steps of 32, then 64 to at least 6,000 examples, then 128: counted by hand.
    first = -(-3000 // 32)
    second = -(-(6000 - 32 * first) // 64)
    third = -(-(12_000 - 32 * first - 64 * second) // 128)
    assert f"batch sizes [32, 64, 128], {first + second + third} steps instead of 375" in printed
    assert "schedule at its end: 375 of 375 steps, lr 0.0e+00" in printed


def test_the_two_ceilings_differ_and_the_predicted_one_is_the_last_that_fits():
    printed = output("train_and_eval_ceilings")
    train, evaluation = numbers(r"(?:train|eval): micro-batch (\d+)", printed)
    assert train < evaluation
    assert numbers(r"(\d+) out of memory", printed) == [0, 0]
    assert f"micro-batches of {train:.0f}: fits" in printed
    assert f"micro-batches of {round(1.1 * train)}: out of memory" in printed


def test_the_batch_is_kept_after_an_out_of_memory_error():
    printed = output("keep_batch_after_oom")
    assert "2 times out of memory, then micro-batches of 32" in printed
    assert "batch size 128, 12 steps, 1536 examples" in printed
    assert "that began with them: True" in printed


def test_token_weights_make_accumulation_the_big_batch():
    printed = output("token_weighted_accumulation")
    means, engine = numbers(r"off by (\S+)", printed)
    assert engine < 1e-13
    assert means > 1e-2


def test_a_run_goes_on_in_mid_epoch():
    printed = output("resume_mid_epoch")
    (stopped,) = numbers(r"stopped after (\d+) of 1000", printed)
    assert stopped % 1000 != 0
    assert "lr the same: True" in printed
    assert "examples the same: True; parameters bit by bit: True" in printed


def test_sharpness_stands_against_two_over_the_lr():
    lines = output("sharpness_of_your_model").splitlines()
    assert len(lines) == 4
    for line in lines:
        value, error = [float(found) for found in re.search(r"sharpness +(\S+) \+- (\S+)", line).groups()]
        (ratio,) = numbers(r"(\S+) of 2/lr = 8", line)
        assert ratio == pytest.approx(value * 0.25 / 2, abs=0.006)
        assert error <= 0.05 * value + 0.005
        assert value + 4 * error < 8 * 1.1  # plain SGD does not stay beyond the edge


def test_noise_by_layer_brackets_that_of_the_whole_and_norms_are_exact():
    printed = output("noise_scale_by_layer")
    found = dict(re.findall(r"^(\w+) +noise scale +(\S+)", printed, re.M))
    parts = [float(found[name]) for name in ("embed", "block", "head")]
    # The whole's trace and squared norm are sums over these three, so its ratio lies between theirs.
    assert min(parts) < float(found["whole"]) < max(parts)
    assert numbers(r"off by (\S+) at most", printed)[0] < 1e-5


def test_an_iterable_source_loses_no_example():
    printed = output("iterable_stream")
    assert printed.count("each of 1000 examples once and in order: True") == 2
    assert printed.count("steps of [16, 50, 128] examples") == 2


def test_a_search_in_mid_run_runs_steps_and_leaves_no_trace():
    printed = output("search_in_mid_run")
    tried = [int(size) for size in re.search(r"steps tried: \[(.*)\]", printed)[1].split(", ")]
    (found,) = numbers(r"largest micro-batch (\d+)", printed)
    assert found in tried
    failed = [size for size in tried if size > found]
    assert len(failed) == numbers(r"(\d+) out of memory", printed)[0] > 0
    assert min(failed) <= 1.03 * found + 1
    assert "without a search: True" in printed


def test_ranks_agree_on_a_ceiling_and_unequal_micro_batches_make_one_gradient():
    dist = pytest.importorskip("torch.distributed")
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("this torch has no gloo")
    printed = output("unequal_ranks")
    ceilings = numbers(r"ceiling (\d+)", printed)
    assert len(ceilings) == 2
    assert ceilings[0] == ceilings[1]
    assert dict(re.findall(r"rank (\d): (\d+) passes", printed)) == {"0": "1", "1": "5"}
    assert max(numbers(r"one process by (\S+)", printed)) < 1e-6


def test_a_recipe_is_mapped_and_its_ramp_reaches_the_target():
    printed = output("critical_batch_of_my_recipe")
    found = re.search(r"critical batch size (\d+) \[(\d+), (\d+)\]", printed)
    value, low, high = [int(number) for number in found.groups()]
    assert 16 < low < value < high
    assert f"cost of {3 * 3 * 2048}:" in printed  # three seeds at three sizes
    ramp, constant = numbers(r"target after (\d+) steps", printed)
    assert ramp < constant


def test_a_schedule_in_trainer_ends_in_time():
    for library in ("transformers", "accelerate"):
        if importlib.util.find_spec(library) is None:
            pytest.skip(f"{library} is not installed: pip install 'batchwright[transformers]'")
    printed = output("transformers_schedule")
    assert "batch sizes [16, 32, 64], 1536 examples in 48 steps" in printed
    assert "schedule at its end: 96 of 96 steps" in printed
