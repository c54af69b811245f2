"""`conceptctl list`: the concepts."""

from conceptctl.cli.options import JsonOption, QuietOption, StoreOption, epilog
from conceptctl.cli.output import Output
from conceptctl.cli.stores import open_store, size_text
from conceptctl.store import blobs

EPILOG = epilog("conceptctl list", "conceptctl list --json", codes=(4, 5))


def list_concepts(store: StoreOption = None, json: JsonOption = False, quiet: QuietOption = False) -> None:
    """List the concepts, oldest first. One whose file is missing or has another size is marked as damaged."""
    opened = open_store(store)
    head = opened.head()
    concepts = [
        {
            "name": each.name,
            "class": each.class_word,
            "method": each.method,
            "learned": each.learned,
            "folded": each.folded,
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
            each.learned,
            "yes" if each.folded else "no",
            "DAMAGED" if entry["damaged"] else size_text(each.blob.size),
        )
        for each, entry in zip(head.concepts, concepts, strict=True)
    ]
    payload = {"generation": head.seq, "concepts": concepts}
    Output(json, quiet).table(payload, ("name", "class", "method", "learned", "folded", "size"), rows)
