"""`conceptctl show`: where a concept came from."""

import dataclasses
from typing import Annotated, Any

import typer

from conceptctl.cli import completion
from conceptctl.cli.options import JsonOption, QuietOption, StoreOption, epilog
from conceptctl.cli.output import Output
from conceptctl.cli.stores import open_store, size_text
from conceptctl.store.concept import read_record
from conceptctl.store.index import LogRow
from conceptctl.workflows.evaluate.history import as_dict, read_all, summary

EPILOG = epilog("conceptctl show alice", codes=(4, 5))


def show(
    name: Annotated[str, typer.Argument(help="A concept.", metavar="NAME", autocompletion=completion.concepts)],
    store: StoreOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show what a concept is and how it was learned, and how it fared in every `eval` so far."""
    out = Output(json, quiet)
    opened = open_store(store)
    entry = opened.concept(name)
    facts: dict[str, Any] = dataclasses.asdict(read_record(opened.blob(entry)))
    found = [kept for _, kept in read_all(opened.layout, opened.head(), entry.uid, warn=out.warn)]
    # Of files only: in a store both follow from history.
    facts = {key: value for key, value in facts.items() if key not in ("stands_on", "start")}
    facts |= {
        "name": name,
        "token": f"V*{name}",
        "folded": entry.folded,
        "consolidated": entry.consolidated,
        "bytes": entry.blob.size,
        "blob": entry.blob.sha256,
        "generation": _first_seen(opened.log(), name),
        "evaluations": [{"generation": kept.generation, "time": kept.time, **as_dict(kept)} for kept in found],
    }
    evaluations = [(f"at generation {kept.generation}", summary(kept, found[-1])) for kept in found]
    rows = [
        (key.replace("_", " "), _text(key, value))
        for key, value in facts.items()
        if key != "evaluations" and value not in ("", (), {})
    ]
    out.table(facts, ("fact", "value"), [*rows, *evaluations])


def _first_seen(history: list[LogRow], name: str) -> int:
    """Return the generation in which the concept that has a name now was added, by whatever name."""
    from conceptctl.workflows.concept_log import added_in

    return added_in(history, name)


def _text(key: str, value: Any) -> str:
    if key == "bytes":
        return size_text(value)
    if key == "loss_curve":
        return f"{value[0]:.4g} -> {value[-1]:.4g} in {len(value)} points"
    if isinstance(value, dict):
        return ", ".join(f"{name}={item}" for name, item in value.items())
    return str(value)
