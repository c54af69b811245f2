"""The base: a folder as diffusers lays models out, copied in once, and known by the sha256 of its tensors.

It is copied and not referred to: a folder can be moved, a hub can forget, and a new release of this program may
bring another bundled base, and none of that may take a concept away. What the files and the tensors are called, how
they are split, where they lay and whether they are fp16 or fp32 does not enter its identity; what the numbers are does.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from conceptctl.errors import ImportRefused, NotFound, StoreDamaged
from conceptctl.progress import Progress, counted, ignore
from conceptctl.store import blobs, tensorfile
from conceptctl.store.layout import Layout
from conceptctl.store.manifest import Base, Family, Generation, canonical
from conceptctl.store.tensorfile import Tensor, TensorInfo

_FETCH_AGAIN = "fetch the model again; if it is the same then, take another"
TEXTS = {".json", ".txt", ".model"}
PICKLES = {".bin", ".ckpt", ".pt", ".pth", ".pkl"}
_WITHOUT_WEIGHTS = ("tokenizer", "scheduler", "feature_extractor")
_WEIGHTS = re.compile(r"(?P<stem>[^.]+?)(?:\.(?P<variant>[^.]+?))?(?P<part>-\d+-of-\d+)?\.safetensors")
_SECOND_NAMES = {"encoder.embed_tokens.weight": "shared.weight"}
"""Parameters that have two names, of which files may have either: T5's token table."""
FLOATS = {"F16", "BF16", "F32", "F64"}
"""What weights are kept in."""
_Found = tuple[str, str, TensorInfo, memoryview]
"""A tensor of a model: its component, its name, what it is, and the numbers of its file."""


@dataclass(frozen=True)
class Source:
    """A diffusers folder that has been looked through.

    Attributes:
        weights: Its safetensors files, by their place in the folder.
        texts: Its configurations and vocabularies, by theirs.
        sha256: Its identity; see `identity`.
        family: What kind of model it is.
    """

    weights: Mapping[str, Path]
    texts: Mapping[str, Path]
    sha256: str
    family: Family


def inspect(folder: Path, family: Family, progress: Progress = ignore) -> Source:
    """Look through a diffusers folder, without copying anything.

    Args:
        folder: The folder.
        family: What kind of model lies in it.
        progress: Told how many bytes of weights were read, and how many are to be.

    Raises:
        NotFound: It is no diffusers folder, or has no weights that a concept could change.
        ImportRefused: It has weights that only a pickle holds, files that break the format's rules, or numbers that are
            none.
    """
    if not family.is_classifier and not (folder / "model_index.json").is_file():
        raise NotFound(f"{folder}: not a diffusers folder: it has no model_index.json")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not _hidden(path.relative_to(folder)))
    named = {path.relative_to(folder).as_posix(): path for path in files}
    weights = {place: named[name] for place, name in chosen_weights(named, family).items()}
    there = {_component(place) for place in weights}
    for name in named:
        component = _component(name)
        if Path(name).suffix in PICKLES and component in family.components and component not in there:
            raise ImportRefused(f"{name}: a pickle runs code when it is read: only safetensors")
    needed = {_component(pattern) for pattern in (*family.targets, *family.token_tables.values())}
    if missing := sorted(needed - there):
        raise NotFound(f"{folder}: it has no {missing[0]}/*.safetensors")
    texts = {name: path for name, path in named.items() if path.suffix in TEXTS and _is_text_of(name, there)}
    read = counted(progress, sum(path.stat().st_size for path in weights.values()))
    return Source(weights, texts, _digest(_finite(_component_tensors(weights, family), read)), family)


def chosen_weights(names: Iterable[str], family: Family) -> dict[str, str]:
    """Choose the files that make a model, among all that lie in a diffusers folder, or on a hub.

    Folders hold the same weights several times: as fp16 and fp32, with and without averaging, whole in one file at the
    root; and networks beside the model, as a safety checker. One form of each component is taken: that without a
    variant's name before fp16 before others, and a whole file before parts.

    Args:
        names: Every file, by its place in the folder.
        family: Which components make a base.

    Returns:
        The chosen files by where they belong in a folder that is loaded without naming a variant.

    Raises:
        ImportRefused: A component is there only in the parts of a variant, which their index names.
    """
    found: dict[str, dict[tuple[str, bool], dict[str, str]]] = {}
    for name in names:
        component, _, file = name.partition("/")
        match = _WEIGHTS.fullmatch(file)
        if match and component in family.components:
            form = match["variant"] or "", match["part"] is not None
            plain = f"{component}/{match['stem']}{match['part'] or ''}.safetensors"
            found.setdefault(component, {}).setdefault(form, {})[plain] = name
    chosen: dict[str, str] = {}
    for component, forms in found.items():
        variant, in_parts = min(forms, key=lambda form: (form[0] not in ("", "fp16"), form[1], form))
        if variant and in_parts:
            raise ImportRefused(
                f"{component}: its weights are there only as parts of the variant {variant}",
                hint="load it with diffusers and save it in one piece: pipeline.save_pretrained(FOLDER)",
            )
        chosen |= forms[variant, in_parts]
    return chosen


