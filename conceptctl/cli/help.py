"""What `--help` looks like, and how a command line that cannot be meant is explained: plain text, in groups."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from conceptctl.cli.options import MEMORY, OUTPUT, PICTURES, STORE, TRAINING

GROUPED_FROM = 12
"""With so many options, they stand in groups; fewer are read at once."""
COLUMN = 26
"""The widest that an option may be for its description to stand beside it."""
GENERAL = "Options"
PANELS = (GENERAL, PICTURES, TRAINING, MEMORY, STORE, OUTPUT)
"""The groups of options in their order; others come behind them."""
METAVARS = {"<int>": "N", "<float>": "X", "<str>": "TEXT", "<path>": "PATH"}
"""What the values of options are called that do not say it themselves."""
MEANT = {
    "add": "import", "cat": "show", "check": "verify", "clean": "gc", "collect": "gc", "create": "init",
    "delete": "forget", "draw": "generate", "evaluate": "eval", "gen": "generate", "history": "log", "load": "import",
    "merge": "fold", "mv": "rename", "new": "init", "remove": "forget", "revert": "undo", "save": "export",
    "settings": "config", "status": "info", "teach": "learn", "train": "learn",
}  # fmt: skip
"""What other programs call what a verb does."""

MEANT_OPTIONS = {"--width": "--size", "--height": "--size", "--scheduler": "--sampler", "--prompts": "--prompt-file"}
"""What other programs call what an option does."""

Rows = list[tuple[str, str]]


class Command(TyperCommand):
    """A verb, whose options stand in groups when there are many of them."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what stands behind the verb in the first line."""
        # Typer puts braces around what must be there, which nobody else does.
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options."""
        _write_options(self.get_params(ctx), ctx, formatter)


class Verbs(TyperGroup):
    """The program: verbs that are imported when they are used, listed in groups."""

    places: Mapping[str, str] = {}
    """Every verb, by the module in `cli/` and the function or the group in it."""
    groups: Mapping[str, Mapping[str, str]] = {}
    """The verbs that `--help` lists: in groups, with what each does."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the verbs that are listed."""
        return [verb for group in self.groups.values() for verb in group]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import a verb."""
        if cmd_name not in self.places:
            return None
        if cmd_name not in self.commands:
            self.commands[cmd_name] = _command(cmd_name, self.places[cmd_name])
        return self.commands[cmd_name]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the verb of a command line; an unknown one fails with what may be meant."""
        verb = args[0]
        if verb not in self.places and not verb.startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"there is no command {verb!r}")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Complete a verb without importing all of them."""
        from conceptctl.cli.completion import items

        verbs = {verb: text for group in self.groups.values() for verb, text in group.items()}
        options = [] if incomplete[:1].isalnum() or not incomplete else super().shell_complete(ctx, incomplete)
        return [*items(verbs, incomplete), *options]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the verbs in groups, and the program's own options."""
        width = max(len(verb) for verb in self.list_commands(ctx))
        for group, verbs in self.groups.items():
            with formatter.section(group):
                formatter.write_dl([(verb.ljust(width), text) for verb, text in verbs.items()])
        _write_options(self.get_params(ctx), ctx, formatter)

    def _main_shell_completion(self, *args: Any, **options: Any) -> None:
        """Answer a shell that completes; whatever goes wrong there, nothing may appear on somebody's line."""
        try:
            super()._main_shell_completion(*args, **options)
        except Exception:  # noqa: BLE001 - a shell is not told of errors
            sys.exit(0)


def _command(verb: str, place: str) -> Any:
    module_name, _, name = place.partition(":")
    module = importlib.import_module(f"conceptctl.cli.{module_name}")
    target = getattr(module, name)
    if isinstance(target, typer.Typer):
        made = typer.main.get_group(target)
        made.name = verb
        return made
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    single.command(verb, cls=Command, epilog=module.EPILOG)(target)
    return typer.main.get_command(single)


