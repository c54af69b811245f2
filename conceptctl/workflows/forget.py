"""`forget`: the store without a concept, either undoable, or purged for good."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from conceptctl.errors import Busy, ImportRefused, NotFound, StoreDamaged, UsageError
from conceptctl.store import folded, jobs, purge
from conceptctl.store.concept import read_record
from conceptctl.store.manifest import Action, Concept, Generation
from conceptctl.store.store import Store, unknown_concept


@dataclass(frozen=True)
class ForgetPlan:
    """What a forget would change.

    Attributes:
        head: The generation it was planned on.
        concepts: What goes: the concept of that name; for a purge, all that ever had it, and what only history has
            and was learned by going on from one of them.
        rebuild: Whether the stored weights are made again from the base and the other deltas.
        rewritten: How many generations of history are written anew; 0 unless it is a purge.
        removed_bytes: Bytes of the concept that are removed for good; 0 unless it is a purge.
        interrupted: How many of its trainings were interrupted and wait to go on; for a purge, also those of other
            concepts that were learning on top of it. A purge removes them. Where they are all there is, nothing was
            ever committed, and no history is rewritten.
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


def plan_forget(store: Store, name: str, *, purge_it: bool = False) -> ForgetPlan:
    """Find out what goes.

    Raises:
        NotFound: There is no concept of that name; for a purge, there never was, nor is one half learned.
        UsageError: Other concepts go on from it, and mean nothing without it.
    """
    head = store.head()
    current = head.concept(name)
    if purge_it:
        history = purge.history(store.layout)
        found = purge.ever_called(history, name)
        found |= {each.uid: each for each in _going_on(store, _ever(history), found) if each not in head.concepts}
    else:
        history = []
        found = {current.uid: current} if current else {}
    waiting = sum(jobs.tells_of(job, name, found if purge_it else ()) for job in jobs.found(store.layout))
    if not found and waiting and not purge_it:
        raise NotFound(
            f"there is no concept {name!r}, only a training that was interrupted",
            hint=f"conceptctl forget {name} --purge",
        )
    if not found and not waiting:
        raise unknown_concept(name, head)
    if going_on := [each.name for each in _going_on(store, head.concepts, found) if each.uid not in found]:
        names = ", ".join(going_on)
        raise UsageError(
            f"{name!r} cannot be forgotten: what was learned of {names} goes on from it, in one adapter with it",
            hint=f"forget those first, the last one first: conceptctl forget {going_on[-1]}",
        )
    rebuild = any(concept.folded for concept in head.concepts if concept.uid in found)
    size = sum(concept.blob.size for concept in found.values()) if purge_it else 0
    rewritten = len(history) if found else 0
    return ForgetPlan(head, name, tuple(found.values()), rebuild, rewritten, size, waiting, purge_it)


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


def forget(store: Store, plan: ForgetPlan, *, wait: bool = False) -> Generation:
    """Carry out a plan.

    Raises:
        Busy: Somebody else changes the store, or has since the plan was made, or reads blobs that a purge removes.
        StoreDamaged: What the weights are rebuilt from is damaged.
    """
    uids = frozenset(concept.uid for concept in plan.concepts)
    with store.writing("purge" if plan.is_purge else "forget", wait=wait) as writer:
        if writer.head.identity != plan.head.identity:
            raise Busy("the store has changed since the plan was made")
        if plan.is_purge and not plan.concepts:
            # A kill between the concept's file and its commit left a file, and perhaps a manifest, with all of it.
            purge.finish(store.layout)
            jobs.remove_for(store.layout, plan.name)
            return writer.head
        left = {
            "concepts": tuple(concept for concept in writer.head.concepts if concept.uid not in uids),
            "attachments": tuple(each for each in writer.head.attachments if each.concept not in uids),
        }
        if not plan.is_purge:
            without = writer.head.after(Action("forget", (plan.name,)), **left)
            weights = folded.build(store.layout, without) if plan.rebuild else writer.head.folded
            return writer.commit(writer.head.after(Action("forget", (plan.name,)), **left, folded=weights))
        chain = purge.without(purge.history(store.layout), plan.name, uids)
        tombstone = Action("purge", (f"purged-{chain[-1].purges}",))
        last = chain[-1].after(tombstone, **left)
        weights = folded.build(store.layout, last) if plan.rebuild else writer.head.folded
        last = chain[-1].after(tombstone, **left, folded=weights)
        jobs.remove_for(store.layout, plan.name, uids)
        purge.replace_history(store.layout, [*chain, last])
        purge.finish(store.layout)
        return last
