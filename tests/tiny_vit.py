"""Vision transformers of random numbers, in transformers' format, and pictures for them."""

import json

import numpy as np
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification

SIDE = 16


def write_tiny_vit(folder, *, layers=2, seed=0):
    """A ViT with a head of its own, as the hub has them, 16 wide."""
    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=SIDE,
        patch_size=8,
        num_labels=3,
    )
    ViTForImageClassification(config).save_pretrained(folder)
    text = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (folder / "preprocessor_config.json").write_text(json.dumps(text))
    return folder


def write_classes(folder, count=4, pictures=5):
    """ImageNet-R's layout: a folder for each class, each of one colour and some noise."""
    rng = np.random.default_rng(0)
    for number in range(count):
        (folder / f"n{number:04d}").mkdir(parents=True)
        colour = rng.integers(0, 200, 3)
        for index in range(pictures):
            pixels = colour + rng.integers(0, 50, (20, 24, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"n{number:04d}" / f"{index}.jpg")
    return folder