def _write_options(params: Iterable[Any], ctx: Any, formatter: Any) -> None:
    arguments: Rows = []
    options: dict[str, Rows] = {}
    flat: Rows = []
    for param in params:
        row = _row(param, ctx)
        if row and param.param_type_name == "argument":
            arguments.append(row)
        elif row:
            options.setdefault(_panel(param), []).append(row)
            flat.append(row)
    if len(flat) < GROUPED_FROM:
        options = {GENERAL: flat}
    order = sorted(options, key=lambda panel: PANELS.index(panel) if panel in PANELS else len(PANELS))
    sections = [("Arguments", arguments), *((panel, options[panel]) for panel in order)]
    # One column for all groups, so that the eye need not look for it anew.
    fitting = [len(first) for _, rows in sections for first, _ in rows if len(first) <= COLUMN]
    width = max(fitting, default=COLUMN)
    for heading, rows in sections:
        if rows:
            with formatter.section(heading):
                formatter.write_dl([(first.ljust(width), text) for first, text in rows], col_max=width)


def _panel(param: Any) -> str:
    return getattr(param, "rich_help_panel", None) or (OUTPUT if param.name == "help" else GENERAL)


def _row(param: Any, ctx: Any) -> tuple[str, str] | None:
    """What an option is called first, and what it is; its other names stand behind that."""
    record = param.get_help_record(ctx)
    if record is None:
        return None
    _, text = record
    if param.param_type_name == "argument":
        # In the first line it stands in brackets when it may be left out; here that would be noise.
        return param.make_metavar(ctx=ctx), text.replace("  [required]", "")
    long = [name for name in param.opts if name.startswith("--")]
    short = [name for name in param.opts if not name.startswith("--")]
    shown = ", ".join([*short, *long[:1]])
    if param.secondary_opts:
        shown += f" / {param.secondary_opts[0]}"
    if not (param.is_flag or param.count):
        metavar = param.make_metavar(ctx=ctx)
        shown += f" {METAVARS.get(metavar, metavar)}"
    return shown, text + (f"  [also {', '.join(long[1:])}]" if long[1:] else "")


def usage_hint(error: Exception) -> str:
    """Return what to do after a command line that cannot be meant: the nearest name, and the verb's help."""
    context = getattr(error, "ctx", None)
    if context is None:
        return "conceptctl --help"
    command = " ".join(name for name in _names(context) if name)
    near = _near(error, context)
    return (f"did you mean {' or '.join(near)}? " if near else "") + f"{command} --help"


def usage_message(error: Any) -> str:
    """Return what is wrong with a command line."""
    kind, param = type(error).__name__, getattr(error, "param", None)
    if kind == "NoSuchOption":
        return f"there is no option {error.option_name}"
    if param is None or kind not in ("BadParameter", "MissingParameter"):
        return str(error.format_message()).removesuffix(".")
    called = param.human_readable_name if param.param_type_name == "argument" else param.opts[-1]
    if param.param_type_name == "option":
        called = next((name for name in param.opts if name.startswith("--")), called)
    if kind == "MissingParameter":
        return f"{called} is missing"
    text = error.message.replace("is not a valid int", "is no whole number").replace(
        "is not a valid float", "is no number"
    )
    return f"{called}: {text.removesuffix('.')}"


def _names(context: Any) -> list[str]:
    return [*(_names(context.parent) if context.parent else []), context.info_name or ""]


def _near(error: Any, context: Any) -> Sequence[str]:
    if type(error).__name__ == "NoSuchOption":
        known = [name for param in context.command.get_params(context) for name in param.opts]
        if (meant := MEANT_OPTIONS.get(error.option_name)) in known:
            return [meant] if meant else []
        return get_close_matches(error.option_name, known, n=2, cutoff=0.6)
    if isinstance(context.command, Verbs) and (unknown := error.format_message()).startswith("there is no command "):
        verb = unknown.split("'")[1].lower()
        known = [*context.command.list_commands(context), *MEANT]
        near = [MEANT.get(str(each), str(each)) for each in get_close_matches(verb, known, n=3, cutoff=0.6)]
        return list(dict.fromkeys(near))[:2]
    return ()
