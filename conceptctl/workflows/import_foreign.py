"""`import` of what other programs learned: a LoRA on keys and values, a textual-inversion embedding, or both.

It becomes a concept like any other: its deltas, as if learned on the base alone, and one token. A LoRA without an
embedding has none: its token then begins at the words that it was trained under.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import conceptctl
from conceptctl import families
from conceptctl.errors import ImportRefused, NotFound, UsageError
from conceptctl.formats import embedding_reader, lora, lora_reader
from conceptctl.formats.foreign import NOT_FINITE, Floats
from conceptctl.formats.low_rank import Array
from conceptctl.presets import preset_of
from conceptctl.store import base, concept, weights
from conceptctl.store.concept import Record
from conceptctl.store.factors import smaller
from conceptctl.store.manifest import Generation, now
from conceptctl.store.store import Store
from conceptctl.store.tensorfile import Tensor
from conceptctl.wording import count
from conceptctl.workflows.adding import check_name_free
from conceptctl.workflows.export_shared import EMBEDDINGS, original_name
from conceptctl.workflows.foreign_file import ForeignFile, opened, peft_config, said_base, trigger_words, usual_name
from conceptctl.workflows.learn.request import Request, check_facts
from conceptctl.workflows.reference_samples import PROMPT

METHOD = "imported"
"""What the record of such a concept says in the place of a method."""
_OTHER_BASE = "a store has one base; make another with conceptctl init --base ... --store DIR"


@dataclass(frozen=True)
class Elsewhere:
    """What the user says of a file that another program wrote."""

    class_word: str = ""
    trigger: str = ""
    """The words that a LoRA was trained under; by default those that its metadata names."""
    embedding: Path | None = None
    """The file of its token; by default that which `export` put beside it."""
    license: str = ""
    consent: str = ""


@dataclass(frozen=True)
class Foreign:
    """What was made of a file that another program wrote.

    Attributes:
        form: "lora", "embedding", or "lora and embedding".
        used: How many of its modules became deltas.
        unused: How many others it has, by what they are; keys that no known form has are counted as "unknown keys".
        share: How much of what the file changes is used, by squares; None for an embedding.
        trigger: The words that it was trained under; "" where it has a token of its own, or nothing is known.
        other_base: Whether the file says that it was made for another base than this store's.
    """

    form: str
    used: int
    unused: Mapping[str, int]
    share: float | None
    trigger: str
    other_base: bool


@dataclass(frozen=True)
class Offer:
    """A concept made of such a file, not in the store yet."""

    record: Record
    tensors: Mapping[str, Tensor]
    foreign: Foreign


def offer(store: Store, file: ForeignFile, name: str | None, said: Elsewhere) -> Offer:
    """Make a concept of a file; nothing is changed.

    Args:
        store: The store that it shall go into.
        file: The file.
        name: What to call it; by default what the file calls it.
        said: What the user says of it.

    Raises:
        ImportRefused: Nothing of it can be used, or it is for another base.
        NotFound: The file of its token is not there.
        AlreadyExists: The name is taken.
        UsageError: A name or a word that cannot be meant, or that is missing.
    """
    head = store.head()
    name = usual_name(file) if name is None else name
    check_facts(Request(file.path, name, said.class_word, license=said.license, consent=said.consent))
    check_name_free(name, head, store.layout)
    if lora_reader.is_lora(file.header.tensors):
        return _of_lora(store, head, file, name, said)
    if said.embedding or said.trigger:
        raise UsageError(
            f"{file.path.name} is an embedding: it has a token, and no trigger words", hint="leave both options out"
        )
    row = _side_by_side(_rows(store, head, file, Floats(file.path, file.header)))
    record = _record(head, file, name, said, {"imported_from": "embedding"})
    return Offer(record, weights.concept_tensors({}, row), Foreign("embedding", 0, {}, None, "", _other(store, file)))


def _of_lora(store: Store, head: Generation, file: ForeignFile, name: str, said: Elsewhere) -> Offer:
    # The token first: what is wrong with it is found out in no time.
    token = _token(store, head, file, said)
    read = _read(store, head, file)
    settings = {
        "imported_from": "lora",
        "imported_rank": read.rank,
        "imported_scale": round(read.scale, 6),
        "imported_share": round(read.share, 6),
        **token.settings,
    }
    kept = {path: smaller(*pair, None, read.deltas[path]) for path, pair in read.factors.items()}
    deltas = {path: kept.get(path) or weights.Delta.of(delta) for path, delta in read.deltas.items()}
    unused = dict(read.unused)
    if unknown := len(set(read.unread) - token.keys):
        unused["unknown keys"] = unknown
    form = "lora" if token.settings else "lora and embedding"
    return Offer(
        _record(head, file, name, said, settings),
        weights.concept_tensors(deltas, _side_by_side(token.rows)),
        Foreign(form, len(deltas), unused, read.share, token.trigger, _other(store, file)),
    )


@dataclass(frozen=True)
class _Token:
    """The token of a LoRA.

    Attributes:
        rows: Its row (1, width) of each token table.
        keys: The tensors of the LoRA's file that it was read from.
        trigger: The words that it begins at, where the file has no token.
        settings: What the record says of it then.
    """

    rows: Mapping[str, Array]
    keys: frozenset[str] = frozenset()
    trigger: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


def _token(store: Store, head: Generation, file: ForeignFile, said: Elsewhere) -> _Token:
    """Find a LoRA's token: in a file of its own, within its file, or at the words that it answers to.

    Raises:
        ImportRefused: It is for another base, or has several concepts in it.
        NotFound: Its file is not there.
        UsageError: There is none, and no word for it.
    """
    if len(file.names) > 1:
        raise ImportRefused(
            f"{file.path.name}: {count(len(file.names), 'concept')} in one sum ({', '.join(file.names[:4])}), which "
            "nothing takes apart",
            hint="export them one by one: conceptctl export NAME --to lora --output FILE",
        )
    trigger = trigger_words(file, said.trigger)
    if beside := _token_file(file, said):
        try:
            return _Token(_rows(store, head, beside, Floats(beside.path, beside.header)))
        except ImportRefused as error:
            raise ImportRefused(f"{file.path.name}, by its token: {error}", hint=error.hint) from None
    bundle = embedding_reader.bundled(file.header.tensors)
    if len(bundle) == 1:
        ((_, keys),) = bundle.items()
        arrays = Floats(file.path, file.header, list(keys.values()))
        rows = _rows(store, head, file, {table: arrays[key] for table, key in keys.items()})
        return _Token(rows, frozenset(keys.values()))
    if not trigger and not said.class_word:
        raise UsageError(
            f"{file.path.name}: a LoRA without a token, and it does not say which words it answers to",
            hint='--trigger "THE WORDS", or --class WORD for what it draws; --embedding FILE where it has one',
        )
    rows, prompt = _start(store, head, trigger, said.class_word)
    sampling = preset_of(head.base).sampling
    recipe = {"prompt": prompt, "steps": sampling.steps, "guidance": sampling.guidance}
    settings = {"trigger": trigger, **{f"reference_{key}": value for key, value in recipe.items()}}
    return _Token(rows, trigger=trigger, settings=settings)


def _read(store: Store, head: Generation, file: ForeignFile) -> lora_reader.Read:
    """Read the deltas.

    Raises:
        ImportRefused: They are for another base, or there are none for what a concept changes.
    """
    family = families.facts_of(head.base)
    found = base.tensors(store.layout, head.base)
    targets = {path: info.shape for path, (_, _, info) in found.items() if family.is_target(path)}
    arrays = Floats(file.path, file.header)
    try:
        read = lora_reader.read(arrays, targets, named=_trainers_names(store, head, targets), config=peft_config(file))
    except ValueError as error:
        raise ImportRefused(f"{file.path.name}: {error}", hint="take another save of it") from None
    said = said_base(file)
    if read.misfits:
        name, shape = read.misfits[0]
        width = max((shape[1] for shape in targets.values()), default=0)
        why = f"its prompts are {shape[1]} numbers wide, here {width}" if len(shape) == 2 and shape[1] != width else (
            "it is not in this base, or has another shape"
        )  # fmt: skip
        raise ImportRefused(f"{file.path.name}: a LoRA for another base{said}: {name}: {why}", hint=_OTHER_BASE)
    if not read.deltas:
        there = ", ".join(f"{number} {kind}" for kind, number in read.unused.items()) or "none"
        raise ImportRefused(
            f"{file.path.name}{said}: nothing of it can be used: a concept changes the keys and values of "
            f"cross-attention, and its modules are: {there}",
            hint="a LoRA (no LoHa, LoKr or DoRA) that was trained on them too",
        )
    if not all(weights.is_drawable(delta) for delta in read.deltas.values()):
        raise ImportRefused(
            f"{file.path.name}: factors whose product goes beyond {weights.LARGEST:g}, with which no model draws",
            hint=NOT_FINITE,
        )
    return read


def _trainers_names(store: Store, head: Generation, targets: Collection[str]) -> dict[str, str]:
    """Targets by what the original code calls their modules, as trainers of SDXL do; {} where it has no such names."""
    with suppress(KeyError, TypeError, ValueError):
        named = original_name(base.configs(store.layout, head.base))
        return {named(path).replace(".", "_"): path for path in targets}
    return {}


def _token_file(file: ForeignFile, said: Elsewhere) -> ForeignFile | None:
    """Find the file of a LoRA's token.

    Raises:
        NotFound: One was named, or is the other half of an export of ours, and is not there.
        ImportRefused: It is no embedding.
    """
    path = said.embedding or (file.path.parent / EMBEDDINGS / f"{file.names[0]}.safetensors" if file.names else None)
    if path is None:
        return None
    if not path.is_file():
        raise NotFound(f"no file {path}, the token of {file.path.name}", hint="--embedding FILE")
    found = opened(path)
    if found is None or not embedding_reader.is_embedding(found.header.tensors):
        raise ImportRefused(f"{path.name}: no embedding")
    return found


def _rows(store: Store, head: Generation, file: ForeignFile, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """An embedding's row of each token table."""
    found, family = base.tensors(store.layout, head.base), families.facts_of(head.base)
    keys = lora.embedding_keys(base.token_tables(found, family))
    rows = embedding_reader.read(file.path.name, arrays, base.token_widths(found, family), keys)
    if not all(weights.is_drawable(row) for row in rows.values()):
        raise ImportRefused(
            f"{file.path.name}: an embedding with numbers beyond {weights.LARGEST:g}, with which no model draws",
            hint=NOT_FINITE,
        )
    return rows


