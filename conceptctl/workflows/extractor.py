"""Which CLIP model makes the features that metrics compare."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from conceptctl.errors import NotFound
from conceptctl.presets import BUNDLED, preset_of, shipped
from conceptctl.store.manifest import Base
from conceptctl.workflows.init import HUB_ID

if TYPE_CHECKING:
    import torch

    from conceptctl.metrics.features import FeatureExtractor

_FILES = ["*.json", "*.txt", "*.safetensors"]


def open_extractor(generation_base: Base, choice: str | None, device: torch.device) -> FeatureExtractor:
    """Open the feature extractor for a base.

    Args:
        generation_base: The base; the bundled one has a CLIP model of its own.
        choice: A folder or a hub id; None leaves the choice to the base.
        device: Where to compute.

    Raises:
        NotFound: It is no CLIP model, or it cannot be had from here.
    """
    from conceptctl.metrics.features import load_extractor

    takes = preset_of(generation_base).learn
    if choice is None and takes.feature_extractor == BUNDLED:
        from conceptctl import pocket

        return load_extractor(pocket.clip_folder(), generation_base.name, device)
    named = choice or takes.feature_extractor
    if is_local(named):
        return load_extractor(Path(named), "local folder", device)
    # One that a preset names has its weights as safetensors in one commit only, whatever base it is taken for.
    pinned = {each.learn.feature_extractor: each.learn.feature_extractor_revision for each in shipped().values()}
    return load_extractor(_from_hub(named, pinned.get(named) or None), named, device)


def is_local(choice: str) -> bool:
    """Whether what names a feature extractor is a folder, and not a hub id."""
    return Path(choice).is_dir() or not HUB_ID.fullmatch(choice) or Path(choice).is_absolute()


def find_extractor(generation_base: Base, warn: Callable[[str], None]) -> FeatureExtractor | None:
    """Open the feature extractor that a base has by itself, or say that no features will be kept.

    It computes on the CPU: as long as a training lasts, a GPU's memory is its own.

    Args:
        generation_base: The base.
        warn: Is told what is missing, and what to do.

    Returns:
        The extractor; None where it cannot be had.
    """
    import torch

    try:
        return open_extractor(generation_base, None, torch.device("cpu"))
    except NotFound as error:
        warn(f"no features will be kept: {error}; eval draws what it needs again ({error.hint})")
        return None


def _from_hub(repository: str, revision: str | None) -> Path:
    """Return the folder of a hub model: from the local cache without asking anybody, else downloaded."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        cached = Path(snapshot_download(repository, revision=revision, allow_patterns=_FILES, local_files_only=True))
        # A cache may hold the one file of a model that another program needed.
        if any(cached.glob("*.safetensors")) and (cached / "preprocessor_config.json").is_file():
            return cached
    except (HFValidationError, LocalEntryNotFoundError, OSError):
        pass
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        which = f"{repository} --revision {revision}" if revision else repository
        raise NotFound(
            f"{repository} cannot be had from the hub: {reason}",
            hint=f"with a network: hf download {which} --local-dir DIR; then: conceptctl eval --feature-extractor DIR",
        ) from error
