"""Making a damaged store usable again: quarantine what is wrong, rebuild the index, delete nothing."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from conceptctl.errors import ConceptctlError, NotFound, StoreDamaged
from conceptctl.store import blobs, durable, folded, index, locks, verify
from conceptctl.store.index import LOST, LogRow
from conceptctl.store.layout import FORMAT_NUMBER, Layout
from conceptctl.store.manifest import Generation, decode


def repair(layout: Layout, *, dry_run: bool = False) -> list[str]:
    """Repair a store and return what was done, one line a step; nothing to do gives none.

    Raises:
        Busy: Another process is changing or reading the store.
        StoreTooNew: A newer program wrote it.
        StoreDamaged: No manifest is left, so nothing is known.
        NotFound: There is no store.
    """
    if not layout.locks.is_dir():
        layout.check_format()
    with locks.writer(layout, verb="repair"), locks.blobs_may_go(layout):
        done: list[str] = []

        def step(what: str, action: Callable[[], object]) -> None:
            done.append(what)
            if not dry_run:
                action()

        _repair_format(layout, step)
        chain = _repair_manifests(layout, step)
        _say_format(layout, max((each.least_format for each in chain if isinstance(each, Generation)), default=1), step)
        _repair_index(layout, chain, step)
        _repair_blobs(layout, [each for each in chain if isinstance(each, Generation)], step)
        return done


Step = Callable[[str, Callable[[], object]], None]


def _repair_format(layout: Layout, step: Step) -> None:
    try:
        layout.check_format()
    except NotFound:
        raise
    except StoreDamaged as error:
        if type(error) is not StoreDamaged:
            raise
        text = b"%d\n" % FORMAT_NUMBER
        step("write FORMAT again", lambda: durable.replace_file(layout.format, text, layout.tmp))


def _say_format(layout: Layout, least: int, step: Step) -> None:
    """Let the number be that of stores with such generations, where a flip has made an earlier one of it."""
    if 0 < layout.format_number() < least:
        text = b"%d\n" % least
        step("write FORMAT again: generations need it", lambda: durable.replace_file(layout.format, text, layout.tmp))


def _quarantine(layout: Layout, path: Path) -> None:
    durable.move(path, layout.damaged / f"{path.name}-{durable.scratch_path(layout.damaged).name}")


def _repair_manifests(layout: Layout, step: Step) -> list[Generation | LogRow]:
    """Return the history that the manifests tell, with a row for each that is lost."""
    whole: dict[str, Generation] = {}
    for path in sorted(layout.generations.iterdir()):
        try:
            generation = decode(path.read_bytes(), path.stem.partition("-")[2])
            whole[generation.identity] = generation
        except StoreDamaged:
            step(f"move gens/{path.name} to damaged/", partial(_quarantine, layout, path))
    kept_twice = _head_of_index(layout)
    if kept_twice and kept_twice.identity not in whole:
        whole[kept_twice.identity] = kept_twice
        target = layout.manifest(kept_twice.seq, kept_twice.identity)
        step(
            f"write gens/{target.name} again from the index",
            lambda: durable.replace_file(target, kept_twice.encoded, layout.tmp, blobs.READ_ONLY),
        )
    if not whole:
        raise StoreDamaged("no manifest is left: only a backup helps", hint="put back gens/ from a backup")
    # A purge writes a chain of its own beside the old one; the one with more purges is the later.
    sealed = index.read_seal(layout)
    later = [each for each in whole.values() if kept_twice is None or (sealed and each.identity == sealed.head)]
    tip = max([*later, *([kept_twice] if kept_twice else [])], key=lambda each: (each.purges, each.seq))
    return _chain(layout, whole, tip)


def _head_of_index(layout: Layout) -> Generation | None:
    try:
        anchor = index.anchor(layout.index)
        return decode(anchor.manifest, anchor.head)
    except ConceptctlError:
        return None


def _chain(layout: Layout, whole: dict[str, Generation], tip: Generation) -> list[Generation | LogRow]:
    chain: list[Generation | LogRow] = [tip]
    identity, seq = tip.parent, tip.seq - 1
    remembered = _remembered(layout)
    while seq >= 0:
        generation = whole.get(identity)
        if generation is None:
            # Its child knows its name; what came before it, only the old index or its number can tell.
            chain.append(LogRow(seq, identity, "", LOST, "", 0, seq))
            earlier = remembered.get(seq - 1) or next(
                (each.identity for each in whole.values() if each.seq == seq - 1 and each.purges == tip.purges), ""
            )
            identity = earlier
        else:
            chain.append(generation)
            identity = generation.parent
        seq -= 1
    return chain[::-1]


def _remembered(layout: Layout) -> dict[int, str]:
    try:
        return {row.seq: row.id for row in index.rows(layout.index)}
    except ConceptctlError:
        return {}


def _repair_index(layout: Layout, chain: list[Generation | LogRow], step: Step) -> None:
    rows = [each if isinstance(each, LogRow) else index.row_of(each) for each in chain]
    head = chain[-1]
    assert isinstance(head, Generation)
    if _index_is_right(layout, rows, head):
        return

    def rebuild() -> None:
        fresh = durable.scratch_path(layout.tmp)
        index.create(fresh, rows, head, purging=_purge_unfinished(layout, head))
        # The journal goes first: beside a new index, an old journal would be played back into it.
        for name in ("index.db-journal", "index.sum", "index.db"):
            if (layout.root / name).exists():
                _quarantine(layout, layout.root / name)
        durable.move(fresh, layout.index)
        index.seal(layout)

    step("rebuild index.db from gens/", rebuild)


def _purge_unfinished(layout: Layout, head: Generation) -> bool:
    """Return whether manifests of a history before the head's last purge are still there."""
    return any(
        decode(path.read_bytes(), path.stem.partition("-")[2]).purges < head.purges
        for path in layout.generations.iterdir()
    )


def _index_is_right(layout: Layout, rows: list[LogRow], head: Generation) -> bool:
    try:
        anchor = index.anchor(layout.index)
        return (
            index.rows(layout.index) == rows
            and (anchor.head, anchor.count, anchor.manifest) == (head.identity, head.seq + 1, head.encoded)
            and index.integrity(layout.index) == ""
            and index.check_seal(layout) == ""
        )
    except ConceptctlError:
        return False


def _repair_blobs(layout: Layout, generations: list[Generation], step: Step) -> None:
    for ref, what in verify.wanted(generations).items():
        path = layout.blob(ref.sha256)
        if path.exists() and blobs.problem(layout, ref, read=True):
            step(f"move {what}, blob {ref.sha256[:12]}, to damaged/", partial(_quarantine, layout, path))
    head = generations[-1]
    if head.folded and head.folded == head.consolidated and blobs.problem(layout, head.folded, read=True):
        step(
            "the consolidated weights cannot be made again: conceptctl undo --to a generation before the forget that "
            "left them, or a backup",
            lambda: None,
        )
    elif head.folded and blobs.problem(layout, head.folded, read=True):
        try:
            step("make the folded weights again", lambda: folded.ensure(layout, head))
        except StoreDamaged as error:
            # What they are made from is damaged too: the concept is named, and the others go on.
            step(f"the folded weights cannot be made again: {error}", lambda: None)
