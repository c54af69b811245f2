"""`conceptctl list`: the concepts."""

from conceptctl.cli.options import JsonOption, QuietOption, StoreOption, epilog
from conceptctl.cli.output import Output
from conceptctl.cli.stores import NEXT, minute, open_store, size_text
from conceptctl.store import blobs
from conceptctl.store.manifest import Concept

EPILOG = epilog("conceptctl list", "conceptctl list --json", codes=(4, 5))


def list_concepts(store: StoreOption = None, json: JsonOption = False, quiet: QuietOption = False) -> None:
    """List the concepts, oldest first, and where their weights are.

    A concept has a delta of its own until it is folded into the stored weights, or consolidated with others by a
    forget or a compaction. One whose file is missing or has another size is marked as DAMAGED.
    """
    output = Output(json, quiet)
    opened = open_store(store)
    head = opened.head()
    concepts = [
        {
            "name": each.name,
            "class": each.class_word,
            "method": each.method,
            "learned": each.learned,
            "folded": each.folded,
            "consolidated": each.consolidated,
            "bytes": each.blob.size,
            "damaged": bool(blobs.problem(opened.layout, each.blob)),
        }
        for each in head.concepts
    ]
    rows = [
        (
            each.name,
            each.class_word,
            each.method,
            minute(each.learned),
            _place(each),
            "DAMAGED" if entry["damaged"] else size_text(each.blob.size),
        )
        for each, entry in zip(head.concepts, concepts, strict=True)
    ]
    payload = {"generation": head.seq, "concepts": concepts}
    output.table(payload, ("name", "class", "method", "learned", "weights", "size"), rows)
    if not rows:
        output.say(NEXT)


def _place(concept: Concept) -> str:
    if concept.consolidated:
        return "consolidated"
    return "folded" if concept.folded else "own delta"
