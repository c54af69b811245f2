"""`conceptctl config`: show, set and unset the defaults."""

from typing import Annotated

import typer

from conceptctl.cli.options import JsonOption, QuietOption, epilog
from conceptctl.cli.output import Output
from conceptctl.errors import UsageError

EPILOG = epilog(
    "conceptctl config",
    "conceptctl config train.steps 800",
    "conceptctl config train.steps --unset",
    codes=(2, 5),
)


def config(
    key: Annotated[str | None, typer.Argument(help="A setting, like train.steps.")] = None,
    value: Annotated[str | None, typer.Argument(help="Its new value.")] = None,
    unset: Annotated[bool, typer.Option("--unset", help="Back to the built-in value.")] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show the defaults, or change one."""
    from conceptctl import config as settings

    if unset and (key is None or value is not None):
        raise UsageError("--unset takes a setting and no value", hint="conceptctl config KEY --unset")
    if key is not None and (unset or value is not None):
        current = settings.set_value(key, value)
    else:
        current = settings.load_config()
    values = settings.config_values(current)
    if key is not None and key not in values:
        raise settings.unknown_setting(key)
    shown = values if key is None else {key: values[key]}
    rows = [(name, "" if item is None else str(item)) for name, item in shown.items()]
    Output(json, quiet).table(shown, ("setting", "value"), rows)
