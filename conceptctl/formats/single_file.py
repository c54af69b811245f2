"""A checkpoint in one file, laid out as a diffusers folder."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conceptctl.errors import NotFound
from conceptctl.store import tensorfile
from conceptctl.store.tensorfile import Header

CONFIGURATIONS = "stable-diffusion-v1-5/stable-diffusion-v1-5"
CONFIGURATIONS_2 = "stabilityai/stable-diffusion-2-1"
"""Where configurations and vocabularies are taken from: a file with weights has none."""

WIDTH_2 = 1024
"""The width of Stable Diffusion 2's text encoder, which tells the two apart."""

FOLDER_HINT = "conceptctl init --base FOLDER, with the same model as a diffusers folder"


@contextmanager
def converted(path: Path) -> Iterator[Path]:
    """Convert a single-file checkpoint for as long as the context lasts.

    A single file has no configurations and no vocabulary; diffusers takes them from the hub, or from the hub's cache
    where they have been downloaded before.

    Raises:
        ImportRefused: It is no safetensors file.
        NotFound: It is no Stable Diffusion checkpoint, or what it lacks cannot be had from here.
    """
    repository = _configurations(path, tensorfile.read_header(path))
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    # What goes wrong comes out as an error; what these say on the way is for programmers.
    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity(logging.ERROR)
        library.disable_progress_bar()
    from diffusers import StableDiffusionPipeline

    with tempfile.TemporaryDirectory(prefix="conceptctl-") as name:
        try:
            pipeline = StableDiffusionPipeline.from_single_file(str(path), config=repository, safety_checker=None)
        except OSError as error:
            raise NotFound(
                f"{path.name}: a checkpoint in one file lacks its configuration and vocabulary, and those of"
                f" {repository} cannot be had from here",
                hint=f"with a network, once: hf download {repository} --include '*.json' --include '*.txt';"
                " then the same command",
            ) from error
        except (ValueError, KeyError, TypeError, RuntimeError) as error:
            raise NotFound(f"{path.name}: not a Stable Diffusion checkpoint: {error}", hint=FOLDER_HINT) from error
        pipeline.save_pretrained(name, safe_serialization=True)
        yield Path(name)


def _configurations(path: Path, header: Header) -> str:
    """Return the repository whose configurations fit a file.

    Raises:
        NotFound: It has another layout than that of Stable Diffusion 1 and 2.
    """
    if any(name.startswith("conditioner.embedders.") for name in header.tensors):
        raise NotFound(
            f"{path.name}: SDXL, which has two text encoders", hint="a base with one: Stable Diffusion 1 or 2"
        )
    widths = {
        info.shape[-1]
        for name, info in header.tensors.items()
        if name.startswith("model.diffusion_model.") and name.endswith("attn2.to_k.weight") and info.shape
    }
    if not widths:
        raise NotFound(f"{path.name}: not a Stable Diffusion checkpoint in one file", hint=FOLDER_HINT)
    return CONFIGURATIONS_2 if WIDTH_2 in widths else CONFIGURATIONS
