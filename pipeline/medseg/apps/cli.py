"""The `medseg` command: its commands, and the one place where errors become exit codes.

Commands declare options, call one workflow, and show what it returned.
"""

from __future__ import annotations

import gc
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated

import typer

import medseg
from medseg.apps import (
    baseline_command,
    bundle_commands,
    data_commands,
    deidentify_commands,
    dicom_commands,
    evaluate_command,
    find_best_command,
    followup_commands,
    listen_command,
    measure_commands,
    model_commands,
    report_commands,
    series_commands,
    show,
)
from medseg.apps.terminal import TERMINAL
from medseg.core.errors import MedsegError, told_at_length
from medseg.engine.stop import StoppedAtOnce

app = typer.Typer(
    name="medseg",
    help="Segmentation, diagnosis and reports from CT, MRI, PET and ultrasound volumes. Research use only.\n\n"
    "A first run on the embedded cohort: `medseg demo`. On your own data: `medseg import`, `check`, `preprocess`, "
    "`train`, `infer`, `evaluate`, in this order; each finds the last one's results in --workspace.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_ANYWHERE = {"-q", "--quiet", "-v", "--verbose", "--debug"}


def _print_version(asked: bool) -> None:
    if asked:
        TERMINAL.result(f"medseg {medseg.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only results and errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens inside.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    TERMINAL.quiet = quiet
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, stream=sys.stderr)


app.command("import")(data_commands.import_)
app.command("import-nnunet")(bundle_commands.import_nnunet)
for _command in (
    series_commands.series,
    data_commands.check,
    data_commands.preprocess,
    model_commands.train,
    model_commands.infer,
    evaluate_command.evaluate,
    baseline_command.baseline,
    bundle_commands.ensemble,
    find_best_command.find_best,
    bundle_commands.export,
    report_commands.compare,
    report_commands.report,
    model_commands.demo,
    measure_commands.measure,
    dicom_commands.to_dicom,
    measure_commands.stage,
    followup_commands.follow_up,
    listen_command.listen,
    deidentify_commands.deidentify,
):
    app.command()(_command)


def main() -> None:
    """Run the command; every refusal becomes one line and an exit code."""
    with _ended_in_good_order():
        code = _run()
    gc.freeze()  # else the interpreter would look through all that was loaded before it ends: over a second
    sys.exit(code)


def _run() -> int:
    arguments = sys.argv[1:]
    ahead = [argument for argument in arguments if argument in _ANYWHERE]
    debug = "--debug" in ahead
    try:
        code = app([*ahead, *(a for a in arguments if a not in _ANYWHERE)], standalone_mode=False)
    except MedsegError as error:
        TERMINAL.error(told_at_length(error) if debug else str(error))
        code = error.exit_code
    except _Ended as ended:
        code = ended.told()
    except StoppedAtOnce as stopped:
        TERMINAL.error(str(stopped))
        code = 130
    except typer.Abort:
        TERMINAL.error("interrupted")
        code = 130
    except Exception as error:  # noqa: BLE001 - the last door: nothing behind it would name the cause
        behind = _signal_behind(error)
        code = behind.told() if behind else show.unexpected(TERMINAL, error, debug=debug)
    return code if isinstance(code, int) else 0


class _Ended(BaseException):
    """By a signal, its number the argument: what is open is closed on the way out."""

    def told(self) -> int:
        """The exit code, after the reason was said."""
        number: int = self.args[0]
        TERMINAL.error("interrupted" if number == signal.SIGINT else "ended by SIGTERM")
        return 128 + number


def _signal_behind(error: BaseException | None) -> _Ended | None:
    """The signal that an error was made of: compiled code, as Ray's, turns what is raised inside it into a fault."""
    while error is not None and not isinstance(error, _Ended):
        error = error.__cause__ or error.__context__
    return error


@contextmanager
def _ended_in_good_order() -> Iterator[None]:
    """A queue's or a container's SIGTERM ends a command as Ctrl-C does, which Typer would end without a word."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise _Ended(number)

    heard = [number for number in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
