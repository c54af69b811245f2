"""The list of commands, and the only catch-all."""

import errno
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Annotated

import typer

import conceptctl
from conceptctl.cli import config, export, fold, forget, gc, import_, info, init, list_, log, repair, show, undo, verify
from conceptctl.cli.options import epilog
from conceptctl.cli.output import Output
from conceptctl.errors import ConceptctlError, Interrupted

BUG = 1

app = typer.Typer(
    name="conceptctl",
    help="Teach a text-to-image model one concept at a time, and keep every one of them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog=epilog("conceptctl init", "conceptctl list", "conceptctl undo", codes=(1, 2, 3, 4, 5, 6, 7, 8, 9, 130, 143)),
)

app.command("init", epilog=init.EPILOG)(init.init)
app.command("list", epilog=list_.EPILOG)(list_.list_concepts)
app.command("ls", epilog=list_.EPILOG, hidden=True)(list_.list_concepts)
app.command("show", epilog=show.EPILOG)(show.show)
app.command("log", epilog=log.EPILOG)(log.log)
app.command("info", epilog=info.EPILOG)(info.info)
app.command("fold", epilog=fold.EPILOG)(fold.fold)
app.command("undo", epilog=undo.EPILOG)(undo.undo)
app.command("forget", epilog=forget.EPILOG)(forget.forget)
app.command("export", epilog=export.EPILOG)(export.export)
app.command("import", epilog=import_.EPILOG)(import_.import_file)
app.command("verify", epilog=verify.EPILOG)(verify.verify)
app.command("repair", epilog=repair.EPILOG)(repair.repair)
app.command("gc", epilog=gc.EPILOG)(gc.gc)
app.command("config", epilog=config.EPILOG)(config.config)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(conceptctl.__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the program and end it with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; every error is printed here."""
    output = Output(as_json="--json" in arguments)
    signals: list[int] = []
    previous = {number: signal.signal(number, _interrupt_into(signals)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        result = app(args=list(arguments), prog_name="conceptctl", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader went away (`| head`): nothing is left to say, and to nobody.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:  # noqa: BLE001 - the one place where nothing may escape
        return _explain(error, output)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if signals:
        output.failure("Interrupted", 128 + signals[0], "interrupted", Interrupted.default_hint)
        return 128 + signals[0]
    return result if isinstance(result, int) else 0


def _interrupt_into(signals: list[int]) -> "signal._HANDLER":
    def interrupt(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        raise KeyboardInterrupt

    return interrupt


def _explain(error: Exception, output: Output) -> int:
    if isinstance(error, ConceptctlError):
        output.error(error)
        return error.exit_code
    if isinstance(error, typer.TyperException):
        # Without a command the help has been printed, and there is nothing to add.
        if message := error.format_message():
            output.failure("UsageError", error.exit_code, message, "conceptctl --help")
        return error.exit_code
    if isinstance(error, typer.Abort):
        output.failure("Aborted", 130, "nothing was changed")
        return 130
    code = _system_code(error)
    if code == BUG:
        traceback.print_exception(error)
    output.failure(type(error).__name__, code, str(error) or type(error).__name__)
    return code


def _system_code(error: Exception) -> int:
    """Return the exit code of what the operating system refused, or that of a bug."""
    if isinstance(error, MemoryError):
        return 9
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT):
        return 7
    if number in (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EROFS):
        return 9
    return 2 if number in (errno.EACCES, errno.EPERM) else BUG
