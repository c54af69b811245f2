"""`export --to concept` and `import`: one concept as one file, from a store to another on the same base."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from conceptctl import families
from conceptctl.errors import AlreadyExists, ImportRefused, NotFound, StoreDamaged
from conceptctl.store import base, concept, durable, gate, tensorfile
from conceptctl.store.concept import Record
from conceptctl.store.layout import Layout
from conceptctl.store.manifest import Action, Attachment, BlobRef, Concept, Generation
from conceptctl.store.store import Store, Writer, unknown_concept


@dataclass(frozen=True)
class Exported:
    """One file that was written."""

    name: str
    path: Path
    size: int


def export_concepts(store: Store, names: tuple[str, ...], output: Path) -> list[Exported]:
    """Write concepts as files, each as it is in the store, byte for byte.

    Args:
        store: The store.
        names: Which concepts; none means all.
        output: A file for one name; a folder for several, or when it is one already.

    Raises:
        NotFound: There is no such concept.
        AlreadyExists: A file is there already; nothing is overwritten.
        StoreDamaged: A concept's bytes are not the ones that were committed.
    """
    with store.reading() as head:
        chosen = [_of(head, name) for name in names] or list(head.concepts)
        if not chosen:
            raise NotFound("the store has no concepts")
        into_folder = len(names) != 1 or output.is_dir()
        targets = [output / f"{each.name}.safetensors" if into_folder else output for each in chosen]
        if taken := [target for target in targets if target.exists()]:
            raise AlreadyExists(f"{taken[0]} is there already")
        if into_folder:
            output.mkdir(parents=True, exist_ok=True)
        return [_export(store, each, target) for each, target in zip(chosen, targets, strict=True)]


def _of(head: Generation, name: str) -> Concept:
    found = head.concept(name)
    if found is None:
        raise unknown_concept(name, head)
    return found


def _export(store: Store, chosen: Concept, target: Path) -> Exported:
    source = store.blob(chosen)
    if not target.parent.is_dir():
        raise NotFound(f"no folder {target.parent}")
    durable.ensure_space(target.parent, chosen.blob.size)
    scratch = target.parent / f".{target.name}-{durable.scratch_path(target.parent).name}"
    try:
        with source.open("rb") as stream:
            sha256, _ = durable.write_file(scratch, iter(lambda: stream.read(durable.CHUNK), b""), 0o644)
        if sha256 != chosen.blob.sha256:
            raise StoreDamaged(f"concept {chosen.name}: its bytes are not the ones that were committed")
        # Unlike a rename, a link never replaces a file that appeared meanwhile.
        os.link(scratch, target)
        durable.sync_folder(target.parent)
    except FileExistsError:
        raise AlreadyExists(f"{target} is there already") from None
    finally:
        durable.remove_file(scratch)
    return Exported(chosen.name, target, chosen.blob.size)


def import_concept(store: Store, path: Path, rename: str | None = None, *, wait: bool = False) -> Generation:
    """Add a concept from a file, as one generation, not folded.

    Raises:
        ImportRefused: The file breaks a rule of the gate, is for another base, or goes on from concepts that are not
            there.
        AlreadyExists: A concept or a token has that name, or the concept is in the store under another.
        UsageError: The new name cannot be one.
    """
    head = store.head()
    found = base.tensors(store.layout, head.base)
    shapes = {place: info for place, (_, _, info) in found.items()}
    family = families.facts_of(head.base)
    width = base.token_width(found, family)

    def checked(file: Path) -> Record:
        return gate.check_concept_file(file, head.base.sha256, shapes, family, width)

    offered = checked(path)
    record = dataclasses.replace(offered, name=rename or offered.name)
    with store.writing("import", wait=wait) as writer:
        check_free(writer, record)
        _check_complete(writer, record)
        ref = writer.add_file(path)
        # The file may have been replaced since it was looked at, so the copy in the store is looked at as well.
        if checked(store.layout.blob(ref.sha256)) != offered:
            raise ImportRefused(f"{path.name}: it changed while it was read")
        if record != offered:
            tensors, _ = tensorfile.read_tensors(store.layout.blob(ref.sha256))
            ref = writer.add_tensors(tensors, record.metadata())
        return add_concept(writer, "import", record, ref)


def add_concept(
    writer: Writer, verb: str, record: Record, ref: BlobRef, *, attachments: tuple[Attachment, ...] | None = None
) -> Generation:
    """Commit a concept whose file is in the store, as one generation, not folded.

    Args:
        writer: The right to change the store.
        verb: What made it.
        record: Where it comes from.
        ref: Its file.
        attachments: What the generation keeps besides; by default what the head keeps.

    Raises:
        AlreadyExists: Its name, its token or itself is there already.
        UsageError: Its name cannot be one.
    """
    check_free(writer, record)
    if record.contains:
        # A program that knows no such record would undo what it guards.
        writer.raise_format()
    added = Concept(record.uid, record.name, record.class_word, record.method, record.learned, False, ref)
    kept = writer.head.attachments if attachments is None else attachments
    following = writer.head.after(
        Action(verb, (record.name,)), concepts=(*writer.head.concepts, added), attachments=kept
    )
    return writer.commit(following)


def check_free(writer: Writer, record: Record) -> None:
    """Make sure that a concept can be added.

    Raises:
        AlreadyExists: Its name, its token or itself is there already.
        UsageError: Its name cannot be one.
    """
    check_name_free(record.name, writer.head, writer.layout)
    if twin := next((each for each in writer.head.concepts if each.uid == record.uid), None):
        raise AlreadyExists(f"this concept is in the store already, as {twin.name!r}")


def _check_complete(writer: Writer, record: Record) -> None:
    """Make sure that a concept has what it goes on from.

    Raises:
        ImportRefused: It has not.
    """
    there = {each.uid for each in writer.head.concepts}
    if missing := [uid for uid in record.contains if uid not in there]:
        raise ImportRefused(
            f"{record.name!r} goes on from others in one adapter ({record.method}), and means nothing without them; "
            f"not in this store: {', '.join(missing)}",
            hint="import those first, in the order in which they were learned",
        )


def check_name_free(name: str, head: Generation, layout: Layout) -> None:
    """Make sure that a concept can have a name.

    Raises:
        AlreadyExists: A concept has it, or the base has its token.
        UsageError: It cannot be a name.
    """
    concept.check_name(name)
    if head.concept(name):
        raise AlreadyExists(f"a concept {name!r} is there already", hint=f"another name, or: conceptctl forget {name}")
    if f"v*{name}" in base.token_words(layout, head.base):
        raise AlreadyExists(f"V*{name} is a token of the base already", hint="take another name")
