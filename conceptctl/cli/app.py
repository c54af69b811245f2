"""The list of commands, and the only catch-all."""

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated

import typer

import conceptctl
from conceptctl.cli import streams, system_errors
from conceptctl.cli.options import EXIT_STATUS, epilog
from conceptctl.cli.output import Output
from conceptctl.errors import ConceptctlError, Interrupted

VERBS = {
    "init": "init:init",
    "list": "list_:list_concepts",
    "ls": "list_:list_concepts",
    "show": "show:show",
    "log": "log:log",
    "info": "info:info",
    "learn": "learn:learn",
    "generate": "generate:generate",
    "fold": "fold:fold",
    "eval": "eval_:evaluate",
    "undo": "undo:undo",
    "forget": "forget:forget",
    "export": "export:export",
    "import": "import_:import_file",
    "verify": "verify:verify",
    "repair": "repair:repair",
    "gc": "gc:gc",
    "compact": "compact:compact",
    "config": "config:config",
    "bench": "bench:app",
}
"""Every verb, by the module in `cli/` and the function or the group in it; the order is that of `--help`."""

ALIASES = {"ls"}
"""Verbs that work and that `--help` does not list."""


def build(only: str | None = None) -> typer.Typer:
    """Return the program with all its verbs, or with one: building all of them takes as long as `list`."""
    app = typer.Typer(
        name="conceptctl",
        help="Teach a text-to-image model one concept at a time, and keep every one of them.",
        no_args_is_help=True,
        # Its two options are the program's own, and never stand beside a verb.
        add_completion=only is None,
        pretty_exceptions_enable=False,
        # Plain help: drawing boxes takes longer than everything else that `--help` does.
        rich_markup_mode=None,
        epilog=epilog("conceptctl init", "conceptctl list", "conceptctl undo", codes=tuple(EXIT_STATUS)[1:]),
    )
    app.callback()(_root)
    for verb, place in VERBS.items() if only is None else [(only, VERBS[only])]:
        module_name, _, name = place.partition(":")
        module = importlib.import_module(f"conceptctl.cli.{module_name}")
        target = getattr(module, name)
        if isinstance(target, typer.Typer):
            app.add_typer(target, name=verb)
        else:
            app.command(verb, epilog=module.EPILOG, hidden=verb in ALIASES)(target)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        print(conceptctl.__version__)
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the program and end it with its exit code."""
    streams.prepare()
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except OSError:
        # It has been said, and Python would say it again.
        streams.abandon(sys.stdout)
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; every error is printed here."""
    output = Output(as_json="--json" in arguments)
    signals: list[int] = []
    previous = {number: signal.signal(number, _interrupt_into(signals)) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        result = build(_verb(arguments))(args=list(arguments), prog_name="conceptctl", standalone_mode=False)
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as error:
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        # The reader went away (`| head`): nothing is left to say, and to nobody. Typer would make it a plain exit.
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


def _verb(arguments: Sequence[str]) -> str | None:
    """Return the verb that a command line starts with, or None when all of them are needed to answer it."""
    first = arguments[0] if arguments else ""
    completing = "_CONCEPTCTL_COMPLETE" in os.environ
    return first if first in VERBS and not completing else None


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
    code = system_errors.code_of(error)
    if code == system_errors.BUG:
        import traceback

        streams.tell("".join(traceback.format_exception(error)).rstrip())
    output.failure(type(error).__name__, code, system_errors.message_of(error), system_errors.hint_of(error))
    return code
