"""Writes the pages that say what the program itself knows: every verb with its options, and every setting.

python docs/scripts/reference.py            # docs/reference/cli/ and docs/reference/settings.md, written again
python docs/scripts/reference.py --check    # exit 1 and the names of those that are out of date
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from conceptctl import presets
from conceptctl.cli import app
from conceptctl.config import Config as Defaults
from conceptctl.learning import method
from conceptctl.methods import CLASSIFIERS, METHODS, find_classifier, find_method

REFERENCE = Path(__file__).resolve().parents[1] / "reference"
GENERATED = "<!-- Written by docs/scripts/reference.py: change the program, not this page. -->"
OTHER_PANEL = "Options"
GROUPED_FROM = 12
"""With so many options, they stand in groups, as in `--help`."""


def pages() -> dict[str, str]:
    """Return every generated page, by its path below `docs/reference`."""
    commands = list(_commands())
    return {
        "cli/README.md": _index(commands),
        **{f"cli/{_file(name)}": _command_page(name, command) for name, command in commands},
        "settings.md": _settings_page(),
    }


def _commands() -> Iterator[tuple[str, Any]]:
    group: Any = typer.main.get_command(app.build())
    context = group.make_context("conceptctl", [], resilient_parsing=True)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if name in app.ALIASES:
            continue
        for below, each in getattr(command, "commands", {"": command}).items():
            yield f"{name} {below}".strip(), each


def _file(name: str) -> str:
    return name.replace(" ", "-") + ".md"


def _index(commands: Sequence[tuple[str, Any]]) -> str:
    rows = [(f"[`{name}`]({_file(name)})", _first_sentence(command)) for name, command in commands]
    others = [f"`{each}` is `{_first_of(app.VERBS[each])}`" for each in app.VERBS if each in app.ALIASES]
    return _page(
        "The command line",
        "Every verb has `--json` ([what it prints](../json.md)), `--quiet` and `--help`; "
        "[exit codes](../exit-codes.md) are the same everywhere.",
        _table(("verb", "what it does"), rows),
        f"Other names that work: {', '.join(others)}." if others else "",
        "`conceptctl --install-completion` installs completion for the shell that it is called in.",
    )


def _first_of(target: str) -> str:
    return next(verb for verb, other in app.VERBS.items() if other == target and verb not in app.ALIASES)


def _first_sentence(command: Any) -> str:
    paragraph = " ".join(inspect.cleandoc(command.help or "").split("\n\n")[0].split())
    return _plain(paragraph)


def _command_page(name: str, command: Any) -> str:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and not each.hidden]
    usage = " ".join(
        ["conceptctl", name, "[OPTIONS]", *(f"{_argument(each)}" for each in arguments)],
    )
    parts = [
        "\n\n".join(_plain(" ".join(part.split())) for part in inspect.cleandoc(command.help or "").split("\n\n")),
        f"```text\n{usage}\n```",
    ]
    if arguments:
        rows = [(f"`{_metavar(each)}`", _plain(each.help or ""), _needed(each)) for each in arguments]
        parts.append(_table(("argument", "what it is", ""), rows))
    grouped = len(options) >= GROUPED_FROM
    panels = [((grouped and getattr(each, "rich_help_panel", None)) or OTHER_PANEL, each) for each in options]
    names = list(dict.fromkeys(panel for panel, _ in panels))
    for panel in names:
        rows = [(_spelled(each), _plain(each.help or ""), _needed(each)) for owner, each in panels if owner == panel]
        parts += [*([f"## {panel}"] if len(names) > 1 else []), _table(("option", "what it does", ""), rows)]
    parts.append(_epilog(command.epilog or ""))
    return _page(f"`conceptctl {name}`", *parts)


def _metavar(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name).strip("{}[].")


def _argument(parameter: Any) -> str:
    shown = _metavar(parameter) + ("..." if parameter.nargs == -1 else "")
    return shown if parameter.required else f"[{shown}]"


def _spelled(option: Any) -> str:
    value = "" if option.is_flag else f" {option.metavar or option.type.name.upper()}"
    return ", ".join(f"`{each}{value}`" for each in (*option.opts, *option.secondary_opts))


def _needed(parameter: Any) -> str:
    if parameter.required:
        return "needed"
    if getattr(parameter, "envvar", None):
        return f"or `{parameter.envvar}`"
    shown = parameter.default
    if shown in (None, "", False, ()) or callable(shown) or getattr(parameter, "is_flag", False):
        return ""
    return f"`{shown}`"


def _epilog(text: str) -> str:
    """Turn the help's EXAMPLES into a block that the tests take as any page's, and its EXIT STATUS into a list."""
    examples, _, status = text.partition("EXIT STATUS")
    lines = [line.strip() for line in examples.replace("\b", "").splitlines()]
    # A long one goes on behind a backslash.
    going_on = [before.endswith("\\") for before in ["", *lines]]
    commands = [line for line, more in zip(lines, going_on, strict=False) if more or line.startswith("conceptctl")]
    codes = [line.split(maxsplit=1) for line in status.splitlines() if line.strip()]
    shown = ", ".join(f"{code} {meaning.strip()}" for code, meaning in codes)
    return "\n\n".join(
        [
            "## Examples",
            '```sh skip="examples of the help: parsed, not run"\n' + "\n".join(commands) + "\n```",
            f"Exit codes: {shown}.",
        ]
    )


def _settings_page() -> str:
    general = {name: value for name, value, _ in _fields(method.Config)}
    pocket = presets.shipped()["pocket"]
    parts = [
        "What a method is set to comes from, the later over the earlier: its paper's default, the base's preset "
        "(or `--preset NAME`), [`conceptctl config`](cli/config.md), and the command's options and `--set NAME=VALUE`. "
        "`conceptctl learn DIR --token NAME --dry-run` shows what would hold.",
        "## Of every method",
        _table(
            ("setting", "default", "on `pocket`", "what it is"),
            [
                (f"`{name}`", _value(value), _value(pocket.settings("lora").get(name, value)), text)
                for name, value, text in _fields(method.Config)
            ],
        ),
        "The column *on `pocket`* is that of `lora`; the tables below have what other methods have otherwise there.",
    ]
    for name in METHODS:
        rows = _method_rows(find_method(name), general, pocket, "lora")
        if rows:
            parts += [f"## `{name}`", _table(("setting", "default", "on `pocket`", "what it is"), rows)]
    parts += _classifier_tables(general)
    parts += [
        "## Presets",
        "Files in `conceptctl/presets/`; a base takes the one that names it, or that of its family.",
        _presets_table(),
        "`--preset paper` puts the papers' own values over a base's, but for `mask`, which follows from the base's "
        "size. What it sets beside the defaults: "
        + "; ".join(
            f"`{name}`: {', '.join(f'`{key}={value}`' for key, value in values.items())}"
            for name, values in presets.shipped()["paper"].methods.items()
        )
        + ".",
        "## Your own defaults",
        "`conceptctl config KEY VALUE` keeps one in a TOML file, in the platform's place for configuration or at "
        "`CONCEPTCTL_CONFIG`. Empty means that the base and the method decide.",
        _table(("key", "built in", "what it is"), list(_default_rows())),
    ]
    return _page("Settings", *parts)


def _classifier_tables(general: Mapping[str, Any]) -> Iterator[str]:
    """What is set of methods that tell classes apart alone."""
    tower = presets.shipped()["pocket-vit"]
    yield "## Of methods that tell classes apart"
    yield "Beside `stamina`, `c-lora` and `lora`, whose settings are above: [how](../how-to/tell-classes-apart.md)."
    for name in CLASSIFIERS:
        if name not in METHODS:
            rows = _method_rows(find_classifier(name), general, tower, "")
            if rows:
                yield f"### `{name}`"
                yield _table(("setting", "default", "on `pocket-vit`", "what it is"), rows)


def _method_rows(
    found: type[method.Method], general: Mapping[str, Any], preset: presets.Preset, usual_of: str
) -> list[tuple[str, ...]]:
    """What a method has that not every method has, and what it has otherwise, by default or with a preset."""
    usual, own = preset.settings(usual_of), preset.settings(found.name)
    rows = []
    for setting, value, text in _fields(found.configuration):
        here, default = own.get(setting, value), general.get(setting)
        if setting not in general or (value, here) != (default, usual.get(setting, default)):
            rows.append((f"`{setting}`", _value(value), _value(here), text))
    return rows


def _presets_table() -> str:
    shown = {name: preset for name, preset in presets.shipped().items() if name != "paper"}
    rows = []
    for table, kind in {"sampling": presets.Sampling, "learn": presets.Learn}.items():
        for field, _, text in _fields(kind):
            values = [_value(getattr(getattr(preset, table), field)) for preset in shown.values()]
            rows.append((f"`{table}.{field}`", *values, text))
    return _table(("", *(f"`{name}`" for name in shown), "what it is"), rows)


def _default_rows() -> Iterator[tuple[str, ...]]:
    for table in dataclasses.fields(Defaults):
        for name, value, text in _fields(type(getattr(Defaults(), table.name))):
            yield f"`{table.name}.{name}`", _value(value), text


def _fields(kind: type) -> Iterator[tuple[str, Any, str]]:
    """Every field of a dataclass, in its order: name, default, and the docstring below it."""
    texts: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if dataclasses.is_dataclass(owner):
            texts.update(_docstrings(owner))
    for field in dataclasses.fields(kind):
        default = field.default
        if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        yield field.name, default, _plain(texts[field.name])


def _docstrings(kind: type) -> dict[str, str]:
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for statement, after in zip(body.body, body.body[1:], strict=False):
        is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and is_text:
            found[statement.target.id] = " ".join(str(after.value.value).split())
    return found


def _value(value: Any) -> str:
    return "" if value in (None, "") else f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("{", "&#123;").replace("*", "\\*").replace("<", "&lt;")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _page(title: str, *parts: str) -> str:
    return "\n\n".join([f"# {title}", GENERATED, *filter(None, parts)]) + "\n"


def outdated(written: Mapping[str, str]) -> list[str]:
    """Return the generated pages that are not, on the disk, what the program says; those that nothing writes too."""
    there = {path.relative_to(REFERENCE).as_posix() for path in (REFERENCE / "cli").glob("*.md")} | {"settings.md"}
    stale = [name for name, text in written.items() if _read(REFERENCE / name) != text]
    return sorted({*stale, *(there - set(written))})


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def main() -> int:
    """Write the pages, or say which are out of date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    written = pages()
    stale = outdated(written)
    if parser.parse_args().check:
        print("\n".join(stale))
        return 1 if stale else 0
    for name in stale:
        path = REFERENCE / name
        if name in written:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(written[name], encoding="utf-8")
        else:
            path.unlink()
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
