"""`export --to diffusers`: the base with its concepts folded in, as a folder that any diffusers program loads."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from conceptctl import families
from conceptctl.errors import AlreadyExists, NotFound, StoreDamaged, UsageError
from conceptctl.formats import model_card
from conceptctl.presets import preset_of
from conceptctl.progress import Progress, ignore
from conceptctl.store import base, blobs, durable, folded, tensorfile, weights
from conceptctl.store.concept import Record, read_record
from conceptctl.store.layout import Layout
from conceptctl.store.manifest import BlobRef, Concept, Generation, canonical
from conceptctl.store.store import Store, unknown_concept
from conceptctl.store.tensorfile import LazyTensor, Tensor, TensorInfo

FILE_MODE, FOLDER_MODE = 0o666, 0o777
"""What leaves a store is the user's to protect: the umask decides."""

SLACK = 1 << 20
"""Bytes for headers, configurations and the card, beyond the numbers."""

Pieces = Iterable[bytes | memoryview]


@dataclass(frozen=True)
class Checkpoint:
    """A folder that was written.

    Attributes:
        folder: Where.
        generation: What the concepts were taken from.
        concepts: Their names, in the order of learning.
        size: Bytes of all files.
    """

    folder: Path
    generation: int
    concepts: tuple[str, ...]
    size: int


def export_diffusers(
    store: Store,
    names: tuple[str, ...],
    target: Path,
    generation: Generation,
    *,
    sums: Mapping[str, weights.Array] | None = None,
    progress: Progress = ignore,
) -> Checkpoint:
    """Write a checkpoint with concepts folded in: all of a generation's, folded in the store or not, or only some.

    The weights are what `generate` draws with, bit for bit: fp32 where something was learned, as in the base
    everywhere else. The folder appears when everything in it is on the disk.

    Args:
        store: The store; it is only read, and the caller holds its blobs in place.
        names: Which concepts; none means all.
        target: A folder that is not there, or is empty.
        generation: Whose concepts.
        sums: The weights with the concepts that are named, by parameter path; by default all of the generation's, or
            the sum of the deltas of those that are named as they were learned.
        progress: Called while files are written.

    Raises:
        NotFound: There is no such concept, or no folder to put the new one in.
        UsageError: Deltas as they were learned mean nothing without those that are not chosen, or are not kept.
        AlreadyExists: Something is there already; nothing is overwritten.
        NoSpace: It does not fit.
        StoreDamaged: The base or a concept is not as it was committed.
    """
    target = target.absolute()
    concepts = _chosen(generation, names)
    check_vacant(target)
    folder = _Plan(store.layout, generation, concepts, sums)
    durable.ensure_space(target.parent, folder.size)
    scratch = target.parent / f".{target.name[:40]}-{durable.scratch_path(target.parent).name}"
    try:
        size = _write(scratch, folder, progress)
        _put_in_place(scratch, target)
    finally:
        if scratch.exists():
            durable.remove_tree(scratch)
    return Checkpoint(target, generation.seq, tuple(each.name for each in concepts), size)


def _chosen(generation: Generation, names: tuple[str, ...]) -> tuple[Concept, ...]:
    for name in names:
        if generation.concept(name) is None:
            raise unknown_concept(name, generation)
    return tuple(each for each in generation.concepts if not names or each.name in names)


def _check_raw(concepts: Sequence[Concept], records: Sequence[Record]) -> None:
    """Refuse to add up deltas that are not kept, or that are something else without those that they go on from."""
    if mixed := [each.name for each in concepts if each.consolidated]:
        raise UsageError(
            f"{mixed[0]!r}: a forget or a compaction put one increment in the place of its own delta and others'",
            hint="without --raw",
        )
    there = {record.uid for record in records}
    for record in records:
        if not there.issuperset(record.contains):
            raise UsageError(
                f"{record.name!r} goes on from earlier concepts in one adapter ({record.method}), and means nothing "
                "without them",
                hint="without --raw, or all concepts: leave the names out",
            )


def check_vacant(target: Path) -> None:
    """Make sure that a folder can be written.

    Raises:
        AlreadyExists: Something is there.
        NotFound: There is no folder to put it in.
    """
    if target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir()))):
        raise AlreadyExists(f"{target} is there already", hint="--output takes a new folder")
    if not target.parent.is_dir():
        raise NotFound(f"no folder {target.parent}")