def _is_text_of(name: str, components: Collection[str]) -> bool:
    """Whether a text belongs to what is kept: the index, a component's, or that of a part without weights."""
    component = _component(name)
    return name == "model_index.json" or component in components or component.startswith(_WITHOUT_WEIGHTS)


def _component(place: str) -> str:
    return place.partition("/")[0]


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def identity(weights: Mapping[str, Path], family: Family) -> str:
    """Return what a model is called whatever its tensors are called: a digest of their numbers.

    One model is passed on under several names (libraries rename parameters, checkpoints in one file have names of
    their own), in fp32 or rounded to fp16, its 1 x 1 convolutions as matrices or not. So every component counts as the
    set of its tensors, each rounded to fp16, without its name and without axes of length 1. Integers, as the positions
    that some files list, are no weights.

    Args:
        weights: Safetensors files, by their place in a diffusers folder.
        family: Which components count.

    Returns:
        A sha256 in hexadecimal.
    """
    return _digest(_component_tensors(weights, family))


def _digest(tensors: Iterable[_Found]) -> str:
    """Return the identity of a model with these tensors."""
    lines = []
    for component, _, info, view in tensors:
        if info.dtype in FLOATS:
            digest = hashlib.sha256(_as_half(info, view)).hexdigest()
            lines.append(canonical([component, [size for size in info.shape if size != 1], digest]))
    return hashlib.sha256(b"\n".join(sorted(lines))).hexdigest()


def identity_by_names(weights: Mapping[str, Path], family: Family) -> str:
    """Return what version 0.1 called a model: names, types and shapes of its tensors entered it."""
    lines = []
    for component, name, info, view in _component_tensors(weights, family):
        digest = hashlib.sha256(view[info.start : info.end]).hexdigest()
        lines.append(canonical([component, name, info.dtype, info.shape, digest]))
    return hashlib.sha256(b"\n".join(sorted(lines))).hexdigest()


def is_same(layout: Layout, base: Base, family: Family, sha256: str) -> bool:
    """Whether an identity, of either form, is that of a store's base.

    Reads every number of the base where it is another than the recorded one.
    """
    if sha256 == base.sha256:
        return True
    files = {place: blobs.checked(layout, ref, f"base {base.name}: {place}") for place, ref in base.files.items()}
    return sha256 in (identity(files, family), identity_by_names(files, family))


def _component_tensors(weights: Mapping[str, Path], family: Family) -> Iterator[_Found]:
    """Yield the tensors of a model's components."""
    for place, path in weights.items():
        component = _component(place)
        if component.startswith(family.components):
            header = tensorfile.read_header(path)
            view = tensorfile.numbers(path, header)
            for name, info in header.tensors.items():
                yield component, name, info, view


def _finite(tensors: Iterable[_Found], read: Callable[[int], None]) -> Iterator[_Found]:
    """Make sure, of each tensor before it is passed on, that all its weights are numbers.

    Args:
        tensors: The tensors.
        read: Told how many bytes more have been gone through.

    Raises:
        ImportRefused: One is NaN or infinite.
    """
    import numpy as np

    from conceptctl.store.weights import to_array

    for component, name, info, view in tensors:
        if info.dtype in FLOATS and not np.isfinite(to_array(info, view)).all():
            raise ImportRefused(
                f"{component}: {name}: not all numbers are finite",
                hint=_FETCH_AGAIN,
            )
        yield component, name, info, view
        read(info.end - info.start)


def _as_half(info: TensorInfo, view: memoryview) -> memoryview:
    """Return the bytes of a float tensor in fp16."""
    import numpy as np

    from conceptctl.store.weights import to_array

    if info.dtype == "F16":
        return view[info.start : info.end]
    with np.errstate(over="ignore"):
        return to_array(info, view).astype("<f2").reshape(-1).view(np.uint8).data


def ingest(layout: Layout, source: Source, name: str, progress: Progress = ignore) -> Base:
    """Copy a base into a store.

    Args:
        layout: The store.
        source: The base, looked through.
        name: What to call it.
        progress: Told how many bytes were copied, and how many are to be.

    Raises:
        ImportRefused: A configuration is no JSON.
    """
    copied = counted(progress, sum(path.stat().st_size for path in source.weights.values()))
    files = {place: blobs.add_file(layout, path, copied) for place, path in source.weights.items()}
    texts = {}
    for place, path in source.texts.items():
        data = without_host_paths(path)
        texts[place] = Tensor("U8", (len(data),), data)
    return Base(name, source.sha256, files, blobs.add_tensors(layout, texts, {}), source.family)


