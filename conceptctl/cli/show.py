"""`conceptctl show`: where a concept came from."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from conceptctl.cli.evaluations import evaluations_of
from conceptctl.cli.learn_text import ended_text, moved_text
from conceptctl.cli.options import ConceptArgument, JsonOption, QuietOption, StoreOption, epilog
from conceptctl.cli.output import Output
from conceptctl.cli.stores import open_store, size_text
from conceptctl.presets import preset_of, shipped
from conceptctl.store.concept import Record, read_record
from conceptctl.store.index import LogRow
from conceptctl.store.manifest import Base, Concept
from conceptctl.wording import count
from conceptctl.workflows.adding import names_of

EPILOG = epilog("conceptctl show alice", "conceptctl show alice --full", codes=(4, 5))


def show(
    name: ConceptArgument,
    full: Annotated[bool, typer.Option("--full", help="Also every setting, digests and what was measured.")] = False,
    store: StoreOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show what a concept is and how it was learned, and how it fared in every `eval` so far."""
    out = Output(json, quiet)
    opened = open_store(store)
    entry = opened.concept(name)
    record = read_record(opened.blob(entry))
    head = opened.head()
    facts: dict[str, Any] = dataclasses.asdict(record)
    found = evaluations_of(opened, head, entry.uid, out.warn)
    # Of files only: in a store both follow from history. Only tasks have classes, and only concepts a token.
    unsaid = {"stands_on", "start", *(() if record.classes else ("classes",))}
    facts = {key: value for key, value in facts.items() if key not in unsaid}
    facts |= {
        "contains": names_of(opened, record.contains),
        "name": name,
        **({} if record.classes else {"token": f"V*{name}"}),
        "folded": entry.folded,
        "consolidated": entry.consolidated,
        "bytes": entry.blob.size,
        "blob": entry.blob.sha256,
        "generation": _first_seen(opened.log(), name),
        "evaluations": [{"generation": kept.generation, "time": kept.time, **kept.figures} for kept in found],
    }
    rows = _most_of_it(entry, record, head.base, facts)
    rows += [(f"at generation {kept.generation}", kept.text) for kept in found]
    if full:
        rows += _the_rest(record, facts)
    out.table(facts, ("fact", "value"), rows)
    if not full:
        out.say("every setting and digest: --full")


def _first_seen(history: list[LogRow], name: str) -> int:
    """Return the generation in which the concept that has a name now was added, by whatever name."""
    from conceptctl.workflows.concept_log import added_in

    return added_in(history, name)


def _most_of_it(entry: Concept, record: Record, base: Base, facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What matters of a concept, in words."""
    state = "consolidated with others" if entry.consolidated else "folded" if entry.folded else "not folded yet"
    curve = record.loss_curve
    foreign = {"lora": "a LoRA of another program", "embedding": "an embedding of another program"}.get(
        str(record.settings.get("imported_from"))
    )
    said = {
        "token": facts.get("token", ""),
        "task": entry.name if record.classes else "",
        "classes": ", ".join(record.classes),
        "class": entry.class_word,
        "learned": f"{date_text(record.learned)}, generation {facts['generation']}",
        "from": foreign or count(record.photos, "picture"),
        "with": "" if foreign else f"{record.method}, {record.steps} steps, seed {record.seed}",
        "ended": ended_text(record),
        "preset": _preset(record, base),
        "moved": moved_text(record),
        "loss": f"{curve[0]:.4g} -> {curve[-1]:.4g}" if curve else "",
        "goes on from": ", ".join(facts["contains"]),
        "size": f"{size_text(entry.blob.size)}, {state}",
        "license": record.license,
        "consent": record.consent,
    }
    return [(key, value) for key, value in said.items() if value]


def _preset(record: Record, base: Base) -> str:
    """The preset's name, and what was set otherwise."""
    name, settings = record.settings.get("preset"), record.settings
    if not isinstance(name, str):
        return ""
    changed = settings.get("differs")
    if not isinstance(changed, list):
        # Earlier versions did not say; a preset knows only what it sets itself.
        preset = shipped().get(name, preset_of(base))
        usual = preset.settings(record.method)
        known = {"steps": record.steps, **settings}
        changed = [key for key, value in usual.items() if known.get(key, value) != value]
    said = {"steps": settings.get("max_train_steps", record.steps), **settings}
    pairs = [f"{key}={said.get(key)}" for key in changed]
    return name + (f", but {', '.join(pairs)}" if pairs else "")


def _the_rest(record: Record, facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What else is known: digests, and every setting by its name."""
    digests = [(key, str(facts[key])) for key in ("uid", "blob", "base", "program", "after")]
    settings = [(key, _text(key, value)) for key, value in sorted(record.settings.items())]
    curve = ", ".join(f"{value:.4g}" for value in record.loss_curve)
    return [*digests, *settings, ("loss curve", curve)]


def _text(key: str, value: Any) -> str:
    if key == "peak_memory" and isinstance(value, int):
        return size_text(value)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def date_text(time: str) -> str:
    """Return a time of the store for people: `2026-11-28 21:34 UTC`; what is none, as it is."""
    day, letter, rest = time.partition("T")
    return f"{day} {rest[:5]} UTC" if letter and rest.endswith("Z") else time
