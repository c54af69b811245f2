"""What the records of a store's concepts say of what a run takes, and of what one need not do again."""

from __future__ import annotations

from conceptctl.errors import ConceptctlError
from conceptctl.store.concept import Record, read_record
from conceptctl.store.manifest import Concept, Generation
from conceptctl.store.store import Store


def earlier_records(store: Store, head: Generation) -> list[tuple[Concept, Record]]:
    """The concepts of a generation with their records, the newest first; none that is damaged."""
    found = []
    for concept in reversed(head.concepts):
        try:
            record = read_record(store.blob(concept))
        except ConceptctlError:
            continue
        # What came from elsewhere was measured elsewhere.
        if record.base == head.base.sha256:
            found.append((concept, record))
    return found
