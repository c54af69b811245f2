"""`conceptctl learn --batch FILE`: several concepts one after the other, as a file says.

A file has a table `[[concept]]` for each concept, with `folder`, `token`, `class` and whatever `learn` has as an
option, by its long name with underscores; `[defaults]` holds for all of them. Paths are relative to the file. What
stands in a table is read as if it had been given on the command line.
"""

from __future__ import annotations

import difflib
import stat
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from conceptctl.cli.learn_run import taught
from conceptctl.cli.learn_stores import store_to_learn_in, store_to_plan_with
from conceptctl.cli.learn_text import duration, fall, learned_payload, plan_payload
from conceptctl.cli.output import Output
from conceptctl.errors import ConceptctlError, NotFound, UsageError
from conceptctl.store.store import Store
from conceptctl.wording import count

if TYPE_CHECKING:
    from conceptctl.workflows.learn.batch import Entry, Judged
    from conceptctl.workflows.learn.request import Watch

OF_THE_COMMAND = {"batch", "dry_run", "full", "wait", "store", "json", "quiet", "help"}
"""Options that are no concept's."""
_PATHS = {"folder", "log_to", "preset", "feature_extractor"}

MakeEntry = Callable[[Mapping[str, Any]], "Entry"]


def learn_batch(
    context: typer.Context, path: Path, make: MakeEntry, out: Output, *, store: Path | None, wait: bool, dry_run: bool
) -> None:
    """Learn what a file says, or show what would be learned.

    Args:
        context: The command line of `learn`, which says what options there are.
        path: The file.
        make: Makes an entry of the parameters of one `learn`.
        out: Where it is said.
        store: The option.
        wait: The option.
        dry_run: Whether nothing is to be changed.
    """
    from conceptctl.workflows.learn.request import Watch

    entries = [make(parameters) for parameters in read_batch(context, path)]
    if dry_run:
        with store_to_plan_with(store, entries, out) as opened:
            _show_plan(out, _judged(opened, entries, out, Watch(warn=out.warn)))
        return
    opened = store_to_learn_in(store, entries, out)
    # What is warned of is said when it is its turn.
    _run(opened, _judged(opened, entries, out, Watch()), out, wait=wait)


