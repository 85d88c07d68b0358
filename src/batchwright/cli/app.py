"""The command line: one thin file a command, one line for an error, and the exit codes of the documentation."""

import sys
from typing import Any

import typer

from batchwright.cli.demo import demo
from batchwright.cli.doctor import doctor
from batchwright.cli.output import errors
from batchwright.cli.plan import plan
from batchwright.cli.report import report
from batchwright.cli.study import study
from batchwright.cli.tasks import tasks
from batchwright.cli.train import train
from batchwright.core.errors import BatchwrightError

app = typer.Typer(
    name="batchwright",
    help="The batch-size engine for PyTorch: measure, plan, train, report.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)
for command in (demo, plan, train, study, report, tasks, doctor):
    app.command()(command)

INTERRUPTED = 130


def main() -> None:
    """Entry point of the console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command and return its exit code: 0 done, 2 bad input, 3 not enough evidence, 1 a failure of ours."""
    try:
        code: Any = app(arguments, standalone_mode=False)
    except BatchwrightError as error:
        return _say(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _say("interrupted; a run that was started can be resumed with --resume", INTERRUPTED)
    except Exception as error:
        if hasattr(error, "format_message"):  # an error of the argument parser
            return _say(error.format_message(), 2)
        if type(error).__name__ == "Abort":
            return _say("interrupted; a run that was started can be resumed with --resume", INTERRUPTED)
        raise
    return code if isinstance(code, int) else 0


def _say(message: str, code: int) -> int:
    one_line = " ".join(message.split())
    errors().print(f"batchwright: {one_line}", markup=False)
    return code
