"""A pipeline as one file in the layout of the original Stable Diffusion code, as most checkpoints are passed on."""

import re
from pathlib import Path

from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
WHOLE = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}


def write_single_file(folder: Path, path: Path) -> Path:
    """Write a diffusers folder with blocks of one layer as one file."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    tensors = {}
    for name, weight in pipeline.unet.state_dict().items():
        tensors[f"model.diffusion_model.{_unet_name(name, pipeline.unet)}"] = weight
    levels = len(pipeline.vae.config.block_out_channels)
    for name, weight in pipeline.vae.state_dict().items():
        plain = _vae_name(name, levels)
        is_convolution = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", plain)
        tensors[f"first_stage_model.{plain}"] = weight[:, :, None, None] if is_convolution else weight
    for name, weight in pipeline.text_encoder.state_dict().items():
        tensors[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = weight
    save_file({name: weight.contiguous() for name, weight in tensors.items()}, path)
    return path


def _unet_name(name: str, unet) -> str:
    places = dict(WHOLE)
    number = 1
    for level in range(len(unet.config.down_block_types)):
        places[f"down_blocks.{level}.resnets.0"] = f"input_blocks.{number}.0"
        places[f"down_blocks.{level}.attentions.0"] = f"input_blocks.{number}.1"
        places[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{number + 1}.0.op"
        number += 2
    number = 0
    for level, kind in enumerate(unet.config.up_block_types):
        for layer in range(2):
            places[f"up_blocks.{level}.resnets.{layer}"] = f"output_blocks.{number}.0"
            places[f"up_blocks.{level}.attentions.{layer}"] = f"output_blocks.{number}.1"
            number += 1
        after = 2 if "CrossAttn" in kind else 1
        places[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{number - 1}.{after}.conv"
    before = max((each for each in places if name.startswith(each + ".")), key=len)
    rest = name[len(before) + 1 :]
    if ".resnets." in before:
        rest = _renamed(rest, RESNET)
    return f"{places[before]}.{rest}"


def _vae_name(name: str, levels: int) -> str:
    half, _, rest = name.partition(".")
    if half in ("quant_conv", "post_quant_conv"):
        return name
    if found := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|downsamplers|upsamplers)\.(\d+)\.(.+)", rest):
        direction, level, kind, layer, rest = found.groups()
        level = int(level) if direction == "down" else levels - 1 - int(level)
        if kind != "resnets":
            return f"{half}.{direction}.{level}.{kind.removesuffix('rs')}.{rest.removeprefix('0.')}"
        return f"{half}.{direction}.{level}.block.{layer}.{rest.replace('conv_shortcut', 'nin_shortcut')}"
    if found := re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)", rest):
        kind, layer, rest = found.groups()
        if kind == "resnets":
            return f"{half}.mid.block_{int(layer) + 1}.{rest.replace('conv_shortcut', 'nin_shortcut')}"
        return f"{half}.mid.attn_1.{_renamed(rest, ATTENTION)}"
    return f"{half}.{rest.replace('conv_norm_out', 'norm_out')}"


def _renamed(name: str, names: dict[str, str]) -> str:
    before = next(each for each in names if name.startswith(each + "."))
    return names[before] + name[len(before) :]
