"""Purge: history as if a concept had never had a name or a weight.

The rest of the program only ever adds. A purge writes a second chain of manifests without the concept, makes it
the history in one transaction, and then removes what the first chain alone held. The transaction also leaves a
mark, so that a killed purge is finished by the next writer.
"""

import dataclasses
import os
from collections.abc import Collection, Iterable

from conceptctl.errors import StoreDamaged
from conceptctl.store import durable, index, locks, manifest
from conceptctl.store.index import LOST, row_of
from conceptctl.store.layout import Layout
from conceptctl.store.manifest import Action, Concept, Generation, decode


def history(layout: Layout) -> list[Generation]:
    """Read every generation that is not lost, oldest first.

    Raises:
        StoreDamaged: One is not as it was committed.
    """
    rows = [row for row in index.rows(layout.index) if row.verb != LOST]
    try:
        return [decode(layout.manifest(row.seq, row.id).read_bytes(), row.id) for row in rows]
    except FileNotFoundError as error:
        raise StoreDamaged(f"a manifest is missing: {error.filename}") from None


def called(generations: Iterable[Generation], name: str) -> dict[str, Concept]:
    """Return every concept whose last name is this one, by uid: those that were renamed since are somebody else's."""
    last = {concept.uid: concept for past in generations for concept in past.concepts}
    return {uid: concept for uid, concept in last.items() if concept.name == name}


def names_of(generations: Iterable[Generation], uids: Collection[str]) -> set[str]:
    """Return every name that some concepts ever had."""
    return {concept.name for past in generations for concept in past.concepts if concept.uid in uids}


def without(generations: list[Generation], name: str, uids: frozenset[str]) -> list[Generation]:
    """Return history without some concepts, as a chain of its own.

    Where a name stood, a number stands: that of the purge, and every one that its concepts had before they were
    renamed, except where it is that of another concept. Weights that had the concepts folded in or consolidated are
    forgotten too; undoing to before a purge is refused, so nobody asks for them.
    """
    tombstone = f"purged-{generations[-1].purges + 1}"
    names = {name, *names_of(generations, called(generations, name))}
    chain: list[Generation] = []
    before: dict[str, str] = {}
    for past in generations:
        tainted = any(concept.uid in uids and concept.folded for concept in past.concepts)
        mixed = any(concept.uid in uids and concept.consolidated for concept in past.concepts)
        left = [each for each in past.concepts if each.uid not in uids]
        if mixed:
            left = [dataclasses.replace(each, consolidated=False) for each in left]
        here = {each.name: each.uid for each in past.concepts}
        theirs = {each for each, uid in (before | here).items() if uid not in uids}
        chain.append(
            dataclasses.replace(
                past,
                parent=chain[-1].identity if chain else "",
                purges=past.purges + 1,
                action=Action(
                    past.action.verb,
                    tuple(tombstone if each in names - theirs else each for each in past.action.names),
                ),
                concepts=tuple(left),
                folded=None if tainted else past.folded,
                consolidated=None if mixed else past.consolidated,
                attachments=tuple(each for each in past.attachments if each.concept not in uids),
            )
        )
        before = here
    return chain


def replace_history(layout: Layout, chain: list[Generation]) -> None:
    """Make a chain the history. When this returns, the old one is unreachable, though not yet removed."""
    for generation in chain:
        path = layout.manifest(generation.seq, generation.identity)
        scratch = durable.scratch_path(layout.tmp)
        durable.write_file(scratch, [generation.encoded], 0o400)
        os.rename(scratch, path)  # noqa: PTH104 - as in `durable`; the folder is synced once, after all of them
    durable.sync_folder(layout.generations)
    lost = [row for row in index.rows(layout.index) if row.verb == LOST]
    index.rewrite(layout.index, sorted([*lost, *map(row_of, chain)], key=lambda row: row.seq), chain[-1])


def finish(layout: Layout) -> None:
    """Remove everything that history does not name, without a trace and without trash.

    Raises:
        Busy: Somebody is reading blobs; the next writer finishes.
    """
    with locks.blobs_may_go(layout):
        _remove_unnamed(layout)
    index.purge_finished(layout.index)
    index.seal(layout)


def _remove_unnamed(layout: Layout) -> None:
    generations = history(layout)
    kept = {ref.sha256 for past in manifest.kept(generations) for ref in past.blobs()}
    head = generations[-1]
    if head.folded:
        kept.add(head.folded.sha256)
    manifests = {layout.manifest(past.seq, past.identity).name for past in generations}
    for path in layout.generations.iterdir():
        if path.name not in manifests:
            durable.remove_file(path)
    for path in layout.blobs.glob("*/*"):
        if path.name not in kept:
            durable.remove_file(path)
    for folder in (layout.tmp, layout.trash, layout.damaged):
        durable.empty_folder(folder)
    for folder in (layout.generations, layout.trash, layout.damaged, *layout.blobs.iterdir()):
        durable.sync_folder(folder)
