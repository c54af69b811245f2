"""A checkpoint in one file, laid out as a diffusers folder: no network, and one tensor in memory at a time."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conceptctl.errors import ImportRefused, NotFound
from conceptctl.formats import foreign
from conceptctl.formats.architectures import Configurations, configurations, vocabulary
from conceptctl.formats.original_layout import Place, clip_place, open_clip_place, unet_place, vae_place
from conceptctl.progress import Progress, counted, ignore
from conceptctl.store import tensorfile
from conceptctl.store.base import FLOATS
from conceptctl.store.tensorfile import Encoded, Header, Tensor, TensorInfo

FOLDER_HINT = "conceptctl init --base FOLDER, with the same model as a diffusers folder"
FIRST_ENCODER, SECOND_ENCODER = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
ONLY_ENCODER, ONLY_OPEN_ENCODER = "cond_stage_model.transformer.", "cond_stage_model.model."
_AS_FOLDER = "as a diffusers folder: conceptctl init --base FOLDER, or --base OWNER/NAME from the hub"
_BASE_OF_XL = "a base is Stable Diffusion 1, 2 or XL, whole"
_ON_A_STORE = "conceptctl import FILE, into a store on the base that it was learned on"
_OTHERS = (
    ("lora_", "a LoRA and no checkpoint; it changes one", _ON_A_STORE),
    ("emb_params", "an embedding and no checkpoint", _ON_A_STORE),
    ("joint_blocks.", "Stable Diffusion 3, which has a transformer in the place of a U-Net", _AS_FOLDER),
    ("double_blocks.", "Flux, which has a transformer in the place of a U-Net", _AS_FOLDER),
    ("conditioner.embedders.0.model.", "the refiner of SDXL, which draws nothing from text alone", _BASE_OF_XL),
)
"""What is no base in one file: a part of a key that it has, what it is, and what to do."""
_V_BIAS = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
_V_DEVIATION = 0.09
"""Where this parameter spreads further, a Stable Diffusion 2 model predicts v, and noise else: so ComfyUI tells them
apart (comfy/supported_models.py)."""


@contextmanager
def converted(
    path: Path,
    *,
    beside: Path | None = None,
    check: Callable[[Path], object] = lambda folder: None,
    progress: Progress = ignore,
) -> Iterator[Path]:
    """Lay a single-file checkpoint out as a diffusers folder for as long as the context lasts; types stay as they are.

    Args:
        path: The checkpoint.
        beside: Where the folder is made, which takes as much room as the file; the system's place by default.
        check: Called with the folder when its configurations are there and its weights are not: refuses models that
            nothing can be done with before gigabytes are written.
        progress: Told how many bytes of the folder's weights are written, and how many are to be.

    Raises:
        ImportRefused: It is no safetensors file, quantized, or another kind of model than can be read from one file.
        NotFound: It is no Stable Diffusion checkpoint, or an unknown one.
    """
    header = tensorfile.read_header(path)
    found = _recognized(path, header)
    with tempfile.TemporaryDirectory(prefix="conceptctl-", dir=beside) as name:
        folder = Path(name)
        _write_texts(folder, found.configs)
        check(folder)
        networks = [(each, _encoded(path, header, each)) for each in found.components()]
        written = counted(progress, sum(encoded.size for _, encoded in networks))
        for component, encoded in networks:
            with (folder / component.name / component.file).open("wb") as stream:
                for piece in encoded:
                    written(stream.write(piece))
        yield folder


@dataclass(frozen=True)
class _Component:
    """One network of a checkpoint: what it is made of, and where that stands."""

    name: str
    file: str
    shapes: Mapping[str, tuple[int, ...]]
    """By the parameter's name in the diffusers folder."""
    place: Callable[[str], Place]


@dataclass(frozen=True)
class _Architecture:
    configs: Configurations
    encoders: Mapping[str, Callable[[str], Place]]
    """Where a text encoder's parameters stand, by its name."""

    def components(self) -> Iterator[_Component]:
        """Every network, with the shapes that its configuration gives it."""
        import torch
        from diffusers import AutoencoderKL, UNet2DConditionModel

        unet, vae = self.configs["unet/config.json"], self.configs["vae/config.json"]
        with torch.device("meta"):
            networks: dict[str, Any] = {
                "unet": UNet2DConditionModel.from_config(unet),
                "vae": AutoencoderKL.from_config(vae),
                **{name: _encoder(self.configs[f"{name}/config.json"]) for name in self.encoders},
            }
        for name, network in networks.items():
            shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
            if name in self.encoders:
                # Hub folders have the prefix, which newer versions of transformers leave out and still read.
                shapes = {_with_prefix(key): shape for key, shape in shapes.items()}
                yield _Component(name, "model.safetensors", shapes, self.encoders[name])
            elif name == "unet":
                yield _Component(name, "diffusion_pytorch_model.safetensors", shapes, lambda key: unet_place(key, unet))
            else:
                yield _Component(name, "diffusion_pytorch_model.safetensors", shapes, lambda key: vae_place(key, vae))


def _encoder(config: Mapping[str, Any]) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    kind = CLIPTextModelWithProjection if "Projection" in config["architectures"][0] else CLIPTextModel
    return kind(CLIPTextConfig(**config))


