"""Counts the memory that learning takes on Stable Diffusion 1.5 and XL, in bytes of tensors: without a GPU or weights.

python benchmarks/memory.py                  # both, STAMINA and what it is compared with
python benchmarks/memory.py --base sd1 --methods stamina lora

Networks are made on torch's `meta` device and run forward and backward (`conceptctl.diffusion.memory`). What a method's
adapters take is counted with numbers, on a tenth and on a fifth of the targets: for all of them it goes on in a line.
It is that of a second concept, which has what the first one changed beside it where the method asks for that.
"peft" is the LoRA of that library on the same projections, put on the same network and counted in the same way.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import torch
from torch import Tensor, nn

from conceptctl.diffusion.memory import (
    LiveBytes,
    fused_attention,
    text_training_peak,
    training_peak,
    unet_training_peak,
)
from conceptctl.learning.method import Method, Task
from conceptctl.learning.weights import Deltas
from conceptctl.methods import find_method
from conceptctl.parts.stack_and_mask import NO_MASK, StackAndMask
from conceptctl.presets import shipped
from conceptctl.workflows.learn.memory import AdapterBytes, adapter_bytes, fit

GB = 10**9
TOKENS = 77
PRESETS = {"sd1": "sd", "sdxl": "sdxl"}
SIDES = {"sd1": 64, "sdxl": 128}
"""Of latents: pictures of 512 and 1024 pixels."""
ROOM = {"sd1": 8 * GB, "sdxl": 12 * GB}
BATCH = 16
"""Eight pictures of the concept and eight of its class."""
SHARES = (10, 5)
"""Of so many targets of a shape, one is counted: twice, for what grows with their number and for what does not."""
DTYPE = torch.bfloat16


@dataclass(frozen=True, eq=False)
class Base:
    """A base by its configurations."""

    name: str
    unet: dict[str, Any]
    vae: dict[str, Any]
    weights: int
    """Bytes of U-Net and text encoders; the autoencoder is off the device while a concept is learned."""
    shapes: dict[str, tuple[int, int]]
    """Of the targets, by name."""
    encoders: tuple[Any, ...]


@cache
def base(name: str) -> Base:
    import transformers
    from diffusers import UNet2DConditionModel

    files = json.loads((resources.files("conceptctl.formats.architectures") / f"{name}.json").read_text())
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel.from_config(files["unet/config.json"])
        encoders = []
        for place, kind in (("text_encoder", "CLIPTextModel"), ("text_encoder_2", "CLIPTextModelWithProjection")):
            if f"{place}/config.json" in files:
                config = transformers.CLIPTextConfig(**files[f"{place}/config.json"])
                encoders.append(getattr(transformers, kind)(config).to(DTYPE))
    ends = ("attn2.to_k.weight", "attn2.to_v.weight")
    shapes = {each: tuple(weight.shape) for each, weight in unet.named_parameters() if each.endswith(ends)}
    count = sum(parameter.numel() for module in (unet, *encoders) for parameter in module.parameters())
    return Base(
        name, files["unet/config.json"], files["vae/config.json"], count * DTYPE.itemsize, shapes, tuple(encoders)
    )  # type: ignore[arg-type]


def activations(of: Base, micro_batch: int, checkpointing: bool) -> int:
    """What the networks hold of so many samples, K and V among what has gradients."""
    side = SIDES[of.name]
    return unet_training_peak(
        of.unet, of.shapes, shape=(4, side, side), micro_batch=micro_batch, tokens=TOKENS, dtype=DTYPE,
        checkpointing=checkpointing,
    ) + sum(text_training_peak(encoder, micro_batch, TOKENS) for encoder in of.encoders)  # fmt: skip


def some_targets(of: Base, share: int) -> dict[str, tuple[int, int]]:
    """Of the targets of each shape one in so many, and at least one."""
    seen: dict[tuple[int, int], int] = {}
    found = {}
    for path, shape in of.shapes.items():
        if seen.setdefault(shape, 0) % share == 0:
            found[path] = shape
        seen[shape] += 1
    return found


@cache
def own_bytes(of: Base, method: str) -> AdapterBytes:
    """What a method's adapters take in a step of a second concept as a GPU draws it, for all targets."""
    (few, before), (more, after) = (counted(of, method, some_targets(of, share)) for share in SHARES)
    entries = sum(rows * columns for rows, columns in of.shapes.values())

    def whole(before: int, after: int) -> int:
        return before + (after - before) * (entries - few) // (more - few)

    made = usual(of, method)
    # It is there as long as the training, whatever else is.
    change = DTYPE.itemsize * entries if made.config.needs_change else 0
    # A CPU has a table of noise; a GPU draws that of one projection where it is used.
    masked = isinstance(made, StackAndMask) and made.config.mask != NO_MASK
    noise = 4 * max(rows * columns for rows, columns in of.shapes.values()) if masked else 0
    return AdapterBytes(
        # The values too, which `learn` has on the device before it counts.
        whole(before.lasting, after.lasting) * 4 // 3 + change,
        whole(before.held, after.held) + noise,
        whole(before.alone, after.alone) + noise,
    )


