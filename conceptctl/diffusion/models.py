"""Loads a Stable Diffusion pipeline, where a device and its memory allow it."""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from conceptctl.diffusion.text_encoders import TextEncoders
from conceptctl.errors import DeviceFailed, NotFound, is_out_of_memory

Pipeline = Any
"""A `diffusers.StableDiffusionPipeline` or `StableDiffusionXLPipeline`; diffusers ships no types."""


def choose_device(name: str = "auto") -> torch.device:
    """Choose where to compute.

    Args:
        name: "auto" for CUDA where there is one and the CPU elsewhere, or a torch device.

    Raises:
        DeviceFailed: The device that was asked for is not there.
    """
    if name == "auto":
        # As `accelerate launch --cpu` says it.
        on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
        return torch.device("cuda" if torch.cuda.is_available() and not on_cpu else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise DeviceFailed(f"there is no device {name!r} here", hint="--device auto, cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceFailed("this machine, or this build of torch, has no CUDA", hint="--device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceFailed(f"there is no device {name!r} here", hint="--device auto, cpu or cuda")
    return device


_BF16_FROM = (8, 0)
"""The compute capability from which NVIDIA's GPUs have bf16 (Ampere); older ones go through fp32."""


def has_fast_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 matrices much faster than fp32 ones: GPUs from Ampere on and some CPUs."""
    if device.type == "cuda":
        return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= _BF16_FROM
    # Older versions of torch cannot tell.
    abilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(abilities.get(name, False) for name in ("amx_bf16", "avx512_bf16"))


def drawing_dtype(device: torch.device) -> torch.dtype:
    """What weights are loaded in to draw with: fp32 on a CPU; on a GPU bf16, or fp16 where it has none."""
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if has_fast_bf16(device) else torch.float16


def training_dtype(device: torch.device, precision: str) -> torch.dtype:
    """What weights are loaded in to learn in a precision, `no`, `bf16` or `fp16`.

    On a CPU they stay in fp32, and bf16 is multiplied in.
    """
    halves = {"bf16": torch.bfloat16, "fp16": torch.float16} if device.type == "cuda" else {}
    return halves.get(precision, torch.float32)


_SMALL = 32
"""The side of the largest latents whose attention is made of plain products: what those keep grows with its fourth
power, 4 GB for each of Stable Diffusion's largest in a batch of 16."""


@contextmanager
def plain_attention(unet: nn.Module) -> Iterator[None]:
    """Let the attention of a U-Net for small pictures be plain matrix products.

    The fused one has no bf16 products in its backward pass on a CPU, but keeps far less.
    """
    from diffusers.models.attention_processor import AttnProcessor

    network: Any = unet
    side = network.config.sample_size
    if not isinstance(side, int) or side > _SMALL:
        yield
        return
    before = network.attn_processors
    network.set_attn_processor(AttnProcessor())
    try:
        yield
    finally:
        network.set_attn_processor(before)


@contextmanager
def enough_memory(hint: str) -> Iterator[None]:
    """Say what would help where memory runs out, on a GPU or beside it.

    Args:
        hint: What would help.

    Raises:
        DeviceFailed: It ran out.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        where = "GPU memory" if isinstance(error, torch.OutOfMemoryError) else "memory"
        raise DeviceFailed(f"out of {where}; the store is unchanged", hint=hint) from error


_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1
"""glibc's numbers for two of `mallopt`'s parameters."""


def keep_freed_memory() -> None:
    """Keep in the process what tensors leave, for those that come next, where the C library is glibc.

    Left to itself it gives much of it back after every step, and each page of it costs a fault when it is needed again:
    5 to 8 % of a training step on the bundled base. Whoever sets the allocator's own variables is left alone.
    """
    ours = not {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"} & os.environ.keys()
    if ours and sys.platform.startswith("linux"):
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_MMAP_THRESHOLD, 32 << 20)  # No more is allowed.
            mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def _quieten() -> None:
    """Let both libraries draw no bars and give no advice, which users of this program can do nothing with."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity(logging.ERROR)
        library.disable_progress_bar()


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a diffusers folder; of several, which have one vocabulary, the first.

    Raises:
        NotFound: It is not there, or of another kind.
    """
    _quieten()
    from transformers import CLIPTokenizer

    try:
        return CLIPTokenizer.from_pretrained(folder / "tokenizer")
    except (ValueError, OSError, AttributeError) as error:
        raise NotFound(f"the base has no CLIP tokenizer: {error}") from error


def load_text_encoders(folder: Path, names: Sequence[str], device: torch.device) -> TextEncoders:
    """Load the tokenizers and the text encoders of a diffusers folder, and nothing else of it; fp32 everywhere.

    Args:
        folder: The folder.
        names: The text encoders, of which the last may pool.
        device: Where to.

    Raises:
        NotFound: They are not there, or of another kind.
    """
    _quieten()
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    tokenizers, encoders = [], {}
    try:
        for name in names:
            kind = CLIPTextModel if name == "text_encoder" else CLIPTextModelWithProjection
            tokenizers.append(CLIPTokenizer.from_pretrained(folder / name.replace("text_encoder", "tokenizer")))
            encoder = kind.from_pretrained(folder / name, dtype=torch.float32)
            encoders[name] = encoder.eval().requires_grad_(False).to(device)
    except (ValueError, OSError, AttributeError) as error:
        raise NotFound(f"the base has no CLIP text encoder: {error}") from error
    return TextEncoders(tokenizers, encoders)


def load_pipeline(folder: Path, device: torch.device, *, dtype: torch.dtype | None = None) -> Pipeline:
    """Load a diffusers folder. On a CPU the process keeps what it frees from then on.

    Args:
        folder: A folder that `StableDiffusionPipeline.from_pretrained` loads.
        device: Where to.
        dtype: Of the weights; by default as `drawing_dtype` says.

    Raises:
        NotFound: It is not a pipeline with one text encoder and a cross-attention U-Net.
    """
    _quieten()
    from diffusers import StableDiffusionPipeline

    pipeline = _loaded(
        StableDiffusionPipeline, folder, device, dtype, safety_checker=None, requires_safety_checker=False
    )
    unet, encoder = pipeline.unet.config, pipeline.text_encoder.config
    if (
        unet.addition_embed_type is not None
        or unet.in_channels != pipeline.vae.config.latent_channels
        or unet.cross_attention_dim != encoder.hidden_size
    ):
        raise NotFound(
            "the base is of another kind than Stable Diffusion 1.x and 2.x",
            hint="a text-to-image checkpoint with one text encoder, no inpainting; or SDXL as a whole folder",
        )
    return pipeline


def load_sdxl_pipeline(folder: Path, device: torch.device, *, dtype: torch.dtype | None = None) -> Pipeline:
    """Load a diffusers folder of SDXL; see `load_pipeline`.

    Raises:
        NotFound: It is another kind of pipeline.
    """
    _quieten()
    from diffusers import StableDiffusionXLPipeline

    pipeline = _loaded(StableDiffusionXLPipeline, folder, device, dtype, add_watermarker=False)
    unet, encoders = pipeline.unet.config, (pipeline.text_encoder.config, pipeline.text_encoder_2.config)
    if (
        unet.addition_embed_type != "text_time"
        or unet.in_channels != pipeline.vae.config.latent_channels
        or unet.cross_attention_dim != sum(each.hidden_size for each in encoders)
    ):
        raise NotFound("the base is of another kind than SDXL", hint="the base model of SDXL, not its refiner")
    return pipeline


def load_joint_pipeline(
    kind: str, folder: Path, device: torch.device, *, dtype: torch.dtype | None = None, without: Sequence[str] = ()
) -> Pipeline:
    """Load a diffusers folder whose transformer has joint attention; see `load_pipeline`.

    Args:
        kind: The class of the pipeline, in diffusers.
        folder: The folder.
        device: Where to.
        dtype: Of the weights; by default as `drawing_dtype` says.
        without: Components that the folder does not have, and that the pipeline can do without.

    Raises:
        NotFound: It is another kind of pipeline.
    """
    _quieten()
    import diffusers

    return _loaded(getattr(diffusers, kind), folder, device, dtype, **dict.fromkeys(without))


def _loaded(kind: Any, folder: Path, device: torch.device, dtype: torch.dtype | None, **parts: Any) -> Pipeline:
    if device.type == "cpu":
        keep_freed_memory()
    try:
        pipeline = kind.from_pretrained(folder, dtype=dtype or drawing_dtype(device), **parts)
    except (ValueError, OSError, AttributeError, TypeError, LookupError) as error:
        said = " ".join(str(error).split())
        raise NotFound(
            f"the base cannot be loaded as {kind.__name__}: {said}",
            hint="another copy of the base in a new store: conceptctl init --base ... --store DIR",
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    if device.type == "cuda":
        # Pictures go through the autoencoder one by one: a batch of them at once takes more than the U-Net ever does.
        pipeline.vae.enable_slicing()
    return pipeline.to(device)
