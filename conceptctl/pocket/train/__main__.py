"""Trains the bundled base: `python -m conceptctl.pocket.train --stage all`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import torch

from conceptctl.pocket.train.loop import Recipe, Stage, Trainer

STAGES = ("vae", "clip", "judge", "unet")


def main() -> None:
    """Train one stage, or all in order."""
    parser = argparse.ArgumentParser(prog="python -m conceptctl.pocket.train", description=__doc__)
    parser.add_argument("--stage", choices=(*STAGES, "all"), default="all")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--minutes", type=float, help="time for each stage, earlier runs of it included")
    parser.add_argument("--workspace", type=Path, default=Path("pocket-training"), help="folder of the checkpoints")
    parser.add_argument("--threads", type=int, help="CPU threads for the network")
    options = parser.parse_args()
    name = options.device if options.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    options.workspace.mkdir(parents=True, exist_ok=True)
    for stage_name in STAGES if options.stage == "all" else (options.stage,):
        stage, recipe = _stage(stage_name, device, options.workspace)
        Trainer(stage, recipe, options.workspace, device, minutes=options.minutes).run()


def _stage(name: str, device: torch.device, workspace: Path) -> tuple[Stage[Any, Any], Recipe]:
    # On a GPU the pictures are the bottleneck: they are rendered by every core but two.
    workers = max(1, (os.cpu_count() or 4) - 2) if device.type == "cuda" else 0
    if name == "vae":
        from conceptctl.pocket.train import vae

        return vae.VaeStage(device, workers=workers), vae.RECIPE
    if name == "clip":
        from conceptctl.pocket.train import clip

        return clip.ClipStage(device, workspace, workers=workers), clip.RECIPE
    if name == "judge":
        from conceptctl.pocket.train import judge

        return judge.JudgeStage(device, workers=workers), judge.RECIPE
    from conceptctl.pocket.train import unet

    return unet.UnetStage(device, workspace, workers=workers), unet.RECIPE


if __name__ == "__main__":
    main()
