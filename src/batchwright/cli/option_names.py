"""Errors that name an argument of the API are told by the option that a user of the command line gave.

The rooms below know arguments (`observation_bound`), a shell knows options (`--observation-bound`). What a command's options are called
is read from the command itself, so a new option needs nothing here unless its argument has another name.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

# Arguments whose option is called otherwise, and words that errors have for one.
ALIASES: Mapping[str, Mapping[str, str]] = {
    "plan": {
        "plain_steps": "--budget-steps",
        "seconds": "--budget-seconds",
        "budget_bytes": "--memory",
        "num_seeds": "--verify-seeds",
        "rule of lr": "--lr-rule",
    },
    "train": {"lr_milestones": "--lr-milestone"},
    "rl": {"policy": "--actor"},
}
# Options that carry another one: ``--option growth=2``.
CARRIERS = ("--option", "--policy-option")


def in_options(message: str, arguments: Sequence[str], command: Any) -> str:
    """The message with its arguments' names as options.

    At the beginning, where an error names what is wrong, any argument is meant. Further on only what cannot be a plain word is:
    names with an underscore, and ``name=value``. Nothing in quotes or paths is touched, for that is what the user gave.

    Args:
        message: Of an error of the library.
        arguments: Of the command line, the command's name first.
        command: The command, with ``params`` that have ``name`` and ``opts``; None leaves the message as it is.
    """
    if command is None:
        return message
    names = _names(arguments, command)
    for name in sorted(names, key=len, reverse=True):
        if message.startswith(f"{name} "):
            return names[name] + _inside(message.removeprefix(name), names)
    return _inside(message, names)


def _names(arguments: Sequence[str], command: Any) -> dict[str, str]:
    """What each argument is called on this command line."""
    names: dict[str, str] = {}
    for carrier, pair in pairwise(arguments):
        if carrier in CARRIERS and "=" in pair:
            names[pair.partition("=")[0]] = f"{carrier} {pair.partition('=')[0]}"
    for each in command.params:
        flags = [word for word in each.opts if word.startswith("--")]
        told = flags[0] if flags else each.metavar or each.name.upper()
        names[each.name] = told
        if flags:
            names[flags[0].removeprefix("--").replace("-", "_")] = told
    return {**names, **ALIASES.get(command.name, {})}


def _inside(text: str, names: Mapping[str, str]) -> str:
    options = {name: told for name, told in names.items() if told.startswith("--")}
    for name, told in options.items():
        text = re.sub(rf"(?<![\w'\"`./=:-]){name}=(?:'([^']*)'|(?=\S))", rf"{told} \1", text)
        if "_" in name:
            text = re.sub(rf"(?<![\w'\"`./=:-]){name}(?![\w'\"`/=(-]|\.\w)", told, text)
    return text