def without_host_paths(path: Path) -> bytes:
    """Return a configuration's bytes without the place the model once lay in, which libraries write into it.

    Raises:
        ImportRefused: It is none.
    """
    data = path.read_bytes()
    if path.suffix != ".json" or b"name_or_path" not in data:
        return data
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise ImportRefused(f"{path}: no JSON", hint=_FETCH_AGAIN) from None
    if isinstance(value, dict):
        # Models write the one, tokenizers the other.
        for key in ("_name_or_path", "name_or_path"):
            value.pop(key, None)
    return json.dumps(value, indent=2, ensure_ascii=False).encode("utf-8")


def size(source: Source) -> int:
    """Return how many bytes a base takes."""
    return sum(path.stat().st_size for path in (*source.weights.values(), *source.texts.values()))


def tensors(layout: Layout, base: Base, *, read: Collection[str] = ()) -> dict[str, tuple[Path, str, TensorInfo]]:
    """Return every tensor of a base by its parameter path: the file, the name in it, and what it is.

    Args:
        layout: The store.
        base: Its base.
        read: Components, every byte of whose files is compared first.

    Raises:
        StoreDamaged: A file of the base is missing or has another size.
    """
    found = {}
    for place, ref in base.files.items():
        component = _component(place)
        path = blobs.checked(layout, ref, f"base {base.name}: {place}", read=component in read)
        infos = tensorfile.read_header(path).tensors
        for name, info in infos.items():
            first = _SECOND_NAMES.get(name, name)
            found[f"{component}/{name if first in infos else first}"] = (path, name, info)
    return found


def token_tables(found: Mapping[str, tuple[Path, str, TensorInfo]], family: Family) -> dict[str, str]:
    """Return the parameter path of each text encoder's token table, in the family's order.

    Raises:
        StoreDamaged: One is not there.
    """
    tables = {}
    for encoder, pattern in family.token_tables.items():
        path = next((path for path in found if fnmatchcase(path, pattern)), None)
        if path is None:
            raise StoreDamaged(f"the base has no token table in {encoder}")
        tables[encoder] = path
    return tables


def token_widths(found: Mapping[str, tuple[Path, str, TensorInfo]], family: Family) -> dict[str, int]:
    """Return how many numbers a row of each token table has; a concept's file has the rows side by side."""
    return {encoder: found[path][2].shape[1] for encoder, path in token_tables(found, family).items()}


def token_words(layout: Layout, base: Base) -> set[str]:
    """Return the words that have a token of their own in the base, in lower case, as CLIP reads them."""
    texts, _ = tensorfile.read_tensors(blobs.checked(layout, base.texts, f"base {base.name}: texts", read=True))
    words: set[str] = set()
    for place, tensor in texts.items():
        if place.startswith("tokenizer") and place.endswith(("/vocab.json", "/added_tokens.json")):
            words |= {word.lower().removesuffix("</w>") for word in json.loads(bytes(tensor.data))}
        elif place.startswith("tokenizer") and place.endswith("/tokenizer.json"):
            words |= {entry["content"].lower() for entry in json.loads(bytes(tensor.data)).get("added_tokens", [])}
    return words


def configs(layout: Layout, base: Base) -> dict[str, Any]:
    """Return a base's configurations by their place in its folder; what is no JSON is left out."""
    texts, _ = tensorfile.read_tensors(blobs.checked(layout, base.texts, f"base {base.name}: texts", read=True))
    found = {}
    for place, tensor in texts.items():
        if place.endswith("config.json"):
            with suppress(ValueError):
                found[place] = json.loads(bytes(tensor.data))
    return found


@contextmanager
def folder(layout: Layout, generation: Generation) -> Iterator[Path]:
    """Lay the base out as a diffusers folder, outside the store, for as long as the context lasts.

    The weights are links to blobs, so this costs milliseconds whatever the size.
    """
    import tempfile

    base = generation.base
    with tempfile.TemporaryDirectory(prefix="conceptctl-") as name:
        root = Path(name)
        for place, ref in base.files.items():
            target = root / place
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(blobs.checked(layout, ref, f"base {base.name}: {place}").absolute())
        texts, _ = tensorfile.read_tensors(blobs.checked(layout, base.texts, f"base {base.name}: texts", read=True))
        for place, tensor in texts.items():
            target = root / place
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(tensor.data)
        yield root
