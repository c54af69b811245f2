"""One concept is learned, and it is shown how that goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from conceptctl.cli.learn_display import Display
from conceptctl.cli.output import Output
from conceptctl.errors import ConceptctlError
from conceptctl.store.store import Store

if TYPE_CHECKING:
    from conceptctl.store.manifest import Generation
    from conceptctl.workflows.learn.batch import Entry
    from conceptctl.workflows.learn.run import LearnedConcept


def taught(
    store: Store, entry: Entry, out: Output, *, wait: bool
) -> tuple[LearnedConcept, Generation, list[str]] | None:
    """Learn one concept, and fold it where that is asked for.

    Returns:
        What was learned, the head, and the samples that were written; None where another process of this run commits.
    """
    from conceptctl.workflows.learn.run import learn as learn_concept

    with out.progress() as shown:
        display = Display(out, shown)
        learned = learn_concept(store, entry.request, device=entry.device, wait=wait, watch=display.watch())
    if learned is None:
        return None
    head = folded(store, f"V*{entry.request.name}", out, wait=wait) if entry.fold else learned.generation
    return learned, head, [str(path) for path in display.samples]


def folded(store: Store, what: str, out: Output, *, wait: bool) -> Generation:
    """Fold what was learned, and say that it was learned where it cannot be folded."""
    from conceptctl.workflows.fold import fold

    try:
        return fold(store, wait=wait).head
    except ConceptctlError as error:
        # The same command would find the concept taken.
        raise type(error)(f"learned {what}, but not folded: {error}", hint="conceptctl fold") from error
    except KeyboardInterrupt:
        out.say(f"learned {what}, but not folded; to fold it: conceptctl fold")
        raise
