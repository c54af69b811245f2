"""`conceptctl stats`: what is in the store, and what takes how much space."""

from collections.abc import Mapping

from conceptctl.cli.options import JsonOption, QuietOption, StoreOption, epilog
from conceptctl.cli.output import Output
from conceptctl.cli.stores import minute, open_store, size_text
from conceptctl.wording import count

EPILOG = epilog("conceptctl stats", "conceptctl stats --json", codes=(4, 5))


def stats(store: StoreOption = None, json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Count what is in the store, and what takes how much space."""
    from conceptctl.workflows.statistics import statistics

    found = statistics(open_store(store))
    head = found.head
    payload = {
        "generation": head.seq,
        "made": found.first,
        "changed": head.time,
        "concepts": len(head.concepts),
        "concepts_ever": found.concepts_ever,
        "unfolded": found.unfolded,
        "classes": dict(found.classes),
        "methods": dict(found.methods),
        "actions": dict(found.actions),
        "evaluations": found.evaluations,
        "interrupted": found.interrupted,
        "bytes": dict(found.sizes),
        "features_bytes": found.features,
        "gc_frees": None if found.gc is None else sum(found.gc),
    }
    rows = [
        (
            f"{head.base.noun}s",
            f"{len(head.concepts)} now, {found.concepts_ever} ever, {found.unfolded} not folded yet",
        ),
        ("classes", "" if head.base.is_classifier else _each(found.classes)),
        ("methods", _each(found.methods)),
        ("generations", f"{head.seq + 1}: {_each(found.actions)}"),
        ("evaluations", str(found.evaluations)),
        ("made", minute(found.first)),
        ("changed", minute(head.time)),
        ("interrupted", count(found.interrupted, "training") if found.interrupted else ""),
        *((f"size of {what}", size_text(size)) for what, size in found.sizes.items()),
        ("size in all", size_text(sum(found.sizes.values()))),
        ("features", f"{size_text(found.features)} of the concepts' files" if found.features else ""),
        ("gc would free", _freed(found.gc, found.trouble)),
    ]
    Output(json, quiet).table(payload, ("what", "value"), [row for row in rows if row[1]])


def _each(counted: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {what or 'without a class'}" for what, number in counted.items())


def _freed(gc: tuple[int, int] | None, trouble: str) -> str:
    if gc is None:
        return f"not known: {trouble}"
    now, later = map(size_text, gc)
    return f"{now} now" + (f", and {later} with the gc after it" if gc[1] else "")
