"""The command line: one thin file a command, one line for an error, and the exit codes of the documentation."""

import os
import sys
from typing import Any

import typer

from batchwright.cli.demo import demo
from batchwright.cli.doctor import doctor
from batchwright.cli.gan import gan
from batchwright.cli.option_names import in_options
from batchwright.cli.output import errors, start_clock
from batchwright.cli.plan import plan
from batchwright.cli.report import report
from batchwright.cli.rl import rl
from batchwright.cli.study import study
from batchwright.cli.tasks import tasks
from batchwright.cli.train import train
from batchwright.cli.tune import tune
from batchwright.core.errors import BatchwrightError, InputError, RankError

app = typer.Typer(
    name="batchwright",
    help="The batch-size engine for PyTorch: measure, plan, train, report.",
    epilog="Exit codes: 0 done, 2 bad input, 3 not enough evidence, 130 interrupted, 1 any other failure.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)
for command in (demo, plan, train, tune, rl, gan, study, report, tasks, doctor):
    app.command()(command)

INTERRUPTED = 130
# Commands that several ranks would all do, each over the other's files.
ALONE = frozenset({"demo", "plan", "tune", "rl", "gan", "study", "report"})


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command and return its exit code: 0 done, 2 bad input, 3 not enough evidence, 1 a failure of ours.

    Of several ranks one alone says what went wrong: the first, if it knows.
    """
    rank, world_size = job_rank()
    start_clock()
    try:
        if world_size > 1 and arguments and arguments[0] in ALONE:
            raise InputError(
                f"{arguments[0]} must run in a single process, got {world_size}; start it without torchrun"
            )
        code: Any = app(arguments, standalone_mode=False)
    except BatchwrightError as error:
        if rank > 0 and (isinstance(error, RankError) or getattr(error, "told", False)):
            return error.exit_code
        message = in_options(str(error), arguments, named_command(arguments))
        return _say(f"rank {rank}: {message}" if rank > 0 else message, error.exit_code)
    except KeyboardInterrupt:
        return (
            INTERRUPTED
            if rank > 0
            else _say("interrupted; a run that was started can be resumed with --resume", INTERRUPTED)
        )
    except Exception as error:
        if hasattr(error, "format_message"):  # an error of the argument parser, which all ranks have alike
            return _say(error.format_message(), 2) if rank == 0 else 2
        if type(error).__name__ == "Abort":
            return _say("interrupted; a run that was started can be resumed with --resume", INTERRUPTED)
        raise
    return code if isinstance(code, int) else 0


def named_command(arguments: list[str]) -> Any:
    """The command that the arguments begin with; None if there is none."""
    commands: Any = getattr(typer.main.get_command(app), "commands", {})
    return commands.get(arguments[0]) if arguments else None


def job_rank() -> tuple[int, int]:
    """Number of this process and of all, by the environment of a launcher such as ``torchrun``."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    return (int(os.environ.get("RANK", "0")), world_size) if world_size > 1 else (0, 1)


def _say(message: str, code: int) -> int:
    one_line = " ".join(message.split())
    errors().print(f"batchwright: {one_line}", markup=False)
    return code
