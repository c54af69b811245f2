"""Trains the bundled base: `python -m conceptctl.pocket.train --stage all`."""

from __future__ import annotations

import argparse
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from conceptctl.pocket.bundle import WEIGHTS
from conceptctl.pocket.train.base import write_base
from conceptctl.pocket.train.loop import Recipe, Stage, Trainer
from conceptctl.pocket.train.trained import bundled_weights

STAGES = ("vae", "clip", "judge", "unet")
"""In the order in which they need each other."""
LATER = "decoder"
"""What can be trained on by itself when the others are done."""


def main() -> None:
    """Train one stage, or all in order and write the base; or only write it, from what is trained."""
    parser = argparse.ArgumentParser(prog="python -m conceptctl.pocket.train", description=__doc__)
    parser.add_argument("--stage", choices=(*STAGES, LATER, "all", "write"), default="all")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--minutes", type=float, help="time for each stage, earlier runs of it included")
    parser.add_argument("--workspace", type=Path, default=Path("pocket-training"), help="folder of the checkpoints")
    parser.add_argument("--further", action="store_true", help="where there is no checkpoint, begin with what ships")
    parser.add_argument("--threads", type=int, help="CPU threads for the network")
    parser.add_argument(
        "--target", type=Path, default=WEIGHTS, help="folder that --stage all and write put the base in"
    )
    options = parser.parse_args()
    name = options.device if options.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    if options.stage == "write" and not any(options.workspace.glob("*.safetensors")):
        parser.error(f"there is no checkpoint in {options.workspace}")
    options.workspace.mkdir(parents=True, exist_ok=True)
    chosen = STAGES if options.stage == "all" else () if options.stage == "write" else (options.stage,)
    for stage_name in chosen:
        stage, recipe = _stage(stage_name, device, options.workspace)
        begun = (options.workspace / f"{stage_name}.safetensors").exists()
        # The decoder begins with the autoencoder that is there in any case.
        if options.further and not begun and stage_name != LATER:
            stage.network.load_state_dict(bundled_weights(stage_name), strict=False)
        Trainer(stage, recipe, options.workspace, device, minutes=options.minutes).run()
    if options.stage in ("all", "write"):
        write_base(options.workspace, options.target)


def _stage(name: str, device: torch.device, workspace: Path) -> tuple[Stage[Any, Any], Recipe]:
    # On a GPU the pictures are the bottleneck: they are rendered by every core but two.
    workers = max(1, (os.cpu_count() or 4) - 2) if device.type == "cuda" else 0
    module = import_module(f"conceptctl.pocket.train.{name}")
    recipe: Recipe = module.RECIPES[device.type]
    make = {
        "vae": lambda: module.VaeStage(device, batch=recipe.batch, workers=workers),
        "decoder": lambda: module.DecoderStage(device, workspace, batch=recipe.batch, workers=workers),
        "clip": lambda: module.ClipStage(device, workspace, batch=recipe.batch, workers=workers),
        "judge": lambda: module.JudgeStage(device, workspace, batch=recipe.batch, workers=workers),
        "unet": lambda: module.UnetStage(device, workspace, batch=recipe.batch, workers=workers),
    }
    return make[name](), recipe


if __name__ == "__main__":
    main()