def _with_prefix(name: str) -> str:
    return name if name.startswith(("text_model.", "text_projection.")) else f"text_model.{name}"


def _recognized(path: Path, header: Header) -> _Architecture:
    """Tell by its keys what a checkpoint holds.

    Raises:
        ImportRefused: It is another kind of model, no model, or quantized.
        NotFound: It has another layout than that of Stable Diffusion 1, 2 and XL.
    """
    keys = header.tensors
    for part, what, hint in _OTHERS:
        if any(part in key for key in keys):
            raise ImportRefused(f"{path.name}: {what}", hint=hint)
    foreign.refuse_quantized(path, header)
    if not any(key.startswith("model.diffusion_model.") for key in keys):
        raise NotFound(f"{path.name}: not a Stable Diffusion checkpoint in one file", hint=FOLDER_HINT)
    if any(key.startswith(SECOND_ENCODER) for key in keys):
        encoders = {"text_encoder": _clip(FIRST_ENCODER), "text_encoder_2": _open_clip(SECOND_ENCODER)}
        configs = configurations("sdxl")
    elif any(key.startswith(ONLY_OPEN_ENCODER) for key in keys):
        encoders = {"text_encoder": _open_clip(ONLY_OPEN_ENCODER)}
        configs = configurations("sd2v" if _predicts_v(path, header) else "sd2")
    elif any(key.startswith(ONLY_ENCODER) for key in keys):
        encoders, configs = {"text_encoder": _clip(ONLY_ENCODER)}, configurations("sd1")
    else:
        raise NotFound(
            f"{path.name}: a U-Net without a text encoder: a part of a checkpoint",
            hint="the whole checkpoint: text encoder and autoencoder are in the file too",
        )
    if "v_pred" in keys:
        # So fine-tuned models say it in their files.
        configs["scheduler/scheduler_config.json"]["prediction_type"] = "v_prediction"
    if "ztsnr" in keys:
        zero = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        configs["scheduler/scheduler_config.json"] |= zero
    return _Architecture(configs, encoders)


def _clip(prefix: str) -> Callable[[str], Place]:
    return lambda name: clip_place(name, prefix)


def _open_clip(prefix: str) -> Callable[[str], Place]:
    return lambda name: open_clip_place(name, prefix)


def _predicts_v(path: Path, header: Header) -> bool:
    from conceptctl.store.weights import to_array

    if said := header.metadata.get("modelspec.prediction_type"):
        return said.startswith("v")
    info = header.tensors.get(_V_BIAS)
    if info is None or info.dtype not in FLOATS:
        return False
    return float(to_array(info, tensorfile.numbers(path, header)).std()) > _V_DEVIATION


def _write_texts(folder: Path, configs: Configurations) -> None:
    for place, config in configs.items():
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")
        if place.endswith("tokenizer_config.json"):
            for name, data in vocabulary().items():
                (target.parent / name).write_bytes(data)


def _encoded(path: Path, header: Header, component: _Component) -> Encoded:
    """Return the file of one network's weights, nearly all of them still in the checkpoint's.

    Raises:
        NotFound: Something is missing, or of another shape than the configurations say.
    """
    view = tensorfile.numbers(path, header)
    tensors = {}
    for name, shape in component.shapes.items():
        try:
            place = component.place(name)
            info = header.tensors[place.key]
        except KeyError as error:
            raise NotFound(
                f"{path.name}: it lacks {error}, which {component.name}/{name} is", hint=FOLDER_HINT
            ) from None
        tensors[name] = _tensor(path, place, info, shape, view)
    return tensorfile.encode(tensors, {"format": "pt"})


def _tensor(path: Path, place: Place, info: TensorInfo, shape: tuple[int, ...], view: memoryview) -> Tensor:
    """Return a parameter as the diffusers folder has it; what stands in the file as it is, is not copied."""
    data: bytes | memoryview = view[info.start : info.end]
    there = info.shape
    if place.third is not None and there and there[0] % 3 == 0:
        size = len(data) // 3
        data, there = data[place.third * size : (place.third + 1) * size], (there[0] // 3, *there[1:])
    if place.transposed and len(there) == 2:
        there = (there[1], there[0])
        data = _transposed(data, there)
    # A 1 x 1 convolution and a matrix are the same numbers.
    if info.dtype not in FLOATS or _without_ones(there) != _without_ones(shape) or math.prod(there) != math.prod(shape):
        raise NotFound(
            f"{path.name}: {place.key} is {info.dtype} of shape {there}, where {shape} is expected: another model than "
            "its keys say",
            hint=FOLDER_HINT,
        )
    return Tensor(info.dtype, shape, data)


def _without_ones(shape: tuple[int, ...]) -> list[int]:
    return [size for size in shape if size != 1]


def _transposed(data: bytes | memoryview, shape: tuple[int, ...]) -> bytes:
    """Exchange rows and columns of numbers of any width."""
    import numpy as np

    rows, columns = shape
    width = len(data) // (rows * columns)
    # As opaque items: no type of numpy's is bf16.
    found = np.frombuffer(data, dtype=f"V{width}").reshape(columns, rows)
    return np.ascontiguousarray(found.T).tobytes()
