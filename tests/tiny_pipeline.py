"""A Stable Diffusion pipeline of a few thousand random weights, on disk, in the shape of the real ones."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from conceptctl.pocket.train.vocabulary import LENGTH, build_tokenizer

WIDTH = 16


def write_tiny_pipeline(folder: Path, *, prediction_type: str = "epsilon") -> Path:
    """Write an SD 1.x-shaped pipeline, or with "v_prediction" one like SD 2.x: pictures of 16 x 16.

    Like SD 2.x means: linear projections, heads by level, another activation in the text tower, prompts padded
    with "!".
    """
    torch.manual_seed(0)
    second = prediction_type == "v_prediction"
    tokenizer = build_tokenizer(folder / "tokenizer")
    if second:
        tokenizer.pad_token = "!"
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id if second else tokenizer.eos_token_id,
        hidden_act="gelu" if second else "quick_gelu",
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=(2, 4) if second else 2,
        use_linear_projection=second,
        norm_num_groups=4,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(prediction_type=prediction_type, steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


def key_value_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The K and V weights of a pipeline's U-Net, by name."""
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    return {
        name: tuple(weight.shape)
        for name, weight in unet.named_parameters()
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))
    }