def usual(of: Base, method: str) -> Method:
    """A method as `learn` makes it on such a base."""
    found = find_method(method)
    return found(found.configuration(**shipped()[PRESETS[of.name]].settings(method)))


def counted(of: Base, method: str, shapes: dict[str, tuple[int, int]]) -> tuple[int, AdapterBytes]:
    """How many entries some targets have, and what a method's adapters take for these alone."""
    made = usual(of, method)
    projections = {path: nn.Linear(shape[1], shape[0], bias=False, dtype=DTYPE) for path, shape in shapes.items()}
    for module in projections.values():
        module.requires_grad_(False)
    rows = {f"text{index}": torch.zeros(1, each.config.hidden_size) for index, each in enumerate(of.encoders)}
    change = Deltas.of({path: torch.ones(shape, dtype=DTYPE) for path, shape in shapes.items()})
    trainable = made.attach(Task(shapes, rows, change=change))
    # What a CPU makes once is there before anything is counted.
    trainable.deltas(torch.Generator())
    return sum(a * b for a, b in shapes.values()), adapter_bytes(trainable, projections)


def of_peft(of: Base, rank: int, micro_batch: int, checkpointing: bool) -> int:
    """What a step of peft's LoRA takes: activations, and three times its parameters in fp32."""
    from diffusers import UNet2DConditionModel
    from peft import LoraConfig

    side = SIDES[of.name]
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel.from_config(of.unet)
        for parameter in unet.parameters():
            parameter.data = parameter.data.to(DTYPE)
        unet.requires_grad_(False)
        unet.add_adapter(LoraConfig(r=rank, target_modules=r".*attn2\.(to_k|to_v)"))
    if checkpointing:
        unet.enable_gradient_checkpointing()
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()

    def empty(*sizes: int, of: torch.dtype = DTYPE) -> Tensor:
        return torch.empty(micro_batch, *sizes, dtype=of, device="meta")

    latents, times = empty(4, side, side), torch.empty(micro_batch, dtype=torch.long, device="meta")
    states, more = empty(TOKENS, unet.config.cross_attention_dim), {}
    if unet.config.addition_embed_type:
        more["added_cond_kwargs"] = {"text_embeds": empty(1280), "time_ids": empty(6, of=torch.float32)}

    def run() -> Tensor:
        found: Tensor = unet(latents, times, encoder_hidden_states=states, **more).sample
        return found

    text = sum(text_training_peak(encoder, micro_batch, TOKENS) for encoder in of.encoders)
    parameters = sum(parameter.numel() * 4 for parameter in trained)
    # Its gradients are counted with the rest; its weights are no part of the base.
    return parameters + 2 * parameters + training_peak(unet, [*trained, states], run, [latents, times]) + text


