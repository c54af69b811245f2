"""A checkpoint in one file, laid out as a diffusers folder."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conceptctl.errors import NotFound
from conceptctl.store import tensorfile


@contextmanager
def converted(path: Path) -> Iterator[Path]:
    """Convert a single-file checkpoint for as long as the context lasts.

    A single file has no configurations and no vocabulary; diffusers takes them from the hub or its cache.

    Raises:
        ImportRefused: It is no safetensors file.
        NotFound: What the file lacks cannot be had from here.
    """
    tensorfile.read_header(path)
    from diffusers import StableDiffusionPipeline

    with tempfile.TemporaryDirectory(prefix="conceptctl-") as name:
        try:
            pipeline = StableDiffusionPipeline.from_single_file(str(path), safety_checker=None)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise NotFound(
                f"{path.name}: its configuration and vocabulary cannot be had from here, or it is no checkpoint of"
                " the Stable Diffusion architecture",
                hint="conceptctl init --base FOLDER, with the same model as a diffusers folder",
            ) from error
        pipeline.save_pretrained(name, safe_serialization=True)
        yield Path(name)
