"""One concept on one fresh pipeline of random weights: what tests of methods train."""

from __future__ import annotations

import dataclasses

import torch

from conceptctl import families
from conceptctl.learning.examples import Examples
from conceptctl.learning.loop import denoising_loss, train
from conceptctl.learning.method import Earlier
from conceptctl.learning.processes import make_accelerator
from conceptctl.learning.weights import Deltas, shapes_of
from conceptctl.workflows.learn.plan import plain_prompt
from conceptctl.workflows.learn.task import make_task

CPU = torch.device("cpu")
PRIOR = "a photo of a cat"


class Bench:
    """A method, what it learns from, and the task as `learn` would make it."""

    def __init__(self, folder, method, *, change=True, earlier=(), precision="no", tokens=("alice",), seed=0):
        self.method = method
        self.backbone = families.recognized(folder).load(folder, CPU)
        start = self.backbone.token_start("cat")
        for each in earlier:
            self.backbone.add_token(each, start)
        self.token_ids = [self.backbone.add_token(name, start) for name in tokens]
        generator = torch.Generator().manual_seed(1)
        latents = torch.randn(6, 4, 8, 8, generator=generator)
        prompts = [plain_prompt(method, name, "cat") for name in tokens]
        self.examples = Examples(latents, [prompts[index % len(prompts)] for index in range(4)] + [PRIOR] * 2, 4)
        shapes = shapes_of(self.backbone.targets())
        known = {path: torch.rand(shape, generator=generator) for path, shape in shapes.items()} if change else {}
        self.task = make_task(
            self.backbone,
            method,
            token_ids=self.token_ids,
            token_start={table: torch.cat([row] * len(tokens)) for table, row in start.items()},
            prompt=prompts[0],
            class_word="cat",
            earlier=list(earlier.values()) if earlier else [],
            names=list(earlier),
            change={path: each.abs() for path, each in known.items()},
            to_base=lambda: Deltas.of({path: -each for path, each in known.items()}),
            seed=seed,
        )
        self.accelerator = make_accelerator(CPU, precision)
        self.trainable = method.attach(self.task)

    @property
    def adapter(self):
        return self.trainable.adapter

    def train(self, state=None, listener=None):
        return train(
            self.backbone,
            self.token_ids,
            self.method,
            self.task,
            self.trainable,
            self.examples,
            accelerator=self.accelerator,
            state=state,
            listener=listener,
        )

    def learned(self):
        self.train()
        return self.method.finish(self.task, self.trainable)

    def schedule(self):
        return self.method.config.schedule(self.task.seed)

    def denoising_loss(self, deltas=None, batches=2):
        return denoising_loss(
            self.backbone,
            self.token_ids,
            self.trainable,
            self.examples,
            self.schedule(),
            accelerator=self.accelerator,
            batches=batches,
            deltas=deltas,
        )

    def model(self):
        pipeline = self.backbone.pipeline
        parts = {"unet": pipeline.unet, "text": pipeline.text_encoder, "vae": pipeline.vae}
        return {f"{part}/{name}": value.clone() for part, m in parts.items() for name, value in m.state_dict().items()}


def made(method, **settings):
    """A method with other settings than its defaults."""
    return method(dataclasses.replace(method.configuration(), **settings))


def earlier_of(learned, uid, teacher=None):
    """A finished task about V*bob, as the next one sees it."""
    deltas = Deltas() if teacher is None else teacher
    kinds = frozenset(name.partition("/")[0] for name in learned.state)
    return Earlier(uid, "a photo of a V*bob", kinds, lambda: learned.state, lambda: deltas, learned.contains)
