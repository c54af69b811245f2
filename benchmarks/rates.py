"""How far a method gets with one concept in a few steps, at several settings: to find the order of its learning rate.

    conceptctl bench data DIR --concepts 1 --seed 7301
    python benchmarks/rates.py DIR/NAME --class WORD --steps 60 lora cd,learning_rate=1e-3 vera,learning_rate=3e-2

All on the bundled base, in batches of 4 without auxiliary pictures, plain prompts and uniform times; a row is the
denoising loss on held-out and on training pictures, the same times and noises each time.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image

from conceptctl import families, pocket
from conceptctl.learning.examples import Examples
from conceptctl.learning.loop import denoising_loss, train
from conceptctl.learning.method import Method, Phase, Task, Trainable
from conceptctl.learning.processes import make_accelerator
from conceptctl.methods import find_method
from conceptctl.presets import shipped
from conceptctl.workflows.learn.plan import plain_prompt
from conceptctl.workflows.learn.task import make_task

BATCH, BATCHES = 4, 4
CPU = torch.device("cpu")


class FirstPhase(Method):
    """A method up to the end of its training."""

    def __init__(self, method: Method) -> None:
        super().__init__(method.config)
        self.method = method

    def phases(self, task: Task, trainable: Trainable) -> Iterator[Phase]:
        yield self.method.training(task, trainable)


def made(spec: str, steps: int) -> Method:
    """NAME,SETTING=VALUE,... as the bundled base's preset has it otherwise."""
    name, *settings = spec.split(",")
    own = {key: float(value) for key, _, value in (each.partition("=") for each in settings)}
    plain = {"prompts": "plain", "timestep_sampling": "uniform"}
    counts = {"steps": steps, "batch_size": BATCH, "auxiliary_batch": 0}
    found = find_method(name)
    return found(found.configuration(**{**shipped()["pocket"].settings(name), **plain, **counts, **own}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a concept's folder: train and heldout in it")
    parser.add_argument("--class", dest="word", required=True)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("specs", nargs="+", metavar="NAME[,SETTING=VALUE...]")
    options = parser.parse_args()
    base = pocket.base_folder()
    backbone = families.recognized(base).load(base, CPU)
    start = backbone.token_start(options.word)
    token_id = backbone.add_token("alice", start)
    accelerator = make_accelerator(CPU, "no")
    encoded = {}
    for part in ("heldout", "train"):
        files = sorted((options.folder / part).glob("*.png"))[:12]
        encoded[part] = backbone.encode([Image.open(file).convert("RGB") for file in files])
    for spec in options.specs:
        method, began = made(spec, options.steps), time.process_time()
        prompt = plain_prompt(method, "alice", options.word)
        task = make_task(
            backbone,
            method,
            token_ids=[token_id],
            token_start=start,
            prompt=prompt,
            class_word=options.word,
        )
        trainable = method.attach(task)
        examples = {part: Examples(each, [prompt] * len(each), len(each)) for part, each in encoded.items()}
        train(backbone, [token_id], FirstPhase(method), task, trainable, examples["train"], accelerator=accelerator)
        schedule = dataclasses.replace(method.config.schedule(0), batch_size=12, p2_gamma=0.0)
        losses = [
            denoising_loss(
                backbone,
                [token_id],
                trainable,
                each,
                schedule,
                accelerator=accelerator,
                batches=BATCHES,
                deltas=trainable.folded(),
            )
            for each in examples.values()
        ]
        said = ", ".join(f"{part} {loss:.4f}" for part, loss in zip(examples, losses, strict=True))
        print(f"{spec}: {said}; {time.process_time() - began:.0f} CPU s", flush=True)


if __name__ == "__main__":
    main()
