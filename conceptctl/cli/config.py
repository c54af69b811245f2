"""`conceptctl config`: show, set and unset the defaults."""

import shlex
from typing import Annotated

import typer

from conceptctl.cli import completion
from conceptctl.cli.options import JsonOption, QuietOption, epilog
from conceptctl.cli.output import Output
from conceptctl.errors import NotFound, UsageError
from conceptctl.methods import METHODS

EPILOG = epilog(
    "conceptctl config",
    "conceptctl config train.steps 800",
    "conceptctl config train.steps --unset",
    codes=(2, 5),
)


def config(
    key: Annotated[
        str | None,
        typer.Argument(help="A setting, like train.steps.", metavar="KEY", autocompletion=completion.config_keys),
    ] = None,
    value: Annotated[
        str | None,
        typer.Argument(help="Its new value.", metavar="VALUE", autocompletion=completion.config_values),
    ] = None,
    unset: Annotated[bool, typer.Option("--unset", help="Back to the built-in value.")] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show the defaults, or change one."""
    from conceptctl import config as settings

    if unset and (key is None or value is not None):
        raise UsageError("--unset takes a setting and no value", hint="conceptctl config KEY --unset")
    if key == "train.method" and value is not None and value not in METHODS:
        raise NotFound(f"no method that draws concepts is called {value!r}", hint="methods: " + ", ".join(METHODS))
    output = Output(json, quiet)
    changes = key is not None and (unset or value is not None)
    was = _was(key) if key is not None and changes else None
    current = settings.set_value(key, value) if key is not None and changes else settings.load_config()
    values = settings.config_values(current)
    if key is not None and key not in values:
        raise settings.unknown_setting(key)
    shown = values if key is None else {key: values[key]}
    rows = [(name, "" if item is None else str(item)) for name, item in shown.items()]
    output.table(shown, ("setting", "value"), rows)
    if key is not None and changes:
        back = f"{key} --unset" if was is None or unset else f"{key} {shlex.quote(str(was))}"
        output.say(
            f"{key} was {_text(was)} and is {_text(values[key])}"
            + ("" if unset else f"; conceptctl config {back} takes that back")
        )


def _was(key: str) -> object:
    """What a setting was; None also where the file had nonsense, which a change may be about to mend."""
    from conceptctl import config as settings

    try:
        return settings.config_values(settings.load_config()).get(key)
    except UsageError:
        return None


def _text(value: object) -> str:
    return "not set" if value in (None, "") else str(value)
