"""`undo`: a new generation that has the concepts and the weights of an earlier one."""

from collections.abc import Sequence
from dataclasses import dataclass

from conceptctl.errors import Busy, NotFound
from conceptctl.store.index import LogRow
from conceptctl.store.manifest import Action, Attachment, Generation
from conceptctl.store.store import Store
from conceptctl.wording import count
from conceptctl.workflows.evaluate.history import KIND


@dataclass(frozen=True)
class UndoPlan:
    """What an undo would change.

    Attributes:
        head: The generation it was planned on.
        target: The generation to go back to.
        undone: What is undone, newest first; empty where a generation was named.
        passed: Evaluations between, that changed neither concepts nor weights, newest first.
        returning: Concepts that come back.
        leaving: Concepts that are not there any more; they stay in history.
        renamed: Concepts that have the name again that they had, each with both names.
        folded_changes: Whether the stored weights become others.
        attachments: What the new generation keeps besides its concepts.
        evaluations_lost: How many evaluations it has no more: those of concepts that go.
    """

    head: Generation
    target: Generation
    undone: tuple[LogRow, ...]
    passed: tuple[LogRow, ...]
    returning: tuple[str, ...]
    leaving: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...]
    folded_changes: bool
    attachments: tuple[Attachment, ...]
    evaluations_lost: int

    @property
    def is_nothing(self) -> bool:
        """Whether the store is that already."""
        return _state(self.target) == _state(self.head) and set(self.attachments) == set(self.head.attachments)


def plan_undo(store: Store, steps: int = 1, to: int | None = None) -> UndoPlan:
    """Find the generation to go back to: the one before the last change of concepts or weights.

    Evaluations change neither and are passed over; they stay wherever their concepts do. An undo does not count as a
    step itself, so undoing twice goes back two steps; `to` names any generation, also one that was undone. Where
    nothing but evaluations lies between, these are what it takes back.

    Raises:
        NotFound: History does not go there, or only to before a purge.
    """
    history = store.log()
    undone, passed, target = _steps_back(history, steps) if to is None else ([], [], to)
    if not 0 <= target < len(history):
        raise NotFound(f"there is no generation {target} to go back to", hint="conceptctl log")
    head, goal = store.head(), store.drawable(target)
    now, then = ({concept.uid: concept.name for concept in each.concepts} for each in (head, goal))
    kept = goal.attachments if to is not None and _state(head) == _state(goal) else _kept(head, goal)
    return UndoPlan(
        head,
        goal,
        tuple(undone),
        tuple(passed),
        tuple(sorted(then[uid] for uid in then.keys() - now.keys())),
        tuple(sorted(now[uid] for uid in now.keys() - then.keys())),
        tuple((now[uid], then[uid]) for uid in then if uid in now and now[uid] != then[uid]),
        head.folded != goal.folded,
        kept,
        sum(each.kind == KIND for each in set(head.attachments) - set(kept)),
    )


def _state(generation: Generation) -> tuple[object, ...]:
    """All that an evaluation does not change."""
    return generation.concepts, generation.folded, generation.consolidated


def _kept(head: Generation, goal: Generation) -> tuple[Attachment, ...]:
    """What a generation had, and the head's evaluations of the concepts that it had."""
    uids = {concept.uid for concept in goal.concepts}
    ours = [
        each for each in head.attachments if each.kind == KIND and each.concept in uids and each not in goal.attachments
    ]
    return (*goal.attachments, *ours)


def _steps_back(history: Sequence[LogRow], steps: int) -> tuple[list[LogRow], list[LogRow], int]:
    """Find what so many steps undo, the evaluations that they pass over, and the generation that they end at."""
    undone: list[LogRow] = []
    passed: list[LogRow] = []
    position = history[-1].restores
    while len(undone) < steps:
        if position == 0:
            raise NotFound(f"history goes back {count(len(undone), 'step')} only", hint="conceptctl log")
        (passed if history[position].verb == "eval" else undone).append(history[position])
        position = history[position - 1].restores
    return undone, passed, position


def undo(store: Store, plan: UndoPlan, *, wait: bool = False) -> Generation:
    """Carry out a plan.

    Raises:
        Busy: Somebody else changes the store, or has since the plan was made.
        StoreDamaged: What the earlier generation needs is damaged.
    """
    goal = plan.target
    with store.writing("undo", wait=wait) as writer:
        if writer.head.identity != plan.head.identity:
            raise Busy("the store has changed since the plan was made")
        return writer.commit(
            writer.head.after(
                Action("undo"),
                restores=goal.restores,
                concepts=goal.concepts,
                folded=goal.folded,
                consolidated=goal.consolidated,
                attachments=plan.attachments,
            )
        )
