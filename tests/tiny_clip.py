"""A whole CLIP model of a few thousand random weights, on disk, in the shape of the real ones."""

from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from conceptctl.pocket.train.vocabulary import LENGTH, build_tokenizer

PROJECTION = 12


def write_tiny_clip(folder: Path, *, seed: int = 0) -> Path:
    """Write a CLIP model with its tokenizer and image processor: pictures of 16 x 16, features of 12 numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = CLIPTextConfig(
        **sizes,
        vocab_size=len(tokenizer),
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
        # Far from the usual 1: with the usual start all random towers give almost the same features for everything.
        initializer_factor=8.0,
    )
    vision = CLIPVisionConfig(**sizes, image_size=16, patch_size=4, initializer_factor=8.0)
    torch.manual_seed(seed)
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=PROJECTION, initializer_factor=8.0
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder
