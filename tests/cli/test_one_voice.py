"""What holds of every command alike: one example, one name for one thing, options in errors, and one form of ``--json``."""

import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from jsonschema import Draft202012Validator

import batchwright.cli.app as application
from batchwright.cli.app import app, run
from batchwright.cli.option_names import in_options

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
SCHEMA = json.loads((Path(application.__file__).parent / "envelope.schema.json").read_text(encoding="utf-8"))
SHARED = {"--out", "--seed", "--device", "--json"}


def flags(parameter: Any) -> list[str]:
    return [word for word in parameter.opts if word.startswith("--")]


def options() -> dict[str, dict[str, Any]]:
    """Every option by its name, with the parameter of each command that has it."""
    found: dict[str, dict[str, Any]] = {}
    for name, command in COMMANDS.items():
        for parameter in command.params:
            for flag in flags(parameter):
                found.setdefault(flag, {})[name] = parameter
    return found


# Help


@pytest.mark.parametrize("name", COMMANDS)
def test_a_help_has_one_example_whose_options_are_there(name, capsys):
    assert run([name, "--help"]) == 0
    told = capsys.readouterr().out
    assert told.count("Example:") == 1
    (example,) = re.findall(r"Example: (.*?)(?:\n\s*\n|\nOptions)", told, flags=re.S)
    words = shlex.split(" ".join(example.split()))
    assert words[:2] == ["batchwright", name]
    # The parser takes it; the command itself is not run.
    COMMANDS[name].make_context(name, words[2:])


@pytest.mark.parametrize("name", COMMANDS)
def test_a_help_says_what_each_option_is(name):
    silent = [
        parameter.name
        for parameter in COMMANDS[name].params
        if not getattr(parameter, "help", None) and parameter.name not in EXPLAINED_BY_THEIR_NAMES
    ]
    assert not silent


EXPLAINED_BY_THEIR_NAMES = {"batch_size", "micro_batch_size", "max_examples", "discount"}


# One name for one thing


# The methods of a command are its own; a batch size of `gan` may be `auto`, and is that of two networks.
OF_ITS_COMMAND = {"--method", "--batch-size"}


@pytest.mark.parametrize(
    "flag", sorted(flag for flag, places in options().items() if len(places) > 1 and flag not in OF_ITS_COMMAND)
)
def test_an_option_means_the_same_in_every_command(flag):
    places = options()[flag]
    meanings = {
        (each.help, str(getattr(each.type_descriptor, "annotation", None)), each.name, each.multiple)
        for each in places.values()
    }
    assert len(meanings) == 1, {name: parameter.help for name, parameter in places.items()}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_the_shared_options(name):
    assert {flag for parameter in COMMANDS[name].params for flag in flags(parameter)} >= SHARED


# Errors name options


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["rl", "lqg", "--out", "x", "--observation-bound", "-1"], "--observation-bound"),
        (["rl", "lqg", "--out", "x", "--reward-bound", "0"], "--reward-bound"),
        (["rl", "lqg", "--out", "x", "--delta", "2"], "--delta"),
        (["rl", "lqg", "--out", "x", "--std", "-1"], "--std"),
        (["rl", "lqg", "--out", "x", "--bound", "magic"], "--bound"),
        (["rl", "lqg", "--out", "x", "--rule", "magic"], "--rule"),
        (["rl", "lqg", "--out", "x", "--method", "magic"], "--method"),
        (["rl", "lqg", "--out", "x", "--constants", "magic"], "--constants"),
        (["rl", "lqg", "--out", "x", "--tolerance", "-1"], "--tolerance"),
        (["rl", "lqg", "--out", "x", "--discount", "2"], "--discount"),
        (["rl", "lqg", "--out", "x", "--actor", "network:4"], "--actor"),
        (["rl", "lqg", "--out", "x", "--resume"], "--out"),
        (["rl", "lqg", "--out", "x", "--option", "value_range=magic"], "--option value_range"),
        (["rl", "lqg", "--out", "x", "--num-envs", "3"], "--num-envs"),
        (["rl", "nothing-v7", "--out", "x"], "ENV"),
        (["plan", "digits-mlp", "--regime", "magic"], "--regime"),
        (["plan", "digits-mlp", "--objective", "magic"], "--objective"),
        (["plan", "digits-mlp", "--lr-rule", "magic"], "--lr-rule"),
        (["plan", "digits-mlp", "--max-grad-norm", "-1"], "--max-grad-norm"),
        (["plan", "digits-mlp", "--gradient-noise", "--lr-rule", "linear"], "--gradient-noise"),
        (["plan", "digits-mlp", "--budget-steps", "3"], "--budget-steps"),
        (["plan", "digits-mlp", "--budget-seconds", "-1"], "--budget-seconds"),
        (["plan", "digits-mlp", "--memory", "lots"], "--memory"),
        (["plan", "digits-mlp", "--memory", "300"], "--memory"),
        (["plan", "nothing"], "TASK"),
        (["train", "digits-mlp", "--out", "x", "--lr", "-1"], "--lr"),
        (["train", "digits-mlp", "--out", "x", "--lr-decay", "-1"], "--lr-decay"),
        (["train", "digits-mlp", "--out", "x", "--lr-milestone", "2"], "--lr-milestone"),
        (["train", "digits-mlp", "--out", "x", "--max-grad-norm", "0"], "--max-grad-norm"),
        (["train", "digits-mlp", "--out", "x", "--batch-size", "99999"], "--batch-size"),
        (["train", "digits-mlp", "--out", "x", "--distributed", "magic"], "--distributed"),
        (["train", "digits-mlp", "--out", "x", "--stability", "--stability-budget", "0"], "--stability-budget"),
        (
            ["train", "digits-mlp", "--out", "x", "--policy", "noise-scale", "--policy-option", "fraction=-1"],
            "--policy-option fraction",
        ),
        (["study", "critical-batch", "--task", "nothing", "--out", "x"], "--task"),
        (["report", "nothing"], "nothing must be a folder"),
    ],
)
def test_an_error_names_the_option_and_no_argument_of_the_api(arguments, option, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" or arguments[0] == "rl"
    (line,) = err.strip().splitlines()
    assert line.startswith(f"batchwright: {option} "), line
    command = COMMANDS[arguments[0]]
    told = re.sub(r"'[^']*'", "", line)
    for parameter in command.params:
        if "_" in parameter.name and flags(parameter):
            assert not re.search(rf"(?<![\w-]){parameter.name}\b", told), line


def command_of(name: str, *names: str) -> Any:
    """A command with these options, as the parser's own commands look to `in_options`."""
    params = [SimpleNamespace(name=each.replace("-", "_"), opts=[f"--{each}"], metavar=None) for each in names]
    return SimpleNamespace(name=name, params=params)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("reward_bound must be above 0, got -1", "--reward-bound must be above 0, got -1"),
        (
            "reward_bound must be known, got none; give reward_bound=..., or constants='observed', which",
            "--reward-bound must be known, got none; give --reward-bound ..., or --constants observed, which",
        ),
        ("rule published must go with a policy", "--rule published must go with a policy"),
        ("the rule of constants is a rule", "the rule of constants is a rule"),
        ("task must be a name, got 'reward_bound'", "task must be a name, got 'reward_bound'"),
        (
            "a/reward_bound/b must hold JSON, got reward_bound.json",
            "a/reward_bound/b must hold JSON, got reward_bound.json",
        ),
        ("tokens must rise, got 3 before reward_bound", "tokens must rise, got 3 before --reward-bound"),
        ("my_reward_bound must rise", "my_reward_bound must rise"),
        ("words must be made of start:reward_bound", "words must be made of start:reward_bound"),
        ("growth must be above 1", "--option growth must be above 1"),
    ],
)
def test_what_is_quoted_or_a_plain_word_stays(message, told):
    command = command_of("rl", "reward-bound", "constants", "rule")
    assert in_options(message, ["rl", "lqg", "--option", "growth=2"], command) == told


