"""What a training step costs: every method and every form of STAMINA's mask, on the bundled base.

    python benchmarks/methods.py            # time a step against TI++, parameters, peak memory, late against early

All variants take the same batches in turns in one process, and medians are compared, so that what else the machine does
falls on all of them alike.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from conceptctl import pocket
from conceptctl.diffusion import models
from conceptctl.diffusion.conditioning import known_states, starting_row
from conceptctl.diffusion.examples import Examples
from conceptctl.diffusion.fit import Callbacks, fit
from conceptctl.diffusion.projections import cross_attention, shapes_of, sizes_of
from conceptctl.methods import find_method
from conceptctl.methods.base import Task
from conceptctl.parts.masks import FORMS
from conceptctl.pocket import bundle

STEPS = 4
"""Steps of a variant before the next has its turn; the first of them is not counted."""


class Variant:
    """One method with its settings, on a pipeline that it shares with the others."""

    def __init__(self, pipeline: Any, number: int, start: torch.Tensor, method: str, *, tasks: int, **settings: Any):
        found = find_method(method)
        self.method = found(found.configuration(**{**found.pocket, "steps": STEPS, **settings}))
        self.pipeline, self.number = pipeline, number
        projections = cross_attention(pipeline.unet)
        shapes = shapes_of(projections)
        generator = torch.Generator().manual_seed(0)
        earlier = {}
        if tasks:
            # One matrix each, however many tasks are in it.
            earlier = {place: torch.rand(shape, generator=generator) * 1e-3 for place, shape in shapes.items()}
        device = pipeline.device
        states, sizes = None, {}
        if self.method.config.preservation_weight:
            states = known_states(pipeline, ["a photo of a person"])
            sizes = sizes_of(projections, states)
        earlier = {place: value.to(device) for place, value in earlier.items()}
        self.task = Task(shapes, start, earlier, 0, states, sizes)
        self.trainable = self.method.attach(self.task).to(device)
        self.times: list[float] = []

    def turn(self, examples: Examples, seed: int) -> None:
        """Take a few steps and keep their times."""
        seconds: list[float] = []
        fit(
            self.pipeline,
            self.number,
            self.trainable,
            examples,
            self.method.config.schedule(seed),
            lambda deltas, share, generator: self.method.penalty(self.trainable, deltas, self.task, share, generator),
            callbacks=Callbacks(report=lambda report: seconds.append(report.seconds), report_steps=1),
        )
        self.times += [after - before for before, after in itertools.pairwise(seconds)]

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.trainable.parameters())


def variants(pipeline: Any) -> Iterator[tuple[str, Callable[[], Variant]]]:
    start = starting_row(pipeline, "person")
    number = models.add_concept(pipeline, "alice", start)
    yield "TI++", partial(Variant, pipeline, number, start, "ti++", tasks=0)
    yield "sequential LoRA", partial(Variant, pipeline, number, start, "lora", tasks=1)
    yield "STAMINA, first concept", partial(Variant, pipeline, number, start, "stamina", tasks=0)
    for form in FORMS:
        yield f"STAMINA, {form} mask", partial(Variant, pipeline, number, start, "stamina", tasks=1, mask=form)
    paper = {"optimizer": "adam", "preservation_weight": 0.0, "damping": 0.0, "p2_gamma": 0.0}
    without = partial(Variant, pipeline, number, start, "stamina", tasks=1, **paper)
    yield "STAMINA without Muon, preservation, damping and P2", without


def prepared(device: str) -> tuple[Any, Examples]:
    chosen = models.choose_device(device)
    pipeline = models.load_pipeline(pocket.base_folder(), chosen)
    latents = torch.randn(16, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    return pipeline, Examples(latents.to(chosen), ["a photo of a V*alice"] * 12 + ["a photo of a person"] * 4, 12)


def peak(name: str) -> float:
    """The peak memory of a process that trains one variant on the CPU, in MB; only Linux says it."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (name, str(bundle.WEIGHTS)))


def _peak(name: str, weights: str) -> float:
    bundle.WEIGHTS = Path(weights)
    pipeline, examples = prepared("cpu")
    dict(variants(pipeline))[name]().turn(examples, 0)
    # Not ru_maxrss: it holds the largest size of the process that began this one, too.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--weights", type=Path, help="another base than the bundled one")
    parser.add_argument("--profile", action="store_true", help="show where the time of STAMINA's step goes")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.weights:
        bundle.WEIGHTS = options.weights
    pipeline, examples = prepared(options.device)
    made = {name: make() for name, make in variants(pipeline)}
    for turn in range(options.rounds):
        for variant in made.values():
            variant.turn(examples, turn)
    weights = sum(parameter.numel() for parameter in pipeline.unet.parameters())
    reference = made["TI++"].times
    print("| variant | s a step | of TI++ | trained, % of the U-Net | peak memory, MB |\n|---|---|---|---|---|")
    rows = {}
    for name, variant in made.items():
        median = statistics.median(variant.times)
        ratio = statistics.median(ours / theirs for ours, theirs in zip(variant.times, reference, strict=True))
        share = (
            100 * sum(p.numel() for p in variant.trainable.adapter.parameters()) / weights
            if (variant.trainable.adapter is not None)
            else 0.0
        )
        memory = peak(name) if options.device == "cpu" and sys.platform == "linux" else float("nan")
        rows[name] = {"seconds": median, "ratio": ratio, "share": share, "memory": memory}
        print(f"| {name} | {median:.3f} | {ratio:.3f} | {share:.2f} | {memory:.0f} |", flush=True)
    if options.profile:
        with torch.profiler.profile() as profiler:
            made["STAMINA, low-rank mask"].turn(examples, 0)
        print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=45))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