def _put_in_place(scratch: Path, target: Path) -> None:
    try:
        # A folder takes the place of nothing or of an empty folder, and of nothing else: the kernel sees to that.
        durable.move(scratch, target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise AlreadyExists(f"{target} is there already") from None
        raise


def _write(scratch: Path, folder: _Plan, progress: Progress) -> int:
    """Write every file and make it durable; return how many bytes there are."""
    written = 0
    durable.make_folder(scratch, FOLDER_MODE)

    def counted(pieces: Pieces) -> Iterator[bytes | memoryview]:
        nonlocal written
        for piece in pieces:
            view = memoryview(piece).cast("B")
            for start in range(0, len(view), durable.CHUNK):
                part = view[start : start + durable.CHUNK]
                yield part
                written += len(part)
                progress(written, folder.size)

    for place, pieces, expected in folder.files():
        path = scratch / place
        for parent in reversed(path.relative_to(scratch).parents[:-1]):
            durable.make_folder(scratch / parent, FOLDER_MODE)
        sha256, _ = durable.write_file(path, counted(pieces), FILE_MODE)
        if expected not in ("", sha256):
            raise StoreDamaged(f"base {folder.generation.base.name}: {place}: not the bytes that were committed")
        durable.sync_folder(path.parent)
    return written


class _Plan:
    """What will be in the folder: everything is found, folded and checked before the first byte is written."""

    def __init__(
        self,
        layout: Layout,
        generation: Generation,
        concepts: tuple[Concept, ...],
        sums: Mapping[str, weights.Array] | None,
    ) -> None:
        self.layout = layout
        self.generation = generation
        files = [(each.uid, blobs.checked(layout, each.blob, f"concept {each.name}", read=True)) for each in concepts]
        # A concept is called what its generation says: its file keeps the name that it came with.
        self._records = [
            dataclasses.replace(read_record(path), name=each.name)
            for each, (_, path) in zip(concepts, files, strict=True)
        ]
        family = families.facts_of(generation.base)
        changing = {pattern.partition("/")[0] for pattern in (*family.targets, *family.token_tables.values())}
        for place, ref in generation.base.files.items():
            # What is copied as it is, is checked while it is copied.
            if place.partition("/")[0] in changing:
                blobs.checked(layout, ref, f"base {generation.base.name}: {place}", read=True)
        found = base.tensors(layout, generation.base)
        tokens = {uid: weights.read_floats(path, "token") for uid, path in files}
        self._tables: dict[str, weights.Array] = {}
        self._sums: Mapping[str, weights.Array]
        if sums is not None:
            self._sums = sums
        elif len(concepts) == len(generation.concepts):
            self._sums, _ = folded.read(layout, generation)
        else:
            _check_raw(concepts, self._records)
            self._sums, _ = weights.fold({place: (path, name) for place, (path, name, _) in found.items()}, files)
        self._texts = _texts(layout, generation)
        if concepts:
            widths = base.token_widths(found, family)
            for encoder, table in base.token_tables(found, family).items():
                numbers = _add_tokens(self._texts, encoder, [each.name for each in concepts])
                own = [weights.rows_by_table(tokens[each.uid], widths)[encoder] for each in concepts]
                path, name, _ = found[table]
                grown = _grown(weights.read_floats(path, name), dict(zip(numbers, own, strict=True)))
                # The file may call it otherwise than the model does.
                own_name = f"{encoder}/{name}"
                self._tables |= dict.fromkeys((table, own_name, *_copies_of(table, found)), grown)
                _describe_text_encoder(self._texts, encoder, len(grown))
        _leave_out_missing(self._texts, generation.base.files)
        self._texts["README.md"] = self._card(concepts, made_whole=sums is not None).encode()
        self.size = SLACK + sum(
            (
                *(ref.size for ref in generation.base.files.values()),
                *(4 * math.prod(found[place][2].shape) for place in self._sums),
                *(each.nbytes for each in self._tables.values()),
                *map(len, self._texts.values()),
            )
        )
        """How many bytes all of it takes, at most."""

    def _card(self, concepts: Sequence[Concept], *, made_whole: bool) -> str:
        """The folder's README."""
        generation = self.generation
        which = "all concepts"
        if len(concepts) < len(generation.concepts):
            which = "some of the concepts, " + (
                "made to draw what they draw with the others,"
                if made_whole
                else "which were learned on top of the others,"
            )
        sampling, without = preset_of(generation.base).sampling, _without(self._texts)
        return model_card.card(generation, self._records, which=which, sampling=sampling, without=without)

    def files(self) -> Iterator[tuple[str, Pieces, str]]:
        """Yield every file: its place, its bytes, and the digest they must have, or an empty string."""
        for place, ref in self.generation.base.files.items():
            path = blobs.checked(self.layout, ref, f"base {self.generation.base.name}: {place}")
            part = place.partition("/")[0]
            names = tensorfile.read_header(path).tensors
            if any(f"{part}/{name}" in self._sums or f"{part}/{name}" in self._tables for name in names):
                yield place, self._with_replaced(path, part), ""
            else:
                yield place, _read(path), ref.sha256
        for place, data in self._texts.items():
            yield place, [data], ""

    def _with_replaced(self, path: Path, part: str) -> Pieces:
        """A file of the base with what was learned in it; one weight at a time is in memory."""
        header = tensorfile.read_header(path)
        view = tensorfile.numbers(path, header)
        tensors: dict[str, Tensor | LazyTensor] = {}
        for name, info in header.tensors.items():
            tensors[name] = Tensor(info.dtype, info.shape, view[info.start : info.end])
            for learned in (self._sums, self._tables):
                if f"{part}/{name}" in learned:
                    tensors[name] = weights.lazy_tensor(learned, f"{part}/{name}")
        configs = {place: json.loads(data) for place, data in self._texts.items() if place.endswith("config.json")}
        described = model_card.metadata(self.generation, self._records, model_card.architecture(configs))
        return tensorfile.encode(tensors, {"format": "pt", **header.metadata, **described})


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        yield from iter(lambda: stream.read(durable.CHUNK), b"")


def _texts(layout: Layout, generation: Generation) -> dict[str, bytes]:
    path = blobs.checked(layout, generation.base.texts, f"base {generation.base.name}: texts", read=True)
    tensors, _ = tensorfile.read_tensors(path)
    return {place: bytes(tensor.data) for place, tensor in tensors.items()}


def _copies_of(table: str, found: Mapping[str, tuple[Path, str, TensorInfo]]) -> list[str]:
    """The other places of a text encoder in which its token table stands: T5's is there twice in some files."""
    path, name, info = found[table]
    alike = [
        other
        for other, (_, _, theirs) in found.items()
        if other != table and other.partition("/")[0] == table.partition("/")[0] and theirs.shape == info.shape
    ]
    return [
        other
        for other in alike
        if np.array_equal(weights.read_floats(path, name), weights.read_floats(*found[other][:2]))
    ]


def _grown(table: weights.Array, rows: Mapping[int, weights.Array]) -> weights.Array:
    """Return the token table with a concept's row at each of the numbers; some bases have rows to spare."""
    grown = np.zeros((max(len(table), 1 + max(rows)), table.shape[1]), np.float32)
    grown[: len(table)] = table
    for number, row in rows.items():
        grown[number] = row[0]
    return grown


def _add_tokens(texts: dict[str, bytes], encoder: str, names: list[str]) -> list[int]:
    """Give a text encoder's tokenizer among a folder's texts the concepts' tokens, and return their numbers."""
    part = encoder.replace("text_encoder", "tokenizer")
    import transformers

    from conceptctl.diffusion.prompts import add_token, token_of

    # Older releases of transformers have two classes of each, of which only this one reads `tokenizer.json`; in newer
    # ones both names mean the same.
    named = json.loads(texts["model_index.json"])[part][1]
    kind = f"{named.removesuffix('Fast')}Fast"
    with tempfile.TemporaryDirectory(prefix="conceptctl-") as name:
        before, after = Path(name, "before"), Path(name, "after")
        before.mkdir()
        for place, data in texts.items():
            if place.startswith(f"{part}/"):
                (before / Path(place).name).write_bytes(data)
        tokenizer: Any = getattr(transformers, kind).from_pretrained(before)
        numbers = [add_token(tokenizer, each) for each in names]
        tokenizer.save_pretrained(after)
        texts |= {f"{part}/{path.name}": base.without_host_paths(path) for path in sorted(after.iterdir())}
    place = f"{part}/added_tokens.json"
    added = json.loads(texts.get(place, b"{}"))
    added |= {token_of(tokenizer, each): number for each, number in zip(names, numbers, strict=True)}
    texts[place] = canonical(added)
    _edit(texts, "model_index.json", lambda index: index.update({part: ["transformers", kind]}))
    return numbers


def _describe_text_encoder(texts: dict[str, bytes], encoder: str, rows: int) -> None:
    def describe(config: dict[str, Any]) -> None:
        config["vocab_size"] = rows
        # Unless they are told otherwise, programs load the text encoder in the type that its configuration names, and
        # a learned row is fp32.
        for key in ("dtype", "torch_dtype"):
            if key in config:
                config[key] = "float32"

    _edit(texts, f"{encoder}/config.json", describe)


def _leave_out_missing(texts: dict[str, bytes], files: Mapping[str, BlobRef]) -> None:
    """Take out of the index what the base names and does not have, like a safety checker that was not downloaded."""
    there = {place.partition("/")[0] for place in (*texts, *files)}

    def leave_out(index: dict[str, Any]) -> None:
        for part, value in index.items():
            if isinstance(value, list) and value[:1] != [None] and part not in there:
                index[part] = [None, None]
        if index.get("safety_checker", [None, None])[0] is None:
            index["requires_safety_checker"] = False

    _edit(texts, "model_index.json", leave_out)


def _without(texts: Mapping[str, bytes]) -> list[str]:
    """The text encoders and tokenizers that an index names as not there."""
    index = json.loads(texts["model_index.json"])
    return [
        part for part, value in index.items() if part.startswith(("text_encoder", "tokenizer")) and value[0] is None
    ]


def _edit(texts: dict[str, bytes], place: str, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(texts[place])
    change(value)
    texts[place] = json.dumps(value, indent=2, ensure_ascii=False).encode()
