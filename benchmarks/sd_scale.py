"""What a training step costs at the size of Stable Diffusion: time and memory, beside a plain loop with peft's LoRA.

    python benchmarks/sd_scale.py                        # SD 1.5's size, 256 px, on a CPU; random weights
    python benchmarks/sd_scale.py --device cuda --side 512 --batch 1 4
    python benchmarks/sd_scale.py --size sdxl --device cuda --side 1024

Every variant has a process of its own, so that memory is its own; rounds go through all variants, so that what else the
machine does falls on all alike. Weights are random: no figure depends on their values. On a CPU the time is the
process's own, and memory its largest resident set; on a GPU both are the device's.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

PEER = "peft LoRA"
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "TI++": ("ti++", {}),
    "LoRA": ("lora", {}),
    "STAMINA, low-rank mask": ("stamina", {"mask": "low-rank"}),
    "STAMINA, collapsed mask": ("stamina", {"mask": "collapsed"}),
    "STAMINA, direct mask": ("stamina", {"mask": "direct"}),
    "Custom Diffusion, full K and V": ("cd", {}),
}
"""What is compared, by the method and its settings; a literal mask does not fit beside anything else."""
WARM_UP = 1
RANK = 16
PROMPT, PRIOR = "a photo of a V*alice", "a photo of a person"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("sd1", "sdxl"), default="sd1")
    parser.add_argument("--side", type=int, default=256, help="of the pictures, in pixels")
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--steps", type=int, default=3, help="steps that count, in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    parser.add_argument("--only", nargs="+", choices=[PEER, *VARIANTS])
    parser.add_argument("--child", choices=[PEER, *VARIANTS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("there is no GPU here that torch can use; benchmarks/memory.py needs none")
    if options.child:
        print(json.dumps(measure(options.child, options)))
        return
    for batch in options.batch:
        compare(batch, options)


def compare(batch: int, options: argparse.Namespace) -> None:
    """Measure every variant, round by round, and print the table."""
    chosen = options.only or [PEER, *VARIANTS]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in chosen}
    for number in range(options.rounds):
        for name in chosen:
            found[name].append(in_a_process(name, batch, options))
            print(f"round {number + 1}: {name}: {found[name][-1]}", file=sys.stderr, flush=True)
    print(f"\n{options.size} size, {options.side} px, batch {batch}, {options.device}, {options.rounds} rounds\n")
    print(f"| | step, s (median) | over {PEER} | peak memory, GB |\n|---|---|---|---|")
    for name, runs in found.items():
        times = [run["seconds"] for run in runs]
        # Of one round each: what the machine did then falls on both.
        ratios = [run["seconds"] / peer["seconds"] for run, peer in zip(runs, found.get(PEER, runs), strict=True)]
        memory = statistics.median(run["bytes"] for run in runs) / 1e9
        print(
            f"| {name} | {statistics.median(times):.3f} | {statistics.median(ratios):.3f} | {memory:.2f} |", flush=True
        )


def in_a_process(name: str, batch: int, options: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", name, "--batch", str(batch)]
    for option in ("size", "side", "steps", "device", "threads"):
        command += [f"--{option}", str(getattr(options, option))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Take steps of one variant and return the time of one, and the largest memory."""
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    (batch,) = options.batch
    backbone = random_backbone(options.size, options.side, device)
    moments: list[float] = []

    def tick() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()
            moments.append(time.perf_counter())
        else:
            moments.append(time.process_time())

    latents = torch.randn(2 * batch, 4, options.side // 8, options.side // 8, device=device)
    run = peft_steps if name == PEER else method_steps(*VARIANTS[name])
    run(backbone, latents, batch, WARM_UP + options.steps, tick)
    spans = [after - before for before, after in zip(moments[WARM_UP:], moments[WARM_UP + 1 :], strict=False)]
    if device.type == "cuda":
        size = torch.cuda.max_memory_allocated()
    else:
        size = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": statistics.median(spans), "bytes": float(size)}


def random_backbone(size: str, side: int, device: torch.device) -> Any:
    """A pipeline of the published sizes and of random weights: bf16 on a GPU, fp32 on a CPU."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
    from transformers import CLIPTokenizer

    from conceptctl.diffusion.backbone import LatentBackbone
    from conceptctl.families import find_family
    from conceptctl.formats.architectures import configurations, vocabulary

    configs = configurations(size)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    parts = empty_networks(configs, side)
    for module in parts.values():
        module.to(dtype).to_empty(device=device)
        fill(module)
    with tempfile.TemporaryDirectory() as folder:
        for name, data in vocabulary().items():
            (Path(folder) / name).write_bytes(data)
        for encoder in [each for each in parts if each.startswith("text")]:
            parts[encoder.replace("text_encoder", "tokenizer")] = CLIPTokenizer.from_pretrained(
                folder, model_max_length=77
            )
    scheduler = DDIMScheduler.from_config(configs["scheduler/scheduler_config.json"])
    if size == "sdxl":
        pipeline = StableDiffusionXLPipeline(**parts, scheduler=scheduler, add_watermarker=False)
    else:
        without = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipeline = StableDiffusionPipeline(**parts, scheduler=scheduler, **without)
    return LatentBackbone(pipeline, find_family("sdxl" if size == "sdxl" else "sd").FAMILY)


def empty_networks(configs: dict[str, Any], side: int) -> dict[str, Any]:
    """The networks of a pipeline by name, on the meta device: shapes, and no numbers."""
    from diffusers import AutoencoderKL
    from diffusers import UNet2DConditionModel as Unet
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with torch.device("meta"):
        parts = {
            "unet": Unet.from_config({**configs["unet/config.json"], "sample_size": side // 8}),
            # Nothing is encoded or drawn here.
            "vae": AutoencoderKL(latent_channels=4),
        }
        for encoder, kind in (("text_encoder", CLIPTextModel), ("text_encoder_2", CLIPTextModelWithProjection)):
            if f"{encoder}/config.json" in configs:
                parts[encoder] = kind(CLIPTextConfig(**configs[f"{encoder}/config.json"]))
    return parts


@torch.no_grad()
def fill(module: torch.nn.Module) -> None:
    """Give all weights values of a usual size, without drawing a billion numbers; positions are positions."""
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if not value.is_floating_point():
            value.copy_(torch.arange(value.numel()).view_as(value))
        elif value.ndim > 1:
            value.uniform_(-1, 1).mul_(value[0].numel() ** -0.5)
        else:
            value.fill_(float("norm" in name and name.endswith("weight")))


def peft_steps(backbone: Any, latents: torch.Tensor, batch: int, steps: int, tick: Callable[[], None]) -> None:
    """The peer: diffusers' text-to-image LoRA loop in its essentials, on the same projections at the same rank."""
    from diffusers import DDPMScheduler
    from peft import LoraConfig

    from conceptctl.learning.backbone import Noising

    backbone.freeze()
    unet = backbone.pipeline.unet
    targets = [name.removesuffix(".weight").removeprefix("unet/") for name in backbone.targets()]
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets))
    trained = [each for each in unet.parameters() if each.requires_grad]
    for each in trained:
        each.data = each.data.float()
    optimizer = torch.optim.AdamW(trained, lr=5e-4)
    schedule = DDPMScheduler.from_config(backbone.pipeline.scheduler.config)
    conditions = backbone.conditions([PRIOR] * batch, ())
    objective = backbone.objective(Noising(), autocast=lambda: torch.autocast(latents.device.type, torch.bfloat16)
                                   if latents.is_cuda else torch.autocast("cpu", enabled=False))  # fmt: skip
    tick()
    for _ in range(steps):
        clean = latents[:batch]
        noise = torch.randn_like(clean)
        times = torch.randint(0, schedule.config.num_train_timesteps, (batch,), device=clean.device)
        noised = objective._noised(clean, noise, times)
        condition = conditions.of_prompt(PRIOR, torch.arange(batch))
        loss = torch.nn.functional.mse_loss(objective.predict(noised, condition), noised.target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tick()


def method_steps(method: str, settings: dict[str, Any]) -> Callable[..., None]:
    """The program's own loop with one of its methods, in the papers' settings."""

    def run(backbone: Any, latents: torch.Tensor, batch: int, steps: int, tick: Callable[[], None]) -> None:
        from conceptctl.learning.examples import Examples
        from conceptctl.learning.loop import Listener, train
        from conceptctl.learning.processes import make_accelerator
        from conceptctl.learning.weights import shapes_of
        from conceptctl.methods import find_method
        from conceptctl.workflows.learn.task import make_task

        found = find_method(method)
        given = {"steps": steps, "batch_size": batch, "auxiliary_batch": 0, **settings}
        made = found(found.configuration(**given))
        start = backbone.token_start("person")
        token_id = backbone.add_token("alice", start)
        shapes = shapes_of(backbone.targets())
        # As for a second concept: what earlier ones changed is one matrix each, however many they are.
        change = {path: torch.rand(shape) * 1e-3 for path, shape in shapes.items()}
        task = make_task(
            backbone,
            made,
            token_ids=[token_id],
            token_start=start,
            prompt=PROMPT,
            class_word="person",
            earlier=[],
            names=[],
            change=change,
            seed=0,
        )
        trainable = made.attach(task).to(latents.device)
        accelerator = make_accelerator(latents.device, "bf16" if latents.is_cuda else "no")
        examples = Examples(latents, [PROMPT] * len(latents), len(latents))
        train(
            backbone,
            [token_id],
            made,
            task,
            trainable,
            examples,
            accelerator=accelerator,
            listener=Listener(step=lambda done: tick(), save_seconds=1e9),
        )

    return run


if __name__ == "__main__":
    main()
