"""A concept that is learned anew, in the place of the one of its name.

The old one leaves as `forget` lets it leave: the others keep what they draw. The new one is learned on what is left,
and both happen in one generation, which is committed when it is learned. Until then, and whatever fails, the old one is
there; afterwards one `undo` brings it back.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from conceptctl.errors import UsageError
from conceptctl.learning.launch import processes
from conceptctl.store.manifest import Generation
from conceptctl.store.store import Store, Writer, unknown_concept
from conceptctl.workflows.adding import check_name_free
from conceptctl.workflows.forget import check_alone, plan_forget, remaining
from conceptctl.workflows.learn.request import Request

if TYPE_CHECKING:
    from conceptctl.workflows.learn.prepared import Prepared


def check_name(request: Request, head: Generation, store: Store) -> None:
    """Make sure that the concept's name is free, or that the concept of that name can leave.

    Raises:
        AlreadyExists: The name is taken, and it was not said that its concept is to be replaced.
        NotFound: There is nothing to replace.
        UsageError: Others go on from the concept that would leave; or several processes are at work.
    """
    if not request.replace:
        check_name_free(request.name, head, store.layout)
        return
    old = head.concept(request.name)
    if old is None:
        raise unknown_concept(request.name, head)
    if processes() > 1:
        raise UsageError(
            "--replace is for one process", hint=f"conceptctl forget {request.name}, then learn without --replace"
        )
    check_alone(store, head, request.name, {old.uid})


def without_the_old_one(prepared: Prepared, writer: Writer) -> Prepared:
    """Go on from the head without the concept that is replaced, of which nothing is committed yet."""
    watch, name = prepared.watch, prepared.request.name
    told = 0

    def progress(done: int, total: int) -> None:
        nonlocal told
        if not told:
            watch.stage("reading prompts", total)
        watch.advance(done - told)
        told = done

    plan = plan_forget(prepared.store, name, progress=progress)
    for each in plan.damaged:
        if each != name:
            watch.warn(f"{each}: its file is damaged, and what it draws, or others because of it, is not kept")
    left = remaining(writer, writer.head, plan, {each.uid for each in plan.concepts})
    return dataclasses.replace(prepared, head=left)
