"""Joint training: all concepts of a sequence in one training on the base, an upper bound that nothing is learned after.

No store can hold what comes of it, where every concept has a change of its own: it is one file, in the format of a
concept's, with a token row for each.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptctl.errors import UsageError
from conceptctl.metrics.drift import WeightHistory
from conceptctl.presets import Preset, preset_of
from conceptctl.store import base, durable, jobs, tensorfile, weights
from conceptctl.store.store import Store
from conceptctl.workflows.bench.weights_used import FP32, bytes_kept, network_size, shapes_in
from conceptctl.workflows.learn import auxiliary
from conceptctl.workflows.learn.checkpoint import Resumed, from_slot
from conceptctl.workflows.learn.images import check_pictures, sizes_of
from conceptctl.workflows.learn.pace import Pace, peak_memory
from conceptctl.workflows.learn.plan import is_described
from conceptctl.workflows.learn.prepared import Prepared, prepare
from conceptctl.workflows.learn.request import Request, Watch, make_method
from conceptctl.workflows.model import load_base, token_rows

if TYPE_CHECKING:
    from torch import Tensor

    from conceptctl.learning.backbone import Backbone
    from conceptctl.learning.examples import Examples
    from conceptctl.learning.method import Method, Trainable
    from conceptctl.metrics.features import FeatureExtractor

LESS_MEMORY = "a smaller batch_size among the settings of its row"


def check_joint(method: Method) -> None:
    """Refuse a method that has more to do than to learn: what it does for the sake of other concepts means nothing.

    Raises:
        UsageError: It is such a method.
    """
    from conceptctl.learning.method import Method

    looks_back = method.config.needs_reference or method.trained_on != Method.trained_on
    if looks_back or type(method).phases is not Method.phases:
        raise UsageError(
            f"joint training: {method.name} does more than learn, for the sake of concepts before and after",
            hint="joint = true with method cd, lora, ti or another without a phase, a reference or a merge of its own",
        )


def learn_jointly(
    store: Store,
    requests: Sequence[Request],
    target: Path,
    *,
    describer: FeatureExtractor,
    device: str,
    tell: Callable[[int, int], None] = lambda done, steps: None,
) -> None:
    """Train all concepts at once on a store's base, and write what was learned; an interrupted training goes on.

    Pictures of all concepts are drawn alike, and auxiliary pictures of all their classes. There are as many steps as
    the concepts have one after the other.

    Args:
        store: A store without concepts, of which nobody else makes use.
        requests: What would be asked of `learn` for each concept; they differ in pictures, names and classes.
        target: The file to write.
        describer: What describes pictures, where the method's settings ask for it.
        device: "auto", "cpu" or "cuda".
        tell: Told how many steps are done, and of how many.

    Raises:
        UsageError: The method does more than learn; see `check_joint`.
        PicturesRefused: A folder holds something that must not be learned from.
        DeviceFailed: The loss became no number, or memory ran out.
    """
    from conceptctl.diffusion.models import enough_memory
    from conceptctl.learning.checkpoint import STATE_FORMAT

    began, head = time.monotonic(), store.head()
    # A class is what auxiliary pictures are drawn of.
    main = next((request for request in requests if request.class_word), requests[0])
    method = method_of(main, preset_of(head.base), len(requests))
    with store.writing("learn"), enough_memory(LESS_MEMORY):
        prepared = prepare(store, head, main, preset_of(head.base), method, device, Watch())
        job = jobs.start(store.layout, {"name": "joint training", "state_format": STATE_FORMAT})
        slot = job.load()
        resumed = Resumed(job, {}, from_slot(slot) if slot else None)
        tensors, about = _train(prepared, requests, describer, resumed, tell)
        # Of a training that was interrupted nobody knows how long it took.
        about["seconds"] = None if slot else time.monotonic() - began
        written = tensorfile.encode(tensors, {"about": json.dumps(about)})
        durable.replace_file(target, b"".join(written), target.parent, mode=0o644)
        job.finish()


def method_of(request: Request, preset: Preset, concepts: int) -> Method:
    """Make the method, with as many steps as so many concepts have, one after the other."""
    method = make_method(request, preset)
    check_joint(method)
    # Whether one concept is learned says little of the others.
    config = dataclasses.replace(method.config, steps=method.config.steps * concepts, stopping="fixed")
    return type(method)(config)


def _train(
    prepared: Prepared,
    requests: Sequence[Request],
    describer: FeatureExtractor,
    resumed: Resumed,
    tell: Callable[[int, int], None],
) -> tuple[dict[str, tensorfile.Tensor], dict[str, Any]]:
    """Go through the stages of `learn`, with all concepts in each; returns what is kept, and what it took."""
    import torch

    from conceptctl.diffusion.models import training_dtype
    from conceptctl.learning.loop import Listener, train
    from conceptctl.workflows.learn.dataset import Dataset
    from conceptctl.workflows.learn.stored import as_stored
    from conceptctl.workflows.learn.task import make_task
    from conceptctl.workflows.learn.training import fit_of

    method, device, seed = prepared.method, prepared.device, prepared.request.train.seed
    dtype = training_dtype(device, prepared.precision)
    backbone = load_base(prepared.store, prepared.head, str(device), dtype=dtype)
    # Drawn before there are tokens, as `learn` does; the same again in a run that goes on.
    beside = _auxiliary(prepared, backbone, requests)
    starts = [backbone.token_start(request.class_word) for request in requests]
    token_ids = [backbone.add_token(request.name, start) for request, start in zip(requests, starts, strict=True)]
    examples = _examples(prepared, backbone, requests, beside, describer)
    together = {table: torch.cat([start[table] for start in starts]) for table in starts[0]}
    task = make_task(backbone, method, token_ids=token_ids, token_start=together, prompt="", seed=seed)
    trainable = method.attach(task).to(device)
    fit = fit_of(prepared, backbone, trainable, Dataset(examples, (), ()))
    pace = Pace()
    listener = Listener(step=pace.step, report=lambda report: tell(report.step, method.config.steps), save=resumed.save)
    train(
        backbone,
        token_ids,
        method,
        task,
        trainable,
        examples,
        accelerator=prepared.accelerator,
        micro_batch=fit.micro_batch,
        state=resumed.state,
        listener=listener,
    )
    learned, factors = as_stored(method.finish(task, trainable))
    deltas = {path: factors.get(path) or weights.Delta.of(each.numpy()) for path, each in learned.deltas.items()}
    rows = torch.cat(list(learned.tokens.values()), dim=1)
    return weights.concept_tensors(deltas, rows.numpy()), _about(prepared, trainable, pace)


def _about(prepared: Prepared, trainable: Trainable, pace: Pace) -> dict[str, Any]:
    token = sum(parameter.numel() for parameter in trainable.token.parameters())
    return {
        "trained": sum(parameter.numel() for parameter in trainable.parameters()) - token,
        "trained_with_token": sum(parameter.numel() for parameter in trainable.parameters()),
        "trained_on": prepared.device.type,
        "precision": prepared.precision,
        "seconds_a_step": pace.seconds_a_step,
        "peak_memory": peak_memory(prepared.device) or None,
    }


def _auxiliary(prepared: Prepared, backbone: Backbone, requests: Sequence[Request]) -> dict[str, Tensor]:
    """Draw auxiliary pictures of every class; their latents (N, C, H, W) by class."""
    plan = prepared.plan
    if not plan.auxiliary:
        return {}
    return {
        word: auxiliary.draw(
            backbone,
            prepared.head,
            word,
            plan.auxiliary,
            side=plan.auxiliary_side,
            accelerator=prepared.accelerator,
            watch=prepared.watch,
        )
        for word in dict.fromkeys(request.class_word for request in requests if request.class_word)
    }


def _examples(
    prepared: Prepared,
    backbone: Backbone,
    requests: Sequence[Request],
    beside: Mapping[str, Tensor],
    describer: FeatureExtractor,
) -> Examples:
    """The pictures of all concepts, and behind them the auxiliary ones of all classes."""
    import torch

    from conceptctl.learning.backbone import Crop
    from conceptctl.learning.examples import Examples
    from conceptctl.workflows.learn.dataset import make_dataset

    store, head = prepared.store, prepared.head
    side = prepared.plan.auxiliary_side or sizes_of(store, head).side
    parts: list[Examples] = []
    prompts_a_picture: list[int] = []
    for request in requests:
        checked = check_pictures(store, head, request, prepared.watch)
        described = is_described(request, prepared.preset, prepared.method, checked)
        made = make_dataset(
            backbone,
            request,
            prepared.method,
            checked,
            describer=describer if described else None,
            auxiliary=None,
            auxiliary_side=side,
            watch=prepared.watch,
        )
        parts.append(made.examples)
        prompts_a_picture.append(made.examples.concept // len(checked.pictures))
    # Every picture counts alike, however many prompts those of its concept have.
    most = math.lcm(*prompts_a_picture)
    parts = [each for each, own in zip(parts, prompts_a_picture, strict=True) for _ in range(most // own)]
    latents = [latent for part in parts for latent in part.latents]
    prompts = [prompt for part in parts for prompt in part.prompts]
    crops = [crop for part in parts for crop in part.crops]
    concept = len(latents)
    for word, drawn in beside.items():
        latents += drawn.to(latents[0].device).unbind()
        prompts += [auxiliary.prompt_of(word)] * len(drawn)
        crops += [Crop.middle((side, side), (side, side))] * len(drawn)
    alike = len({each.shape for each in latents}) == 1
    return Examples(torch.stack(latents) if alike else latents, prompts, concept, crops)


def load_joint(store: Store, learned: Path, names: Sequence[str], device: str) -> Backbone:
    """Load a store's base with what a joint training learned.

    Args:
        store: The store.
        learned: What `learn_jointly` wrote.
        names: The concepts, in its order.
        device: "auto", "cpu" or "cuda".
    """
    import torch

    head = store.head()
    backbone = load_base(store, head, device)
    found = base.tensors(store.layout, head.base)
    sums = weights.Sums({path: found[path][:2] for path in backbone.targets()}, [learned])
    backbone.set_weights({path: torch.from_numpy(sums[path]) for path in sums})
    for name, row in zip(names, weights.read_floats(learned, "token"), strict=True):
        backbone.add_token(name, token_rows(backbone, row[None]))
    return backbone


def joint_used(store: Store, learned: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Say of each concept what it took, as `weights_used`: time and what is kept in equal parts.

    How far weights are from the base, and which are changed for the first time, is asked of sequences.
    """
    about = json.loads(tensorfile.read_header(learned).metadata["about"])
    shapes = shapes_in(store)
    network, kept = network_size(store, shapes), bytes_kept(learned) / len(names)
    deltas = weights.read_deltas(learned, shapes)
    drift = WeightHistory().add((path, delta.mask, delta.values) for path, delta in deltas)
    used = {
        "n_param_trained": 100 * about["trained"] / network,
        "n_param_trained_with_token": 100 * about["trained_with_token"] / network,
        "n_param_stored": 100 * kept / FP32 / network,
        "stored_bytes": kept,
        "changed": 100 * drift.changed / network,
        "first_time": None,
        "distance": None,
        "density": None,
        "seconds": None if about["seconds"] is None else about["seconds"] / len(names),
        **{part: about[part] for part in ("seconds_a_step", "peak_memory", "trained_on", "precision")},
    }
    return [{"name": name, **used} for name in names]
