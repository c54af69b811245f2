"""`init`: find the base that a user names, and make a store on it: one that draws, or one that tells classes apart."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from conceptctl import families
from conceptctl.errors import ImportRefused, NotFound, StoreDamaged, UsageError
from conceptctl.formats import foreign
from conceptctl.progress import Stages, ignore_all
from conceptctl.store import base
from conceptctl.store.layout import Layout
from conceptctl.store.manifest import Family
from conceptctl.store.store import Store, check_vacant
from conceptctl.workflows.places import check_writable, writable

POCKET = "pocket"
POCKET_VIT = "pocket-vit"
HUB_ID = re.compile(r"(?:[A-Za-z0-9_](?:[\w.-]*\w)?/[A-Za-z0-9_](?:[\w.-]*\w)?)(?<!\.git)", re.ASCII)
"""What the hub allows, nearly; `./model` and `../model` are folders, also where there are none."""
_BASES = "--base takes pocket, pocket-vit, a hub id like owner/name, a folder or a .safetensors file"
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model")
"""Files of which a tokenizer has at least one; without any, libraries make one that knows no words, and say nothing."""
_FETCH = "fetch all of it: hf download ID --local-dir DIR; then: conceptctl init --base DIR"
HUB_TEXTS = ["*.json", "*.txt", "*.model"]


@dataclass(frozen=True)
class Initialized:
    """A store that was made."""

    store: Store
    base_name: str
    base_sha256: str
    is_classifier: bool = False
    """Whether it tells classes apart, and draws nothing."""


def initialize(root: Path, named: str, stages: Stages = ignore_all) -> Initialized:
    """Make a store on a base: `pocket`, `pocket-vit`, a folder, a single file, or a hub id.

    What the base is decides what the store is: on a vision transformer it tells classes apart, else it draws.

    Args:
        root: Where.
        named: The base.
        stages: Told what is going on; what it returns is told bytes.

    Raises:
        NotFound: There is no such base, or it cannot be had from here; names the command that would work.
        ImportRefused: It is a pickle, or breaks the rules of its format.
        AlreadyExists: There is a store already, or something else.
        UsageError: Nothing can be written there.
    """
    if root.is_symlink() and not root.exists():
        raise UsageError(f"{root} is a link to nothing")
    # Before gigabytes are read.
    check_vacant(Layout(root.absolute()))
    check_writable(root.absolute().parent)
    with (
        _base_folder(named, root, stages) as (folder, name),
        _laid_out(folder, name, _nearest(root)) as (laid_out, family),
    ):
        source = base.inspect(laid_out, family, stages("checking the weights"))
        if not family.is_classifier:
            _check_tokenizers(laid_out, family)
        with writable(root.absolute().parent):
            store = Store.create(root, source, name, stages("copying the weights"))
    return Initialized(store, name, source.sha256, family.is_classifier)


def digest_of(named: str, root: Path) -> str | None:
    """What a store's base has as its digest that is made of what a user names now; None for what comes from the hub.

    Args:
        named: As `initialize` takes it.
        root: Where the store is, beside which a checkpoint in one file is laid out.

    Raises:
        NotFound: There is no such base any more.
        ImportRefused: It breaks the rules of its format.
    """
    if named not in (POCKET, POCKET_VIT) and not Path(named).exists():
        return None
    with _base_folder(named, root, ignore_all) as (folder, name), _laid_out(folder, name, root) as (laid_out, family):
        return base.inspect(laid_out, family).sha256


@contextmanager
def _laid_out(folder: Path, name: str, beside: Path) -> Iterator[tuple[Path, Family]]:
    """Say what family a folder's model is of, and lay it out as a store copies it in."""
    if not _is_tower(folder):
        module = families.recognized(folder)
        family = module.family_in(folder)
        foreign.refuse_folder(folder, family)
        _check_sizes(folder, module)
        yield folder, family
        return
    from conceptctl.families import vit

    with TemporaryDirectory(prefix="conceptctl-", dir=beside) as made:
        vit.write_base(folder, name if name == POCKET_VIT else str(folder), Path(made))
        yield Path(made), vit.FAMILY


def _is_tower(folder: Path) -> bool:
    """Whether a folder holds one model, as transformers and timm save one, and neither a pipeline nor a part of one."""
    if (folder / "model_index.json").exists():
        return False
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and not config.keys().isdisjoint(("model_type", "architecture"))