def read_batch(context: typer.Context, path: Path) -> list[dict[str, Any]]:
    """Read a file, and return the parameters of each `learn` that it stands for.

    Raises:
        NotFound: There is no such file.
        UsageError: It is no TOML, or says something that cannot be meant.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"{path}: not a regular file", hint="--batch takes a TOML file with [[concept]] tables")
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"there is no file {path}", hint="--batch takes a TOML file with [[concept]] tables") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not UTF-8 text", hint="save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: not a TOML file: {error}", hint="[[concept]] tables of key = value") from None
    if unknown := next((key for key in content if key not in ("concept", "defaults")), None):
        raise UsageError(f"{path}: nothing is called {unknown!r}", hint="[[concept]] for each concept, and [defaults]")
    concepts, defaults = content.get("concept", []), content.get("defaults", {})
    is_right = isinstance(concepts, list) and all(isinstance(each, dict) for each in (*concepts, defaults))
    if not is_right or not concepts:
        raise UsageError(f"{path}: it has no concepts", hint="a table [[concept]] with folder and token for each")
    return [
        _parameters(
            context, f"{path}: concept {index} ({each.get('token', 'no token')})", {**defaults, **each}, path.parent
        )
        for index, each in enumerate(concepts, start=1)
    ]


def _parameters(context: typer.Context, what: str, entry: Mapping[str, Any], beside: Path) -> dict[str, Any]:
    """What `learn` makes of one table."""
    known = _known(context)
    for key in entry:
        if key not in known:
            near = difflib.get_close_matches(key, known)
            hint = f"did you mean {', '.join(near)}?" if near else "; ".join(sorted(known))
            raise UsageError(f"{what}: nothing is called {key!r}", hint=hint)
    if missing := next((key for key in ("folder", "token") if key not in entry), None):
        raise UsageError(f"{what} has no {missing}", hint="every [[concept]] has a folder and a token")
    arguments: list[str] = []
    for key, value in entry.items():
        arguments += _arguments(what, known[key], key, value, beside)
    try:
        return dict(context.command.make_context("learn", arguments).params)
    except typer.TyperException as error:
        raise UsageError(f"{what}: {error.format_message()}") from None


def _known(context: typer.Context) -> dict[str, Any]:
    """The parameters of `learn` by what they are called in a file."""
    found: dict[str, Any] = {}
    for parameter in context.command.params:
        names = [option[2:].replace("-", "_") for option in parameter.opts if option.startswith("--")]
        found |= dict.fromkeys(names or [str(parameter.name)], parameter)
    return {name: parameter for name, parameter in found.items() if name not in OF_THE_COMMAND}


def _arguments(what: str, parameter: Any, key: str, value: Any, beside: Path) -> list[str]:
    """One key of a table as it would stand on the command line."""
    is_flag = bool(getattr(parameter, "is_flag", False))
    if is_flag != isinstance(value, bool):
        raise UsageError(f"{what}: {key} is {'true or false' if is_flag else 'no switch'}, not {value!r}")
    option = f"--{key.replace('_', '-')}"
    if is_flag:
        return [option] if value else []
    if key == "set" and isinstance(value, dict):
        value = [f"{name}={each}" for name, each in value.items()]
    is_list = isinstance(value, list)
    if is_list and not getattr(parameter, "multiple", False):
        raise UsageError(f"{what}: {key} is one value, not a list")
    values = value if is_list else [value]
    if odd := [each for each in values if not isinstance(each, str | int | float) or isinstance(each, bool)]:
        raise UsageError(f"{what}: {key} cannot be {odd[0]!r}")
    texts = [_placed(key, str(each), beside) for each in values]
    # Joined, so that a value which begins with a dash is none of the options.
    return texts if key == "folder" else [f"{option}={text}" for text in texts]


def _placed(key: str, text: str, beside: Path) -> str:
    """A path relative to the file; a name of something else stays what it is."""
    if key not in _PATHS:
        return text
    place = beside / Path(text).expanduser()
    return str(place) if key in ("folder", "log_to") or place.exists() else text


def _judged(store: Store, entries: Sequence[Entry], out: Output, watch: Watch) -> list[Judged]:
    from conceptctl.workflows.learn.batch import judge

    try:
        return judge(store, entries, watch)
    except ConceptctlError as error:
        out.say("nothing was learned: all concepts of a file are judged before the first")
        raise error


def _show_plan(out: Output, judged: Sequence[Judged]) -> None:
    rows, payload = [], []
    for each in judged:
        request, plan = each.entry.request, each.plan
        steps = str(plan.config["steps"]) if plan else ""
        rows.append((request.name, "would be learned" if plan else "is learned", request.class_word, steps))
        payload.append({"name": request.name, "learned": plan is None, **(plan_payload(plan) if plan else {})})
    out.table({"concepts": payload}, ("concept", "what", "class", "steps"), rows)


def _run(store: Store, judged: Sequence[Judged], out: Output, *, wait: bool) -> None:
    """Learn one after the other, and sum up."""
    rows: list[tuple[str, ...]] = []
    payload: list[dict[str, Any]] = []
    waiting = [each.entry.request.name for each in judged if each.plan]
    for each in judged:
        request = each.entry.request
        if each.plan is None:
            rows.append((request.name, "was learned before", "", "", ""))
            payload.append({"done": "before", "concept": {"name": request.name, "token": f"V*{request.name}"}})
            continue
        out.say(f"V*{request.name}: {len(rows) + 1} of {len(judged)}")
        try:
            made = taught(store, each.entry, out, wait=wait)
        except ConceptctlError as error:
            raise type(error)(f"{error} ({_state(rows, waiting)})", hint=error.hint) from error
        except KeyboardInterrupt:
            out.say(_state(rows, waiting))
            raise
        waiting.remove(request.name)
        if made is None:
            # Another process of this run commits, and says so.
            continue
        learned, head, samples = made
        rows.append(
            (request.name, "replaced" if learned.replaced else "learned", str(learned.record.photos),
             duration(learned.seconds), fall(learned.record.loss_curve))
        )  # fmt: skip
        payload.append(
            {"done": "now", **learned_payload(learned, head.seq, folded=each.entry.fold), "samples": samples}
        )
    now = [each for each in payload if each["done"] == "now"]
    out.table(
        {"generation": store.head().seq, "concepts": payload}, ("concept", "what", "pictures", "time", "loss"), rows
    )
    out.say(f"{count(len(now), 'concept')} learned, {len(payload) - len(now)} learned before")


def _state(rows: Sequence[Sequence[str]], waiting: Sequence[str]) -> str:
    """What of a batch is done, and what is not."""
    done = ", ".join(row[0] for row in rows) or "nothing"
    return f"learned: {done}; not yet: {', '.join(waiting)}; the same command goes on there"
