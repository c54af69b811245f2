"""`export` for other programs: a LoRA, full differences, embeddings, or a whole checkpoint in one file.

What goes out is whole: the concepts that are named, summed, draw on the base alone what they draw in the store. Their
tokens go into embedding files, since a grown vocabulary breaks other programs' loaders.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from conceptctl import families
from conceptctl.errors import AlreadyExists, NotFound, UsageError
from conceptctl.formats import lora, low_rank, model_card
from conceptctl.formats.original_layout import UNET, unet_place
from conceptctl.formats.single_file_writer import tensors_of
from conceptctl.progress import Progress, ignore
from conceptctl.store import base, durable, folded, tensorfile, weights
from conceptctl.store.concept import Record, read_record
from conceptctl.store.manifest import Concept, Generation
from conceptctl.store.store import Store
from conceptctl.store.tensorfile import LazyTensor, Tensor, TensorInfo
from conceptctl.workflows.export import find_then
from conceptctl.workflows.places import check_name, check_writable

if TYPE_CHECKING:
    from conceptctl.store.weights import Array
    from conceptctl.workflows.consolidation import Solved

FORMS = ("lora", "diff", "embedding", "single-file")
EMBEDDINGS = "embeddings"
"""The folder of the tokens, beside a file of weights."""
_CONFIG_OF_UNET = "unet/config.json"


@dataclass(frozen=True)
class Shared:
    """What was written.

    Attributes:
        generation: What the concepts were taken from.
        path: The file of weights; None where there are embeddings alone.
        embeddings: The file of each concept's token, by the concept's name.
        size: Bytes of all files.
        rank: The highest rank of a LoRA's factors; 0 for other forms.
        error: |difference| / |deltas| of a LoRA that was truncated; 0 where nothing is left out.
        changed: For each concept how far its prompts' keys and values are from those in the store; empty where all
            concepts of the store go together.
        damaged: Concepts of the store that are damaged: what they draw, and others because of them, is not in it.
    """

    generation: int
    path: Path | None
    embeddings: Mapping[str, Path]
    size: int
    rank: int
    error: float
    changed: Mapping[str, float]
    damaged: tuple[str, ...]
    diffusers_only: bool = False
    """Whether modules have names in it that diffusers alone is known to read."""


def export_shared(
    store: Store,
    names: Sequence[str],
    output: Path,
    form: str,
    *,
    at: int | None = None,
    rank: int | None = None,
    dtype: str | None = None,
    progress: Progress = ignore,
    writing: Progress = ignore,
) -> Shared:
    """Write concepts in a form that other programs read.

    Args:
        store: The store; it is only read.
        names: Which concepts; none means all.
        output: A file that is not there; of embeddings also a folder. Folders are made.
        form: One of `FORMS`.
        at: The generation; the newest by default.
        rank: Of a LoRA: the highest rank, what is beyond it is left out; by default as high as it takes.
        dtype: "fp16", "bf16" or "fp32"; by default fp32, of a whole checkpoint what it is in the base.
        progress: Told how many prompts are encoded.
        writing: Told how many bytes are written.

    Raises:
        NotFound: There is no such concept or generation.
        UsageError: A number that cannot be meant, or no concept to write.
        AlreadyExists: Something is there already; nothing is overwritten.
        NoSpace: It does not fit.
        StoreDamaged: The base or a concept is not as it was committed.
    """
    kind = _checked(form, rank, dtype)
    with store.reading() as head:
        generation = head if at is None else store.drawable(at)
        _check_names(base.configs(store.layout, generation.base), form)
        chosen = [find_then(store, generation, name) for name in dict.fromkeys(names)] or list(generation.concepts)
        if not chosen and form != "single-file":
            raise NotFound("the store has no concepts", hint="conceptctl learn DIR --token NAME")
        tokens = _token_paths(chosen, output, form)
        _check_vacant([*([output] if form != "embedding" else []), *tokens.values()])
        sums, solved = _sums(store, generation, chosen, progress) if form != "embedding" else ({}, None)
        records = [dataclasses.replace(read_record(store.blob(each, read=True)), name=each.name) for each in chosen]
        made = _Made(generation, records, kind or "F32", base.configs(store.layout, generation.base))
        written = _written(store, sums, _known(store, generation, chosen, form), form, rank, kind, made)
        size = 0
        if written:
            size += _write(output, written.tensors, made.metadata(form, output, written), writing)
        size += sum(_write_token(store, each, tokens[each.name], made) for each in chosen)
    return Shared(
        generation.seq,
        None if form == "embedding" else output,
        tokens,
        size,
        written.rank if written else 0,
        written.error if written else 0.0,
        {each.name: each.changed for each in solved.kept} if solved else {},
        solved.damaged if solved else (),
        form == "lora" and _CONFIG_OF_UNET not in made.configs,
    )


def _checked(form: str, rank: int | None, dtype: str | None) -> str | None:
    """What safetensors calls the type, None for the usual one; refuses what cannot be meant."""
    if form not in FORMS:
        raise UsageError(f"there is no form {form!r}", hint=f"forms: {', '.join(FORMS)}")
    if rank is not None and form != "lora":
        raise UsageError(f"a {form} has no rank", hint="--to lora, or leave --rank out")
    if rank is not None and rank < 1:
        raise UsageError("a rank is at least 1", hint="leave --rank out for an exact file")
    if dtype is not None and dtype not in lora.DTYPES:
        raise UsageError(f"there is no type {dtype!r}", hint=f"--dtype {', '.join(lora.DTYPES)}")
    return lora.DTYPES[dtype] if dtype else None


def _check_names(configs: Mapping[str, Any], form: str) -> None:
    """Refuse forms that only programs with names of their own read, where those names are not known.

    Raises:
        UsageError: It is one, of a base without a U-Net.
    """
    if _CONFIG_OF_UNET not in configs and form not in ("lora", "embedding"):
        raise UsageError(
            f"a {form} of this base is not written: nobody else's names for its weights are known here",
            hint="--to diffusers, --to lora (which diffusers reads), --to embedding or --to concept",
        )


def _token_paths(chosen: Sequence[Concept], output: Path, form: str) -> dict[str, Path]:
    """Where each token goes: programs call an embedding as its file is called."""
    if form == "embedding" and len(chosen) == 1 and output.suffix == ".safetensors":
        return {chosen[0].name: output}
    folder = output if form == "embedding" else output.parent / EMBEDDINGS
    return {each.name: folder / f"{each.name}.safetensors" for each in chosen}


def _check_vacant(paths: Sequence[Path]) -> None:
    if taken := next((path for path in paths if path.exists()), None):
        raise AlreadyExists(
            f"{taken} is there already", hint="--output in another folder: the tokens go into embeddings/ beside it"
        )
    for path in paths:
        check_name(path)
        check_writable(path.parent)


def _sums(
    store: Store, generation: Generation, chosen: Sequence[Concept], progress: Progress
) -> tuple[Mapping[str, Array], Solved | None]:
    """The weights with some concepts: all as they are in the store, or some made whole on the base."""
    if len(chosen) == len(generation.concepts):
        return folded.read(store.layout, generation)[0], None
    families.check_closed_form(
        generation.base,
        "some of the concepts cannot be made whole by themselves",
        "all of them: leave the names out; or --at GENERATION for those that were learned up to then",
    )
    from conceptctl.workflows.consolidation import Consolidation

    solved = Consolidation(store, generation, progress=progress).whole({each.uid for each in chosen})
    return solved.weights, solved


def _known(store: Store, generation: Generation, chosen: Sequence[Concept], form: str) -> dict[str, low_rank.Factors]:
    """For a LoRA, the factors of deltas that are sums of products which are kept as such, by path."""
    if form != "lora" or len(chosen) != len(generation.concepts) or any(each.consolidated for each in chosen):
        return {}
    files: dict[str, list[Path]] = {}
    others: set[str] = set()
    for path in (store.blob(each, read=True) for each in chosen):
        for place, parts in weights.delta_parts(tensorfile.read_header(path)).items():
            files.setdefault(place, []).append(path)
            if parts != {"up", "down"}:
                others.add(place)
    known = {}
    for place in files.keys() - others:
        up, down = (
            [weights.read_floats(path, f"delta/{place}/{part}") for path in files[place]] for part in ("up", "down")
        )
        known[place] = low_rank.Factors(np.hstack(up), np.vstack(down), error=0.0)
    # Beyond that, what several have in common is worth looking for.
    return {place: each for place, each in known.items() if each.rank <= low_rank.MOST}


@dataclass(frozen=True)
class _Made:
    """What files say of themselves."""

    generation: Generation
    records: Sequence[Record]
    dtype: str
    configs: Mapping[str, Any]

    def metadata(self, form: str, path: Path, written: lora.Written) -> dict[str, str]:
        """Modelspec's keys; of what is added to a checkpoint also those that trainers of LoRAs write."""
        architecture = model_card.architecture(self.configs)
        if form == "single-file":
            return model_card.metadata(self.generation, self.records, architecture)
        return model_card.adapter_metadata(
            self.generation, self.records, architecture, path.stem, written.rank, written.error
        )


