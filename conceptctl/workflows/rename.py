"""`rename`: another name for a concept, and nothing else about it."""

import dataclasses
from dataclasses import dataclass

from conceptctl.errors import UsageError
from conceptctl.store import jobs
from conceptctl.store.manifest import Action, Generation
from conceptctl.store.store import Store, unknown_concept
from conceptctl.workflows.adding import check_name_free


@dataclass(frozen=True)
class Renamed:
    """What a rename did.

    Attributes:
        head: The generation after it.
        in_the_way: Whether a training of the new name waits to go on, which it cannot any more.
    """

    head: Generation
    in_the_way: bool


def rename(store: Store, old: str, new: str, *, wait: bool = False) -> Renamed:
    """Give a concept another name, as one generation.

    Its file stays what it is, so that weights made from it keep their digests: what a concept is called, its
    generation says, and what leaves the store says it too.

    Raises:
        NotFound: There is no concept of the old name.
        UsageError: The new name cannot be one, or is the old one.
        AlreadyExists: A concept has the new name, or the base has its token.
        Busy: Somebody else changes the store.
    """
    if old == new:
        raise UsageError(f"{old!r} is its name already", hint=f"conceptctl rename {old} ANOTHER")
    with store.writing("rename", wait=wait) as writer:
        head = writer.head
        found = head.concept(old)
        if found is None:
            raise unknown_concept(old, head)
        check_name_free(new, head, writer.layout)
        concepts = tuple(dataclasses.replace(each, name=new) if each == found else each for each in head.concepts)
        waiting = any(job.settings.get("name") == new for job in jobs.found(store.layout))
        return Renamed(writer.commit(head.after(Action("rename", (old, new)), concepts=concepts)), waiting)
