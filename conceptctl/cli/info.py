"""`conceptctl info`: the store as a whole."""

import shutil

from conceptctl.cli.options import JsonOption, QuietOption, StoreOption, epilog
from conceptctl.cli.output import Output
from conceptctl.cli.stores import next_text, open_store, size_text
from conceptctl.families import facts_of
from conceptctl.store import jobs
from conceptctl.store.manifest import Generation
from conceptctl.workflows.statistics import size_of

EPILOG = epilog("conceptctl info", codes=(4, 5))


def info(store: StoreOption = None, json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Show where the store is, its base and the space that is left."""
    layout = (opened := open_store(store)).layout
    head = opened.head()
    family = facts_of(head.base).name
    base_bytes = sum(ref.size for ref in (*head.base.files.values(), head.base.texts))
    sizes = {
        "base": base_bytes,
        "other blobs": size_of(layout.blobs) - base_bytes,
        "history": size_of(layout.generations) + layout.index.stat().st_size,
        "jobs": size_of(layout.jobs),
        "trash": size_of(layout.trash),
        "damaged": size_of(layout.damaged),
    }
    waiting = sorted(
        {str(job.settings.get("name", "")) for job in jobs.found(layout)} - {each.name for each in head.concepts}
    )
    free = shutil.disk_usage(layout.root).free
    payload = {
        "store": str(layout.root),
        "generation": head.seq,
        "id": head.identity,
        "concepts": len(head.concepts),
        "folded": sum(concept.folded for concept in head.concepts),
        "base": {"name": head.base.name, "sha256": head.base.sha256, "family": family},
        "bytes": sizes,
        "free": free,
        "interrupted": waiting,
    }
    rows = [
        ("store", str(layout.root)),
        ("generation", f"{head.seq} ({head.identity[:12]})"),
        (f"{head.base.noun}s", f"{payload['concepts']}, {payload['folded']} folded"),
        ("base", f"{head.base.name}, family {family} ({head.base.sha256})"),
        ("", "a store has one base; for another: conceptctl init --base ... --store DIR"),
        *((name, size_text(size)) for name, size in sizes.items()),
        ("free", size_text(free)),
        *(
            (
                "interrupted",
                f"{name}: begun and not finished; the same learn command goes on, {_gives_up(head, name)} removes it",
            )
            for name in waiting
        ),
    ]
    output = Output(json, quiet)
    output.table(payload, ("what", "value"), rows)
    if not head.concepts:
        output.say(next_text(head))


def _gives_up(head: Generation, name: str) -> str:
    """What takes an interrupted run away."""
    return "learning another task" if head.base.is_classifier else f"forget {name} --purge"