def _side_by_side(rows: Mapping[str, Array]) -> Array:
    return np.concatenate(list(rows.values()), axis=1).astype(np.float32)


def _start(store: Store, head: Generation, trigger: str, class_word: str) -> tuple[dict[str, Array], str]:
    """Begin a token at the words that a LoRA answers to, and say under which prompt it is the concept.

    Returns:
        A row of each token table, and the prompt: with the words, where they are more than one token can be.

    Raises:
        UsageError: The words have no row in every table.
    """
    words = trigger or class_word
    found = base.tensors(store.layout, head.base)
    tables = base.token_tables(found, families.facts_of(head.base))
    if lora.T5_KEY in lora.embedding_keys(tables):
        raise UsageError(
            "on this base a LoRA needs a token: no word is the same in both of its vocabularies",
            hint="--embedding FILE",
        )
    with base.folder(store.layout, head) as folder:
        tokenizer = families.family_of(head.base).load_tokenizer(folder)
        ids = tokenizer(words, add_special_tokens=False).input_ids
    if not ids:
        raise UsageError(f"the base's text encoder makes nothing of {words!a}", hint="other words, or --embedding FILE")
    rows = {
        name: weights.read_floats(*found[path][:2])[ids].mean(axis=0, keepdims=True) for name, path in tables.items()
    }
    return rows, f"{PROMPT}, {trigger}" if trigger and len(ids) > 1 else PROMPT


def _record(head: Generation, file: ForeignFile, name: str, said: Elsewhere, settings: Mapping[str, Any]) -> Record:
    return Record(
        uid=concept.new_uid(),
        name=name,
        class_word=said.class_word,
        method=METHOD,
        learned=now(),
        program=conceptctl.__version__,
        base=head.base.sha256,
        after=0,
        seed=0,
        steps=0,
        photos=0,
        settings=settings,
        license=said.license or file.header.metadata.get("modelspec.license", "")[:1000],
        consent=said.consent,
        # It was learned on a base alone: whether on this one nobody knows, but nothing else can be meant.
        stands_on=(),
        start=dataclasses.replace(head, consolidated=None).start(()),
    )


def _other(store: Store, file: ForeignFile) -> bool:
    said, head = file.ours.get("base"), store.head()
    return isinstance(said, str) and not base.is_same(store.layout, head.base, families.facts_of(head.base), said)
