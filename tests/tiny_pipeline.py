"""A Stable Diffusion pipeline of a few thousand random weights, on disk, in the shape of the real ones."""

from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from conceptctl.pocket.train.vocabulary import LENGTH, build_tokenizer

PREDICTING_BOTH = pytest.mark.parametrize("base_folder", ["epsilon", "v_prediction"], indirect=True, scope="module")
"""For what depends on how a prediction is read, in the loss or by a scheduler; of which `tests/learning`,
`tests/diffusion` and the contract of the methods have both throughout."""
WIDTH = 16


def write_tiny_pipeline(folder: Path, *, prediction_type: str = "epsilon", side: int = 16, levels: int = 2) -> Path:
    """Write an SD 1.x-shaped pipeline, or with "v_prediction" one like SD 2.x: pictures of 16 x 16, or `side`.

    Like SD 2.x means: linear projections, heads by level, another activation in the text tower, prompts padded
    with "!". The autoencoder has so many levels; each but one halves the sides.
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
        sample_size=side >> (levels - 1),
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
        vae=_tiny_vae(side, levels),
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


def _tiny_vae(side: int = 16, levels: int = 2, **others) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=side,
        **others,
    )


def write_tiny_sdxl(folder: Path, *, side: int = 16, levels: int = 2) -> Path:
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
        sample_size=side >> (levels - 1),
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
        vae=_tiny_vae(side, levels),
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


FLOW_VAE = {"scaling_factor": 1.5, "shift_factor": 0.06, "use_quant_conv": False, "use_post_quant_conv": False}
"""What autoencoders of models with rectified flows have, and others not."""


def _tiny_clip(tokenizer, width: int, *, projection: bool = True):
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=WIDTH,
        projection_dim=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def _tiny_t5(width: int) -> tuple[T5TokenizerFast, T5EncoderModel]:
    """A T5 encoder with a vocabulary of whole words and letters, which minds the case, and with rows to spare."""
    letters = [chr(each) for each in range(33, 127)]
    words = ["a", "photo", "of", "cat", "dog", "in", "the", "snow", "person"]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    pieces += [(f"\u2581{word}", -1.0) for word in words] + [(letter, -5.0) for letter in letters]
    tokenizer = T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=512)
    config = T5Config(
        vocab_size=len(tokenizer) + 1,
        d_model=width,
        d_kv=8,
        d_ff=WIDTH,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    return tokenizer, T5EncoderModel(config)


def write_tiny_sd3(folder: Path, *, t5: bool = True) -> Path:
    """Write an SD3-shaped pipeline, with T5 or without, as folders often come: pictures of 16 x 16."""
    torch.manual_seed(0)
    tokenizers = [build_tokenizer(folder / name) for name in ("tokenizer", "tokenizer_2")]
    tokenizers[1].pad_token = "!"
    last = _tiny_t5(3 * WIDTH) if t5 else (None, None)
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=3,
        joint_attention_dim=3 * WIDTH,
        caption_projection_dim=24,
        pooled_projection_dim=16,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_tiny_vae(**FLOW_VAE),
        text_encoder=_tiny_clip(tokenizers[0], WIDTH),
        tokenizer=tokenizers[0],
        text_encoder_2=_tiny_clip(tokenizers[1], 3 * WIDTH // 2),
        tokenizer_2=tokenizers[1],
        text_encoder_3=last[1],
        tokenizer_3=last[0],
    )
    pipeline.save_pretrained(folder)
    return folder


def write_tiny_flux(folder: Path, *, distilled: bool = True) -> Path:
    """Write a FLUX.1-shaped pipeline, as dev (told how closely to follow) or as schnell: pictures of 16 x 16."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(folder / "tokenizer")
    second, t5 = _tiny_t5(2 * WIDTH)
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=3,
        joint_attention_dim=2 * WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=distilled,
        axes_dims_rope=(2, 2, 4),
    )
    shifted = {"use_dynamic_shifting": True, "shift": 3.0} if distilled else {"shift": 1.0}
    pipeline = FluxPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(**shifted),
        vae=_tiny_vae(**FLOW_VAE),
        text_encoder=_tiny_clip(tokenizer, WIDTH, projection=False),
        tokenizer=tokenizer,
        text_encoder_2=t5,
        tokenizer_2=second,
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