@contextmanager
def _base_folder(named: str, root: Path, stages: Stages) -> Iterator[tuple[Path, str]]:
    """Find the folder of the model that a user means, and what to call it: never a path of the user's."""
    path = Path(named)
    if named == POCKET:
        from conceptctl import pocket

        yield pocket.base_folder(), POCKET
    elif named == POCKET_VIT:
        from conceptctl import pocket

        yield pocket.clip_folder(), POCKET_VIT
    elif path.is_dir():
        yield path, "local folder"
    elif path.is_file():
        from conceptctl.formats.single_file import converted

        foreign.refuse_others(path)
        laying = stages("laying out the checkpoint")
        with converted(path, beside=_nearest(root), check=families.recognized, progress=laying) as folder:
            yield folder, "local file"
    elif path.name.lower().endswith(foreign.PICKLES):
        foreign.refuse_pickle(named)
    elif HUB_ID.fullmatch(named) and not path.is_absolute():
        yield _from_hub(named), named
    else:
        raise NotFound(f"no base {named!r}", hint=_BASES)


def _check_sizes(folder: Path, family: families.FamilyModule) -> None:
    """Make sure that a folder says how large its pictures are.

    Raises:
        ImportRefused: It does not.
    """
    configs = {}
    for path in folder.glob("*/config.json"):
        with suppress(ValueError, RecursionError):
            configs[path.relative_to(folder).as_posix()] = json.loads(path.read_bytes())
    try:
        sound = family.picture_side(configs) > 0 and (family.longest_side(configs) or 1) > 0
    except StoreDamaged:
        sound = False
    if not sound:
        raise ImportRefused(f"{folder}: its configurations do not say how large its pictures are", hint=_FETCH)


def _check_tokenizers(folder: Path, family: Family) -> None:
    """Make sure that tokenizers that a folder says it has are there.

    Raises:
        NotFound: One is not.
        ImportRefused: The folder's index cannot be read.
    """
    try:
        index = json.loads((folder / "model_index.json").read_bytes())
    except (ValueError, RecursionError):
        index = None
    if not isinstance(index, dict):
        raise ImportRefused(f"{folder}: its model_index.json is no JSON object", hint=_FETCH)
    for encoder in family.token_tables:
        part = encoder.replace("text_encoder", "tokenizer")
        if index.get(part) in (None, [None, None]):
            continue
        if not any((folder / part / name).is_file() for name in _VOCABULARIES):
            raise NotFound(f"{folder}: its {part} has no vocabulary", hint=_FETCH)


def _nearest(root: Path) -> Path:
    """The folder nearest to where a store will be that is there: on the same disk, which has room for a base."""
    return next(parent for parent in root.absolute().parents if parent.is_dir())


def _from_hub(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        # What cannot be a base is said before gigabytes of it have come.
        texts = Path(snapshot_download(repository, allow_patterns=HUB_TEXTS))
        if _is_tower(texts):
            return Path(snapshot_download(repository, allow_patterns=[*HUB_TEXTS, "model*.safetensors"]))
        return _fetched(repository, families.recognized(texts).family_in(texts))
    except HFValidationError:
        raise NotFound(f"no base {repository!r}: no folder, no file, and no hub id can be so", hint=_BASES) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise NotFound(
            f"{repository} cannot be had from the hub, and is no folder or file here: {str(error).splitlines()[0]}",
            hint=f"with a network: hf download {repository} --local-dir DIR; then: conceptctl init --base DIR",
        ) from error


def _fetched(repository: str, family: Family) -> Path:
    """Fetch what a pipeline loads: of each component the first form that there is, plain, as fp16, or any other."""
    from huggingface_hub import snapshot_download

    missing = set(family.components)
    folder = Path()
    for form, but in (("*.safetensors", "*/*.*.safetensors"), ("*.fp16*.safetensors", ""), ("*.safetensors", "")):
        wanted = [f"{component}/{form}" for component in sorted(missing)]
        folder = Path(
            snapshot_download(repository, allow_patterns=[*HUB_TEXTS, *wanted], ignore_patterns=[but] if but else None)
        )
        there = [path.relative_to(folder).as_posix() for path in folder.glob("*/*")]
        missing -= {place.partition("/")[0] for place in base.chosen_weights(there, family)}
        if not missing:
            break
    return folder
