"""Two checks of diffusion-classifier scores ("Mining your own secrets", section 4.3).

Figure 7: after each concept, every training picture so far is classified by its scores (eq. 3, averaged over many
noises and times) among the prompts of all concepts so far. Figure 6: the largest eigenvalues of the Fisher matrix of
one target's factors, with the scores in the loss (eq. 5) and without, over the same batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from conceptctl.learning.backbone import Noising
from conceptctl.learning.method import Losses, Phase, Step, Task, Trainable
from conceptctl.methods import find_method
from conceptctl.methods.ewc_dc import EwcDc
from conceptctl.parts.adapters.continued import ContinuedLowRank
from conceptctl.parts.consolidation.dc_scores import Config
from conceptctl.parts.consolidation.fisher import ContinuedFisherMethod
from conceptctl.parts.tokens import TokenEmbedding

if TYPE_CHECKING:
    from conceptctl.learning.backbone import Backbone
    from conceptctl.learning.examples import Examples
    from conceptctl.presets import Preset
    from conceptctl.store.manifest import Generation
    from conceptctl.store.store import Store
    from conceptctl.store.weights import Array

LARGEST = 5
"""How many eigenvalues are told."""


@torch.no_grad()
def accuracies(
    backbone: Backbone, prompts: Sequence[str], pictures: Sequence[Examples], trials: int, together: int
) -> list[float]:
    """Classify pictures of every concept by diffusion-classifier scores.

    Args:
        backbone: With every concept in place.
        prompts: What each concept is asked for by: the classes.
        pictures: Of each concept.
        trials: Noises and times that a score is averaged over, the same for every class.
        together: How many pictures go through the network together.

    Returns:
        Of each concept the share of its pictures whose own prompt has the smallest error, and so the largest score.
    """
    backbone.freeze()
    objective = backbone.objective(Noising())
    found = []
    for own, examples in enumerate(pictures):
        conditions = backbone.conditions(examples.prompts, (), examples.crops)
        right = 0
        for part in torch.arange(len(examples.prompts)).split(together):
            for indices, latents in examples.by_shape(part):
                generator = torch.Generator().manual_seed(0)
                errors = torch.zeros(len(latents), len(prompts), device=latents.device)
                for _ in range(trials):
                    noised = objective.corrupt(latents, generator)
                    for which, prompt in enumerate(prompts):
                        predicted = objective.predict(noised, conditions.of_prompt(prompt, indices))
                        errors[:, which] += objective.errors(predicted, noised)
                right += int((errors.argmin(dim=1) == own).sum())
        found.append(right / len(examples.prompts))
    return found


def has_fisher(name: str) -> bool:
    """Whether a method keeps a Fisher matrix of a low-rank adapter's factors."""
    kind = find_method(name)
    return issubclass(kind, ContinuedFisherMethod) and kind.adapter is ContinuedLowRank


def eigenvalues(
    store: Store,
    head: Generation,
    backbone: Backbone,
    weights: Mapping[str, Array],
    preset: Preset,
    config: Mapping[str, Any],
    examples: Examples,
    batches: int,
) -> dict[str, dict[str, list[float]]]:
    """Find the largest eigenvalues of the Fisher matrix of the first target's A and B, after the last concept.

    Args:
        store: Whose concepts were all learned by one method of which `has_fisher` holds.
        head: Which of its generations.
        backbone: With every concept in place.
        weights: Of all targets, as `apply_concepts` returns them.
        preset: What the scores are set by where the method has none.
        config: The method's settings.
        examples: The last concept's pictures, under its prompt.
        batches: Of which gradients are taken.

    Returns:
        By "without" and "with" the scores in the loss, and by "A" and "B".
    """
    found: dict[str, dict[str, list[float]]] = {}
    for which in ("without", "with"):
        probe = Probe(probe_settings(preset, config), batches, with_scores=which == "with")
        measure(store, head, backbone, weights, probe, examples)
        found[which] = {name: _largest(torch.stack(rows)) for name, rows in probe.gradients.items()}
    return found


def probe_settings(preset: Preset, config: Mapping[str, Any]) -> Config:
    """What scores are set by: a method's settings, those of `ewc-dc` where it has none, and all times alike."""
    known = {each.name for each in fields(Config)}
    settings = {**preset.settings(EwcDc.name), **config}
    return Config(
        **{name: value for name, value in settings.items() if name in known} | {"timestep_sampling": "uniform"}
    )


class Probe(EwcDc):
    """Keeps the gradients of one target's factors, batch by batch, instead of their squares."""

    def __init__(self, config: Config, batches: int, *, with_scores: bool) -> None:
        super().__init__(config)
        self.batches, self.with_scores = batches, with_scores
        self.gradients: dict[str, list[Tensor]] = {"A": [], "B": []}
        self.state: Any = {}

    def attach(self, task: Task) -> Trainable:
        """The adapter as the last concept left it."""
        generator = torch.Generator().manual_seed(0)
        adapter = ContinuedLowRank(task.shapes, self.config.rank, 0.0, generator=generator, state=self.state)
        return Trainable(adapter, TokenEmbedding(task.token_start), 0.0)

    def phases(self, task: Task, trainable: Trainable) -> Iterator[Phase]:
        """The phase of algorithm 2, with the scores or without."""
        adapter: Any = trainable.adapter

        def loss(step: Step) -> Losses:
            losses = dict(self.ewc_loss(step, task))
            if not self.with_scores:
                del losses["dc"]
            return losses

        yield self.measuring(trainable, self.batches, 0, loss, lambda: self.keep(adapter))

    def keep(self, adapter: Any) -> None:
        """Take what is kept of a batch's gradients."""
        self.gradients["A"].append(adapter.up[0].grad[0].flatten().clone())
        self.gradients["B"].append(adapter.down[0].grad[0].flatten().clone())


def measure(
    store: Store,
    head: Generation,
    backbone: Backbone,
    weights: Mapping[str, Array],
    probe: Probe,
    examples: Examples,
) -> None:
    """Run a probe's phase on the last concept, with the ones before it as the earlier ones; see `eigenvalues`."""
    from conceptctl.diffusion.prompts import token_of
    from conceptctl.learning.loop import train
    from conceptctl.learning.processes import make_accelerator
    from conceptctl.store.concept import read_record
    from conceptctl.store.weights import read_floats
    from conceptctl.workflows.learn.task import earlier_tasks, make_task
    from conceptctl.workflows.model import token_rows
    from conceptctl.workflows.reference_samples import recipe_of

    tokenizer = backbone.tokenizer()
    *before, last = head.concepts
    record = read_record(store.blob(last))
    tasks = earlier_tasks(store, head, weights, backbone.device)
    token_id = tokenizer.convert_tokens_to_ids(token_of(tokenizer, last.name))
    task = make_task(
        backbone,
        probe,
        token_ids=[token_id],
        token_start=token_rows(backbone, read_floats(store.blob(last), "token")),
        prompt=recipe_of(record, head.base).prompt_for(last.name),
        class_word=record.class_word,
        earlier=tasks[: len(before)],
    )
    probe.state = tasks[-1].state()
    trainable = probe.attach(task)
    accelerator = make_accelerator(backbone.device)
    train(backbone, [token_id], probe, task, trainable, examples, accelerator=accelerator)


def _largest(gradients: Tensor) -> list[float]:
    """The largest eigenvalues of the mean outer product of gradients, (batches, parameters)."""
    values = torch.linalg.svdvals(gradients.double()).square() / len(gradients)
    return [float(value) for value in values[:LARGEST]]
