"""`undo`: a new generation that equals an earlier one."""

from dataclasses import dataclass

from conceptctl.errors import Busy, NotFound
from conceptctl.store.index import LogRow
from conceptctl.store.manifest import Action, Generation
from conceptctl.store.store import Store


@dataclass(frozen=True)
class UndoPlan:
    """What an undo would change.

    Attributes:
        head: The generation it was planned on.
        target: The generation to go back to.
        returning: Concepts that come back.
        leaving: Concepts that are not there any more; they stay in history.
        folded_changes: Whether the stored weights become others.
    """

    head: Generation
    target: Generation
    returning: tuple[str, ...]
    leaving: tuple[str, ...]
    folded_changes: bool


def plan_undo(store: Store, steps: int = 1, to: int | None = None) -> UndoPlan:
    """Find the generation to go back to.

    An undo does not count as a step itself, so undoing twice goes back two steps; `to` names any generation, also
    one that was undone.

    Raises:
        NotFound: History does not go there, or only to before a purge.
    """
    history = store.log()
    target = _steps_back(history, steps) if to is None else to
    if not 0 <= target < len(history):
        raise NotFound(f"there is no generation {target} to go back to", hint="conceptctl log")
    head, goal = store.head(), store.drawable(target)
    now, then = ({concept.name for concept in each.concepts} for each in (head, goal))
    return UndoPlan(head, goal, tuple(sorted(then - now)), tuple(sorted(now - then)), head.folded != goal.folded)


def _steps_back(history: list[LogRow], steps: int) -> int:
    position = history[-1].restores
    for taken in range(steps):
        if position == 0:
            raise NotFound(f"history goes back {taken} steps only", hint="conceptctl log")
        position = history[position - 1].restores
    return position


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
                attachments=goal.attachments,
            )
        )
