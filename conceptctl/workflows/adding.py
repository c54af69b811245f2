"""What every way of adding a concept to a store shares."""

from collections.abc import Sequence

from conceptctl.errors import AlreadyExists
from conceptctl.store import base, concept, purge, tensorfile
from conceptctl.store.concept import Record
from conceptctl.store.layout import Layout
from conceptctl.store.manifest import Action, Attachment, BlobRef, Concept, Generation
from conceptctl.store.store import Store, Writer


def add_concept(
    writer: Writer,
    verb: str,
    record: Record,
    ref: BlobRef,
    *,
    attachments: tuple[Attachment, ...] | None = None,
    onto: Generation | None = None,
) -> Generation:
    """Commit a concept whose file is in the store, as one generation, not folded.

    Args:
        writer: The right to change the store.
        verb: What made it.
        record: Where it comes from.
        ref: Its file.
        attachments: What the generation keeps besides; by default what the head keeps.
        onto: What it is added to, where that is not the head: the head without a concept whose place it takes.

    Raises:
        AlreadyExists: Its name, its token or itself is there already.
        UsageError: Its name cannot be one.
    """
    before = onto or writer.head
    check_free(before, record, writer.layout)
    if record.contains:
        # A program that knows no such record would undo what it guards.
        writer.raise_format(2)
    from conceptctl.store import weights

    factored = weights.is_factored(tensorfile.read_header(writer.layout.blob(ref.sha256)))
    added = Concept(
        record.uid, record.name, record.class_word, record.method, record.learned, False, ref, factored=factored
    )
    following = writer.head.after(
        Action(verb, (record.name,)),
        concepts=(*before.concepts, added),
        attachments=before.attachments if attachments is None else attachments,
        consolidated=before.consolidated,
        folded=before.folded,
    )
    return writer.commit(following)


def check_free(head: Generation, record: Record, layout: Layout) -> None:
    """Make sure that a concept can be added to a generation.

    Raises:
        AlreadyExists: Its name, its token or itself is there already.
        UsageError: Its name cannot be one.
    """
    check_name_free(record.name, head, layout)
    if twin := next((each for each in head.concepts if each.uid == record.uid), None):
        raise AlreadyExists(f"this concept is in the store already, as {twin.name!r}")


def check_name_free(name: str, head: Generation, layout: Layout) -> None:
    """Make sure that a concept can have a name.

    Raises:
        AlreadyExists: A concept has it, or the base has its token.
        UsageError: It cannot be a name.
    """
    noun = head.base.noun
    concept.check_name(name, noun)
    if head.concept(name):
        hint = f"another name (import: --as NAME); to learn it anew: learn with --replace; conceptctl forget {name}"
        if head.base.is_classifier:
            hint = "another name (learn: --token NAME); or conceptctl undo"
        raise AlreadyExists(f"a {noun} {name!r} is there already", hint=hint)
    if f"v*{name}" in base.token_words(layout, head.base):
        raise AlreadyExists(f"V*{name} is a token of the base already", hint="take another name")


def names_of(store: Store, uids: Sequence[str]) -> tuple[str, ...]:
    """The names that history knows concepts by; else their uids."""
    if not uids:
        return ()
    names = {each.uid: each.name for past in purge.history(store.layout) for each in past.concepts}
    return tuple(names.get(uid, uid) for uid in uids)