def test_without_a_command_a_message_stays():
    assert in_options("lr must be above 0", [], None) == "lr must be above 0"


# The envelope


def problems(document: Any, schema: dict[str, Any]) -> list[str]:
    """What of the document breaks the schema, each with its place."""
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(document)]


def check(document: Any) -> None:
    assert problems(document, SCHEMA) == []


def test_the_schema_knows_every_command_and_no_other():
    known = set(SCHEMA["properties"]["command"]["enum"])
    assert known == set(SCHEMA["$defs"]["results"])
    assert set(COMMANDS) == known


@pytest.mark.parametrize(
    "broken",
    [
        {"schema": 2},
        {"command": "magic"},
        {"result": []},
        {"result": {"page": 3}},
        {"result": {"page": "x", "more": 1}},
        {"cost": {}},
        {"cost": {"seconds": -1}},
        {"environment": {}},
        {"more": 1},
    ],
)
def test_the_schema_refuses_what_is_not_the_envelope(broken, capsys, tmp_path):
    assert run(["tasks", "--json"]) == 0
    good = {**json.loads(capsys.readouterr().out), "command": "report", "result": {"page": "x"}}
    check(good)
    assert problems({**good, **broken}, SCHEMA)


def arguments_of(name: str, tmp_path: Path) -> list[str]:
    """A quick call of each command; a new command needs a line here."""
    out = ["--out", str(tmp_path / "out")]
    return {
        "demo": [*out],
        "plan": ["digits-mlp", "--budget-steps", "60", *out],
        "train": ["digits-mlp", "--max-examples", "640", *out],
        "tune": [
            "digits-mlp",
            "--space",
            "lr=log:1e-3:1",
            "--rounds",
            "1",
            "--parallel",
            "2",
            "--max-examples",
            "320",
            *out,
        ],
        "gan": ["digits", "--steps", "2", *out],
        "rl": ["lqg", "--delta", "0.9", "--budget", "4000", *out],
        "study": ["eoss", "--only", "boundary", "--workers", "1", *out],
        "report": [str(tmp_path / "there")],
        "tasks": [],
        "doctor": [],
    }[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_document_of_a_command_is_of_the_published_schema(name, capsys, tmp_path, monkeypatch):
    if name == "demo":
        monkeypatch.setattr("batchwright.cli.demo.NUM_SEEDS", 1)
    if name == "report":
        assert run(["train", "digits-mlp", "--max-examples", "64", "--out", str(tmp_path / "there")]) == 0
        capsys.readouterr()
    code = run([name, *arguments_of(name, tmp_path), "--json", "--device", "cpu"])
    out, err = capsys.readouterr()
    assert code == 0, err
    document = json.loads(out)
    assert document["command"] == name
    check(document)


def test_the_document_of_a_token_plan_is_too(capsys, tmp_path):
    base = ["--base-batch-size", "8", "--base-lr", "2e-4", "--base-tokens", "4k", "--budget-steps", "40"]
    assert run(["plan", "char-gpt:small", "--tokens", "8k", *base, "--device", "cpu", "--json"]) == 0
    check(json.loads(capsys.readouterr().out))