@torch.no_grad()
def drawing_bytes(of: Base) -> tuple[int, int]:
    """What drawing eight pictures takes beside weights: in the U-Net with guidance, in the autoencoder one by one."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    from conceptctl.workflows.drawing import BATCH as PICTURES

    side, count = SIDES[of.name], 2 * PICTURES
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel.from_config(of.unet)
        vae: Any = AutoencoderKL.from_config(of.vae)
    for parameter in (*unet.parameters(), *vae.parameters()):
        parameter.data = parameter.data.to(DTYPE)

    def empty(*sizes: int, of: torch.dtype = DTYPE) -> Tensor:
        return torch.empty(*sizes, dtype=of, device="meta")

    more = {}
    if unet.config.addition_embed_type:
        more["added_cond_kwargs"] = {"text_embeds": empty(count, 1280), "time_ids": empty(count, 6, of=torch.float32)}
    latents, states = empty(count, 4, side, side), empty(count, TOKENS, unet.config.cross_attention_dim)
    times = empty(count, of=torch.long)
    denoising = peak_of(unet, lambda: unet(latents, times, encoder_hidden_states=states, **more), latents, states)
    return denoising, peak_of(vae, lambda: vae.decode(latents[:1]), latents)


def peak_of(network: nn.Module, run: Callable[[], Any], *known: Tensor) -> int:
    """The most bytes at once beside weights and inputs."""
    with fused_attention(), LiveBytes([*network.parameters(), *network.buffers(), *known]) as live:
        run()
    return live.peak


def rows(names: list[str], methods: list[str]) -> Iterator[dict[str, Any]]:
    for name in names:
        found = base(name)
        for method in methods:
            own = own_bytes(found, method)

            def needed(micro_batch: int, checkpointing: bool, found: Base = found, own: AdapterBytes = own) -> int:
                one, two = (activations(found, count, checkpointing) for count in (1, 2))
                return own.with_activations(one + (two - one) * (micro_batch - 1))

            for room in (ROOM[name], 0):
                # What a card calls 8 GB is less when a screen hangs on it.
                chosen = fit(needed, BATCH, int(0.95 * room) - found.weights)
                micro_batch, again = chosen.micro_batch or BATCH, chosen.checkpointing
                step = needed(micro_batch, again)
                peft = of_peft(found, 16, micro_batch, again)
                yield {
                    "base": name, "method": method, "room": room / GB,
                    "micro_batch": micro_batch, "checkpointing": again,
                    "weights": found.weights / GB, "step": step / GB, "all": (found.weights + step) / GB,
                    "peft": (found.weights + peft) / GB, "over_peft": (step - peft) / GB,
                    "own_lasting": own.lasting / GB, "own_held": own.held / GB, "own_alone": own.alone / GB,
                }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--methods", nargs="+", default=["stamina", "lora", "ti++"])
    parser.add_argument("--json", action="store_true", help="every figure, a line each")
    options = parser.parse_args()
    out = sys.stdout
    if not options.json:
        out.write("| base | method | room | at a time | checkpointed | weights | step | all | over peft |\n")
        out.write("|---|---|---|---|---|---|---|---|---|\n")
    for row in rows(options.base, options.methods):
        if options.json:
            out.write(json.dumps(row) + "\n")
            continue
        room = f"{row['room']:.0f} GB" if row["room"] else "least"
        out.write(
            f"| {row['base']} | {row['method']} | {room} | {row['micro_batch']} of {BATCH} | "
            f"{'yes' if row['checkpointing'] else 'no'} | {row['weights']:.2f} | {row['step']:.2f} | "
            f"{row['all']:.2f} | {row['over_peft']:+.2f} |\n"
        )
        out.flush()
    for name in options.base if not options.json else ():
        denoising, decoding = drawing_bytes(base(name))
        out.write(f"\n{name}: drawing eight pictures takes {denoising / GB:.2f} GB beside the weights in the U-Net, ")
        out.write(f"and {decoding / GB:.2f} GB in the autoencoder, one by one\n")


if __name__ == "__main__":
    main()
