"""A Stable Diffusion pipeline of a few thousand random weights, on disk, in the shape of the real ones."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

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
    pipeline = StableDiffusionPipeline(
        vae=_tiny_vae(),
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


def _tiny_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    )


def write_tiny_sdxl(folder: Path) -> Path:
    """Write an SDXL-shaped pipeline: two text encoders of different widths, pooled states; pictures of 16 x 16."""
    torch.manual_seed(0)
    tokenizers = [build_tokenizer(folder / name) for name in ("tokenizer", "tokenizer_2")]
    tokenizers[1].pad_token = "!"
    text = {
        "vocab_size": len(tokenizers[0]),
        "intermediate_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": LENGTH,
        "bos_token_id": tokenizers[0].bos_token_id,
        "eos_token_id": tokenizers[0].eos_token_id,
    }
    first = CLIPTextConfig(hidden_size=WIDTH, pad_token_id=tokenizers[0].pad_token_id, **text)
    second = CLIPTextConfig(
        hidden_size=2 * WIDTH, projection_dim=8, pad_token_id=tokenizers[1].pad_token_id, hidden_act="gelu", **text
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=3 * WIDTH,
        attention_head_dim=(2, 4),
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        norm_num_groups=4,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=8 + 6 * 4,
    )
    pipeline = StableDiffusionXLPipeline(
        vae=_tiny_vae(),
        text_encoder=CLIPTextModel(first),
        text_encoder_2=CLIPTextModelWithProjection(second),
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        unet=unet,
        scheduler=EulerDiscreteScheduler(steps_offset=1, timestep_spacing="leading"),
        add_watermarker=False,
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
