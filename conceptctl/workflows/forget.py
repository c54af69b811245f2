"""`forget`: the store without a concept, either undoable, or purged for good."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from conceptctl import families
from conceptctl.errors import Busy, ImportRefused, NotFound, StoreDamaged, UsageError
from conceptctl.progress import Progress, ignore
from conceptctl.store import blobs, folded, jobs, purge
from conceptctl.store.concept import read_record
from conceptctl.store.manifest import Action, Concept, Generation
from conceptctl.store.store import Store, Writer, unknown_concept

if TYPE_CHECKING:
    from conceptctl.workflows.consolidation import Solved


@dataclass(frozen=True)
class ForgetPlan:
    """What a forget would change.

    Attributes:
        head: The generation it was planned on.
        concepts: What goes: the concept of that name; for a purge, all that had it last, and what only history has
            and was learned by going on from one of them.
        rebuild: Whether the stored weights become others.
        rewritten: How many generations of history are written anew; 0 unless it is a purge.
        removed_bytes: Bytes of the concept that are removed for good; 0 unless it is a purge.
        interrupted: How many of its trainings were interrupted and wait to go on; for a purge, also those of other
            concepts that were learning on top of it. A purge removes them. Where they are all there is, nothing was
            ever committed, and no history is rewritten.
        solved: The weights that the others go on with, and what becomes of each; None where the weights need no
            change, since nothing goes that the others were learned on top of.
    """

    head: Generation
    name: str
    concepts: tuple[Concept, ...]
    rebuild: bool
    rewritten: int
    removed_bytes: int
    interrupted: int
    is_purge: bool
    """Whether it can not be undone."""
    solved: Solved | None = None
    damaged: tuple[str, ...] = ()
    """Concepts whose files are damaged: an undo would need them."""
    names: tuple[str, ...] = ()
    """What it is, or was, called; for a purge, also before it was renamed."""


def hold_others(store: Store, head: Generation, uids: Collection[str], progress: Progress) -> Solved:
    """Find weights without some concepts, with which the others draw what they drew."""
    from conceptctl.workflows.consolidation import Consolidation

    return Consolidation(store, head, progress=progress).without(uids)


def plan_forget(store: Store, name: str, *, purge_it: bool = False, progress: Progress = ignore) -> ForgetPlan:
    """Find out what goes, and what becomes of the others.

    Args:
        store: The store.
        name: A concept.
        purge_it: For good.
        progress: Told how many of the concepts' prompts are encoded.

    Raises:
        NotFound: There is no concept of that name; for a purge, there never was, nor is one half learned.
        UsageError: Other concepts go on from it, and mean nothing without it.
        StoreDamaged: What the others' weights are found from is damaged.
    """
    head = store.head()
    current = head.concept(name)
    if purge_it:
        history = purge.history(store.layout)
        found = _to_purge(history, name)
        found |= {each.uid: each for each in _going_on(store, _ever(history), found) if each not in head.concepts}
    else:
        history = []
        found = {current.uid: current} if current else {}
    known_as = _names(history, name, head, found)
    waiting = sum(_tells_of(job, known_as, found if purge_it else ()) for job in jobs.found(store.layout))
    if not found and waiting and not purge_it:
        raise NotFound(
            f"there is no concept {name!r}, only a training that was interrupted",
            hint=f"conceptctl forget {name} --purge",
        )
    if not found and not waiting:
        raise unknown_concept(name, head)
    check_alone(store, head, name, found)
    rebuild = any(concept.folded for concept in head.concepts if concept.uid in found)
    size = sum(concept.blob.size for concept in found.values()) if purge_it else 0
    rewritten = len(history) if found else 0
    solved = None
    if _changes_weights(store, head, found) and any(each.uid not in found for each in head.concepts):
        if not families.family_of(head.base).CLOSED_FORM:
            check_newest(head, name, found)
        else:
            with store.reading():
                solved = hold_others(store, head, frozenset(found), progress)
    return ForgetPlan(
        head,
        name,
        tuple(found.values()),
        rebuild,
        rewritten,
        size,
        waiting,
        purge_it,
        solved,
        _damaged(store, head),
        known_as,
    )


def check_alone(store: Store, head: Generation, name: str, uids: Collection[str]) -> None:
    """Make sure that no concept goes on from some that leave.

    Raises:
        UsageError: One does, and would mean nothing without them.
    """
    if going_on := [each.name for each in _going_on(store, head.concepts, uids) if each.uid not in uids]:
        names = ", ".join(going_on)
        raise UsageError(
            f"{name!r} cannot be forgotten: what was learned of {names} goes on from it, in one adapter with it",
            hint=f"forget those first, the last one first: conceptctl forget {going_on[-1]}",
        )


def check_newest(head: Generation, name: str, uids: Collection[str]) -> None:
    """Make sure that the others were learned before what leaves: without it they are what they were then.

    Raises:
        UsageError: One was not, and what it would draw without it cannot be computed on this base.
    """
    places = [place for place, each in enumerate(head.concepts) if each.uid in uids]
    later = [each.name for each in head.concepts[min(places) :] if each.uid not in uids]
    if later:
        families.check_closed_form(
            head.base,
            f"{name!r} cannot be forgotten before what was learned on top of it: {', '.join(later)}",
            f"forget those first, the last one first: conceptctl forget {later[-1]}",
        )
    if any(head.concepts[place].consolidated for place in places):
        families.check_closed_form(
            head.base,
            f"{name!r} cannot be forgotten: a compaction put one increment in the place of its own and others'",
            "make another store: conceptctl init --store DIR",
        )


def _damaged(store: Store, head: Generation) -> tuple[str, ...]:
    """The concepts of a generation whose files are not what was committed."""
    return tuple(each.name for each in head.concepts if blobs.problem(store.layout, each.blob, read=True))


def _changes_weights(store: Store, head: Generation, uids: Collection[str]) -> bool:
    """Whether a generation's weights become others without some concepts: a token alone is in none.

    Nor are they held to anything where the delta is damaged and not folded: nothing draws with it any more.
    """
    from conceptctl.store import tensorfile, weights

    def has_delta(concept: Concept) -> bool:
        try:
            return bool(weights.places(tensorfile.read_header(store.blob(concept, read=True))))
        except (StoreDamaged, ImportRefused):
            return concept.folded

    return any(each.consolidated or has_delta(each) for each in head.concepts if each.uid in uids)


def _ever(history: Iterable[Generation]) -> list[Concept]:
    """Every concept that history has had."""
    return list({concept.uid: concept for past in history for concept in past.concepts}.values())


def _going_on(store: Store, concepts: Iterable[Concept], uids: Collection[str]) -> list[Concept]:
    """Those of some concepts whose deltas contain one of others; what is damaged cannot say."""
    found = []
    for each in concepts:
        try:
            contains = read_record(store.blob(each)).contains
        except (StoreDamaged, ImportRefused):
            continue
        if not set(contains).isdisjoint(uids):
            found.append(each)
    return found


def _to_purge(history: Sequence[Generation], name: str) -> dict[str, Concept]:
    """Every concept that a purge of a name means.

    Raises:
        NotFound: All that had it have another name since.
    """
    found = purge.called(history, name)
    earlier = [each for past in history for each in past.concepts if each.name == name]
    if not found and earlier:
        now = [each.name for past in history for each in past.concepts if each.uid == earlier[-1].uid][-1]
        raise NotFound(f"{name!r} is called {now!r} since it was renamed", hint=f"conceptctl forget {now} --purge")
    return found


def _names(history: Sequence[Generation], name: str, head: Generation, uids: Collection[str]) -> tuple[str, ...]:
    """The names under which a purge looks for interrupted trainings: all that a concept had and no other has now."""
    theirs = {each.name for each in head.concepts if each.uid not in uids}
    return (name, *sorted(purge.names_of(history, purge.called(history, name)) - theirs - {name}))


def _tells_of(job: jobs.Job, names: Iterable[str], uids: Collection[str]) -> bool:
    return any(jobs.tells_of(job, each, uids) for each in names)


def forget(store: Store, plan: ForgetPlan, *, wait: bool = False) -> Generation:
    """Carry out a plan.

    Raises:
        Busy: Somebody else changes the store, or has since the plan was made, or reads blobs that a purge removes.
        StoreDamaged: What the weights are made from is damaged.
    """
    uids = frozenset(concept.uid for concept in plan.concepts)
    with store.writing("purge" if plan.is_purge else "forget", wait=wait) as writer:
        if writer.head.identity != plan.head.identity:
            raise Busy("the store has changed since the plan was made", hint="run the same command again")
        if plan.is_purge and not plan.concepts:
            # A kill between the concept's file and its commit left a file, and perhaps a manifest, with all of it.
            purge.finish(store.layout)
            _remove_jobs(store, plan, ())
            return writer.head
        if not plan.is_purge:
            return writer.commit(_without(writer, writer.head, Action("forget", (plan.name,)), plan, uids))
        chain = purge.without(purge.history(store.layout), plan.name, uids)
        last = _without(writer, chain[-1], Action("purge", (f"purged-{chain[-1].purges}",)), plan, uids)
        writer.say_format(last)
        _remove_jobs(store, plan, uids)
        purge.replace_history(store.layout, [*chain, last])
        purge.finish(store.layout)
        return last


def _remove_jobs(store: Store, plan: ForgetPlan, uids: Collection[str]) -> None:
    for name in plan.names:
        jobs.remove_for(store.layout, name, uids)


def _without(writer: Writer, before: Generation, action: Action, plan: ForgetPlan, uids: Collection[str]) -> Generation:
    """The generation after a forget; `before` is the head, or what a purge makes of it."""
    left = remaining(writer, before, plan, uids)
    parts = ("concepts", "attachments", "consolidated", "folded")
    return before.after(action, **{part: getattr(left, part) for part in parts})


def remaining(writer: Writer, before: Generation, plan: ForgetPlan, uids: Collection[str]) -> Generation:
    """A generation without some concepts, not committed; its weights are in the store.

    Args:
        writer: The right to change the store.
        before: What the generation is otherwise.
        plan: With the weights.
        uids: What goes.
    """
    left = dataclasses.replace(
        before,
        concepts=tuple(concept for concept in writer.head.concepts if concept.uid not in uids),
        attachments=tuple(each for each in writer.head.attachments if each.concept not in uids),
        consolidated=writer.head.consolidated,
        folded=writer.head.folded,
    )
    if plan.solved is not None:
        left = folded.consolidate(writer.layout, left, plan.solved.weights, plan.solved.tokens)
    elif not left.concepts:
        left = dataclasses.replace(left, consolidated=None, folded=None)
    elif plan.rebuild:
        # Only its token goes, which stands in the stored weights as well.
        left = dataclasses.replace(left, folded=folded.build(writer.layout, left))
    return left