def _written(
    store: Store,
    sums: Mapping[str, Array],
    known: Mapping[str, low_rank.Factors],
    form: str,
    rank: int | None,
    kind: str | None,
    made: _Made,
) -> lora.Written | None:
    """Make the tensors of the file of weights; None where there are embeddings alone."""
    found = base.tensors(store.layout, made.generation.base)
    if form == "embedding":
        return None
    if form == "single-file":
        return lora.Written(tensors_of(found, made.configs, sums, kind), 0, 0.0)
    deltas = _Deltas(sums, found)
    if _CONFIG_OF_UNET not in made.configs:
        return lora.peft(deltas, known=known, rank=rank, dtype=made.dtype)
    named = original_name(made.configs) if "text_encoder_2/config.json" in made.configs else lora.module_name
    if form == "lora":
        return lora.lora(deltas, known=known, rank=rank, dtype=made.dtype, named=named)
    return lora.diff(deltas, dtype=made.dtype, named=named)


class _Deltas(Mapping[str, "Array"]):
    """What concepts add to the base's weights, by path; each is made when it is asked for."""

    def __init__(self, sums: Mapping[str, Array], found: Mapping[str, tuple[Path, str, TensorInfo]]) -> None:
        self._sums, self._found = sums, found

    def __iter__(self) -> Iterator[str]:
        return iter(self._sums)

    def __len__(self) -> int:
        return len(self._sums)

    def __getitem__(self, path: str) -> Array:
        return self._sums[path] - weights.read_floats(*self._found[path][:2])


