"""The layout of checkpoints in one file at full size: against diffusers' own conversion, and keys that are known."""

import json

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from conceptctl.formats.architectures import configurations, vocabulary
from conceptctl.formats.original_layout import clip_place, open_clip_place, unet_place, vae_place

ARCHITECTURES = ("sd1", "sd2", "sd2v", "sdxl")


def shapes(network):
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_unet_is_laid_out_as_diffusers_reads_it(name):
    config = configurations(name)["unet/config.json"]
    with torch.device("meta"):
        network = UNet2DConditionModel.from_config(config)
    names = list(shapes(network))
    keys = [unet_place(each, config).key for each in names]
    assert len(set(keys)) == len(keys)
    # Each tensor says which parameter it is.
    tagged = {key: torch.tensor(index) for index, key in enumerate(keys)}
    back = convert_ldm_unet_checkpoint(tagged, config=dict(network.config))
    assert {each: int(value) for each, value in back.items()} == {each: index for index, each in enumerate(names)}


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_the_autoencoder_is_laid_out_as_diffusers_reads_it(name):
    config = configurations(name)["vae/config.json"]
    with torch.device("meta"):
        network = AutoencoderKL.from_config(config)
    names = list(shapes(network))
    keys = [vae_place(each, config).key for each in names]
    assert len(set(keys)) == len(keys)
    tagged = {key: torch.full((1, 1), index) for index, key in enumerate(keys)}
    back = convert_ldm_vae_checkpoint(tagged, config=dict(network.config))
    assert {each: int(value) for each, value in back.items()} == {each: index for index, each in enumerate(names)}


def test_an_open_clip_encoder_is_laid_out_as_diffusers_reads_it():
    config = CLIPTextConfig(
        hidden_size=1280, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2, projection_dim=1280
    )
    torch.manual_seed(0)
    network = CLIPTextModelWithProjection(config)
    prefix = "conditioner.embedders.1.model."
    written = {}
    for name, value in network.state_dict().items():
        place = open_clip_place(name, prefix)
        if place.third is not None:
            whole = written.setdefault(place.key, torch.zeros(3 * value.shape[0], *value.shape[1:]))
            whole[place.third * value.shape[0] : (place.third + 1) * value.shape[0]] = value
        else:
            written[place.key] = value.T.contiguous() if place.transposed else value
    back = convert_open_clip_checkpoint(network, written, prefix)
    for name, value in network.state_dict().items():
        assert torch.equal(back[name], value)


def test_keys_that_everybody_knows():
    """From the published checkpoints."""
    config = configurations("sd1")["unet/config.json"]
    path = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    known = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
    assert unet_place(path, config).key == known
    assert unet_place("up_blocks.2.upsamplers.0.conv.weight", config).key == (
        "model.diffusion_model.output_blocks.8.2.conv.weight"
    )
    assert unet_place("up_blocks.0.upsamplers.0.conv.bias", config).key == (
        "model.diffusion_model.output_blocks.2.1.conv.bias"
    )
    vae = configurations("sd1")["vae/config.json"]
    assert vae_place("decoder.up_blocks.0.resnets.0.conv_shortcut.weight", vae).key == (
        "first_stage_model.decoder.up.3.block.0.nin_shortcut.weight"
    )
    assert clip_place("embeddings.token_embedding.weight", "cond_stage_model.transformer.").key == (
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    )


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_vocabulary_is_clips(name, tmp_path):
    config = configurations(name)["tokenizer/tokenizer_config.json"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    for file, data in vocabulary().items():
        (tmp_path / file).write_bytes(data)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == 49408
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    padded = tokenizer("", padding="max_length", max_length=4).input_ids
    assert padded[2:] == [0, 0] if name.startswith("sd2") else [49407, 49407]
