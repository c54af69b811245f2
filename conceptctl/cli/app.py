"""The list of commands, and the only catch-all."""

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated

import typer

import conceptctl
from conceptctl.cli import streams, system_errors
from conceptctl.cli.help import Verbs, usage_hint, usage_message
from conceptctl.cli.options import EXIT_STATUS, epilog
from conceptctl.cli.output import Output
from conceptctl.errors import ConceptctlError, Interrupted

VERBS = {
    "init": "init:init",
    "learn": "learn:learn",
    "generate": "generate:generate",
    "classify": "classify:classify",
    "eval": "eval_:evaluate",
    "list": "list_:list_concepts",
    "ls": "list_:list_concepts",
    "show": "show:show",
    "log": "log:log",
    "diff": "diff:diff",
    "info": "info:info",
    "stats": "stats:stats",
    "rename": "rename:rename",
    "forget": "forget:forget",
    "rm": "forget:forget",
    "undo": "undo:undo",
    "fold": "fold:fold",
    "export": "export:export",
    "import": "import_:import_file",
    "verify": "verify:verify",
    "repair": "repair:repair",
    "gc": "gc:gc",
    "compact": "compact:compact",
    "config": "config:config",
    "bench": "bench:app",
}
"""Every verb, by the module in `cli/` and the function or the group in it."""

GROUPS = {
    "Teach": {
        "init": "Make a new store on a base",
        "learn": "Teach the model one concept from a folder of pictures",
        "generate": "Draw pictures",
        "classify": "Tell the class of pictures",
        "eval": "Measure how every concept fares",
    },
    "Look": {
        "list": "List the concepts, oldest first",
        "show": "Show what a concept is and how it was learned",
        "log": "List the generations, newest first",
        "diff": "Compare two generations",
        "info": "Show where the store is, its base and the space that is left",
        "stats": "Count what is in the store, and what takes how much space",
    },
    "Keep": {
        "rename": "Give a concept another name",
        "forget": "Forget a concept",
        "undo": "Go back to before the last change",
        "fold": "Merge every concept that is not folded yet into the stored weights",
        "export": "Write concepts as files, or the model with them as a folder",
        "import": "Add a concept from a file",
    },
    "Other": {
        "verify": "Look for damage",
        "repair": "Make a damaged store usable again",
        "gc": "Take out what nothing needs",
        "compact": "Put the weights in the place of all deltas",
        "config": "Show the defaults, or change one",
        "bench": "Compare methods",
    },
}
"""The verbs as `--help` lists them, each with how its own help begins; those that stand in none are other names."""

ALIASES = set(VERBS) - {verb for group in GROUPS.values() for verb in group}
"""Verbs that work and that `--help` does not list."""


class Program(Verbs):
    """The program with all its verbs."""

    places = VERBS
    groups = GROUPS


def build(completion: bool = True) -> typer.Typer:
    """Return the program; each verb is imported when it is used.

    Args:
        completion: Whether it has the options that install completion, which cost a little time.
    """
    app = typer.Typer(
        name="conceptctl",
        cls=Program,
        help="Teach a text-to-image model one concept at a time, and keep every one of them.",
        no_args_is_help=True,
        add_completion=completion,
        pretty_exceptions_enable=False,
        # Plain help: drawing boxes takes longer than everything else that `--help` does.
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog=epilog(
            "conceptctl bench data ./concepts",
            "conceptctl learn ./photos --token alice --class person",
            'conceptctl generate "a photo of a V*alice" -n 4',
            "conceptctl eval ./heldout --report report.html",
            codes=tuple(EXIT_STATUS)[1:],
        ),
    )
    app.callback()(_root)
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
        result = build(not _is_verb(arguments))(args=list(arguments), prog_name="conceptctl", standalone_mode=False)
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


def _is_verb(arguments: Sequence[str]) -> bool:
    """Whether a command line begins with a verb, beside which the program's own options never stand."""
    return bool(arguments) and arguments[0] in VERBS and "_CONCEPTCTL_COMPLETE" not in os.environ


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
        message = usage_message(error)
        if type(error).__name__ == "NoArgsIsHelpError":
            # Nothing is wrong: there is a help to read.
            streams.tell(message)
        elif message:
            output.failure("UsageError", error.exit_code, message, usage_hint(error))
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