def original_name(configs: Mapping[str, Any]) -> Callable[[str], str]:
    """Name modules as the original code does, which trainers of LoRAs keep to for SDXL."""
    unet = configs["unet/config.json"]

    def named(path: str) -> str:
        return unet_place(path.removeprefix("unet/"), unet).key.removeprefix(UNET).removesuffix(".weight")

    return named


def _write_token(store: Store, concept: Concept, path: Path, made: _Made) -> int:
    row = weights.read_floats(store.blob(concept), "token")
    found = base.tensors(store.layout, made.generation.base)
    family = families.facts_of(made.generation.base)
    widths, keys = base.token_widths(found, family), lora.embedding_keys(base.token_tables(found, family))
    tensors = lora.embedding(weights.rows_by_table(row, widths), dtype=made.dtype, keys=keys)
    described = {"modelspec.title": f"V*{concept.name}", "modelspec.trigger_phrase": path.stem}
    return _write(path, tensors, {**described, "modelspec.sai_model_spec": "1.0.1"}, ignore)


def _write(
    target: Path, tensors: Mapping[str, Tensor | LazyTensor], metadata: Mapping[str, str], progress: Progress
) -> int:
    """Write one file where none is, one tensor in memory at a time; what a kill leaves has another name."""
    encoded = tensorfile.encode(tensors, metadata)
    target.parent.mkdir(parents=True, exist_ok=True)
    done = 0

    def counted() -> Iterator[bytes | memoryview]:
        nonlocal done
        for piece in encoded:
            yield piece
            done += memoryview(piece).nbytes
            progress(done, encoded.size)

    try:
        durable.write_new(target, counted(), encoded.size)
    except FileExistsError:
        raise AlreadyExists(f"{target} is there already") from None
    return encoded.size
