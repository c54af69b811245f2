"""Blobs: immutable safetensors files, each named by the sha256 of its bytes."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from conceptctl.errors import ConceptctlError, StoreDamaged
from conceptctl.store import durable, tensorfile
from conceptctl.store.layout import Layout
from conceptctl.store.manifest import BlobRef
from conceptctl.store.tensorfile import LazyTensor, Tensor

READ_ONLY = 0o400


def add(layout: Layout, chunks: Iterable[bytes | memoryview], size: int) -> BlobRef:
    """Write a blob and return its name; when this returns, it is on the disk.

    Args:
        layout: The store.
        chunks: The file's bytes.
        size: How many there are, to be sure of the space before the first is written.

    Raises:
        NoSpace: They do not fit.
        ImportRefused: They are no safetensors file.
    """
    durable.ensure_space(layout.tmp, size)
    scratch = durable.scratch_path(layout.tmp)
    try:
        sha256, written = durable.write_file(scratch, chunks, READ_ONLY)
        tensorfile.read_header(scratch)
    except (OSError, ConceptctlError):
        # What could not be finished leaves its room to what comes next.
        durable.remove_file(scratch)
        raise
    ref = BlobRef(sha256, written)
    target = layout.blob(sha256)
    durable.make_folder(target.parent)
    if target.exists():
        if problem(layout, ref, read=True) == "":
            durable.remove_file(scratch)
            # The name may be there without being durable: whoever wrote it may have been killed before.
            durable.sync_folder(target.parent)
            return ref
        durable.move(target, layout.damaged / f"{sha256}-{scratch.name}")
    durable.move(scratch, target)
    return ref


def add_tensors(layout: Layout, tensors: Mapping[str, Tensor | LazyTensor], metadata: Mapping[str, str]) -> BlobRef:
    """Write tensors as a blob."""
    encoded = tensorfile.encode(tensors, metadata)
    return add(layout, encoded, encoded.size)


def add_file(layout: Layout, source: Path, copied: Callable[[int], None] = lambda count: None) -> BlobRef:
    """Copy a file in as a blob, its bytes as they are; `copied` is told of so many more."""

    def chunks() -> Iterator[bytes]:
        while chunk := stream.read(durable.CHUNK):
            yield chunk
            copied(len(chunk))

    with source.open("rb") as stream:
        return add(layout, chunks(), source.stat().st_size)


def problem(layout: Layout, ref: BlobRef, *, read: bool = False) -> str:
    """Return what is wrong with a blob, or an empty string.

    Args:
        layout: The store.
        ref: Which blob.
        read: Compare every byte, and not only what the file system and the header say.
    """
    path = layout.blob(ref.sha256)
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return "missing"
    if size != ref.size:
        return f"{size} bytes instead of {ref.size}"
    if read and durable.file_digest(path) != ref.sha256:
        return "its bytes are not the ones that were committed"
    return ""


def checked(layout: Layout, ref: BlobRef, what: str, *, read: bool = False) -> Path:
    """Return a blob's path, once it has been looked at.

    Raises:
        StoreDamaged: It is missing or changed; names what it was.
    """
    found = problem(layout, ref, read=read)
    if found:
        raise StoreDamaged(f"{what}: blob {ref.sha256[:12]}: {found}")
    return layout.blob(ref.sha256)
