"""Writes the bundled base from what the stages trained."""

from __future__ import annotations

import shutil
from pathlib import Path

from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from safetensors.torch import save_file
from transformers import CLIPImageProcessor

from conceptctl.pocket.bundle import JUDGE_FILE, write_manifest
from conceptctl.pocket.train import unet as unet_stage
from conceptctl.pocket.train.trained import (
    load_frozen,
    text_tower,
    tokenizer_folder,
    trained_clip,
    trained_or_bundled_weights,
    trained_vae,
)


def write_base(workspace: Path, target: Path) -> None:
    """Write everything that ships: the pipeline, CLIP, the judge and the manifest, in half precision.

    What stood in the target folder before is replaced. A network without a checkpoint is the one that ships.

    Args:
        workspace: The folder of the stages' checkpoints.
        target: The folder to write, `bundle.WEIGHTS` for the package's own.
    """
    clip, tokenizer = trained_clip(workspace)
    unet = unet_stage.build()
    load_frozen(unet, trained_or_bundled_weights(workspace, "unet"))
    half = [part.half() for part in (trained_vae(workspace), text_tower(clip), unet, clip)]
    vae, text, unet, clip = half
    preprocess = CLIPImageProcessor(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DPMSolverMultistepScheduler(**unet_stage.NOISE, steps_offset=1, timestep_spacing="trailing"),
        safety_checker=None,
        feature_extractor=preprocess,
        requires_safety_checker=False,
    )
    judge = trained_or_bundled_weights(workspace, "judge")
    # Some of it may come from the target.
    fresh = target.with_name(f"{target.name}.partial")
    shutil.rmtree(fresh, ignore_errors=True)
    pipeline.save_pretrained(fresh / "base")
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(tokenizer_folder(workspace) / name, fresh / "base" / "tokenizer" / name)
    clip.save_pretrained(fresh / "clip")
    tokenizer.save_pretrained(fresh / "clip")
    preprocess.save_pretrained(fresh / "clip")
    (fresh / JUDGE_FILE).parent.mkdir()
    save_file({name: value.half() for name, value in judge.items() if value.is_floating_point()}, fresh / JUDGE_FILE)
    write_manifest(fresh)
    former = target.with_name(f"{target.name}.former")
    shutil.rmtree(former, ignore_errors=True)
    if target.exists():
        target.rename(former)
    fresh.rename(target)
    shutil.rmtree(former, ignore_errors=True)
