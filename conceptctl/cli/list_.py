"""`conceptctl list`: the concepts, or the tasks and their classes."""

from conceptctl.cli.options import JsonOption, QuietOption, StoreOption, epilog
from conceptctl.cli.output import Output
from conceptctl.cli.stores import listed, minute, next_text, open_store, size_text
from conceptctl.errors import ImportRefused, StoreDamaged
from conceptctl.store import blobs
from conceptctl.store.concept import read_record
from conceptctl.store.manifest import Concept
from conceptctl.store.store import Store

EPILOG = epilog("conceptctl list", "conceptctl list --json", codes=(4, 5))


def list_concepts(store: StoreOption = None, json: JsonOption = False, quiet: QuietOption = False) -> None:
    """List the concepts, oldest first, and where their weights are; where classes are told apart, the tasks.

    A concept has a delta of its own until it is folded into the stored weights, or consolidated with others by a
    forget or a compaction. One whose file is missing or has another size is marked as DAMAGED.
    """
    output = Output(json, quiet)
    opened = open_store(store)
    head = opened.head()
    of_classes = head.base.is_classifier
    classes = {each.uid: _classes(opened, each) for each in head.concepts} if of_classes else {}
    concepts = [
        {
            "name": each.name,
            **({"classes": classes[each.uid]} if of_classes else {"class": each.class_word}),
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
            listed(classes[each.uid]) if of_classes else each.class_word,
            each.method,
            minute(each.learned),
            _place(each),
            "DAMAGED" if entry["damaged"] else size_text(each.blob.size),
        )
        for each, entry in zip(head.concepts, concepts, strict=True)
    ]
    payload = {"generation": head.seq, "concepts": concepts}
    columns = ("task", "classes") if of_classes else ("name", "class")
    output.table(payload, (*columns, "method", "learned", "weights", "size"), rows)
    if not rows:
        output.say(next_text(head))


def _classes(store: Store, concept: Concept) -> list[str]:
    """The classes of a task; none where its file is damaged."""
    try:
        return list(read_record(store.blob(concept)).classes)
    except (StoreDamaged, ImportRefused):
        return []


def _place(concept: Concept) -> str:
    if concept.consolidated:
        return "consolidated"
    return "folded" if concept.folded else "own delta"
