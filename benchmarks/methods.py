"""What a training step costs: every method and every form of STAMINA's mask, on the bundled base.

    python benchmarks/methods.py            # time a step against TI++, parameters, peak memory, late against early

Each variant has a process of its own, as a lesson has, in which it takes the same batches in turns with TI++, so that
what else the machine does falls on both alike; medians are compared.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from conceptctl import pocket
from conceptctl.diffusion import models
from conceptctl.diffusion.conditioning import known_states, starting_row, with_kept
from conceptctl.diffusion.examples import Examples
from conceptctl.diffusion.fit import Callbacks, fit
from conceptctl.diffusion.models import has_fast_bf16
from conceptctl.diffusion.projections import Stacks, cross_attention, shapes_of, sizes_of
from conceptctl.methods import find_method
from conceptctl.methods.base import Task
from conceptctl.parts.masks import FORMS
from conceptctl.pocket import bundle
from conceptctl.workflows.describe import usual

REFERENCE = "TI++"
FIRST, FIFTIETH = "STAMINA, first concept", "STAMINA, fiftieth concept"
STEPS = 2 + Callbacks().report_steps
"""Steps of a variant before the next has its turn: the first, which is not counted, as many as a lesson has from report
to report, and one more to see when they end."""
Found = TypeVar("Found")


class Variant:
    """One method with its settings, on a pipeline that it shares with the one it is compared with."""

    def __init__(
        self, pipeline: Any, number: int, start: torch.Tensor, method: str, *, earlier: Sequence[str], **settings: Any
    ) -> None:
        """Put a method on a pipeline that has the tokens of earlier concepts."""
        found = find_method(method)
        self.method = found(found.configuration(**{**found.pocket, "steps": STEPS, **settings}))
        self.pipeline, self.number = pipeline, number
        projections = cross_attention(pipeline.unet)
        shapes = shapes_of(projections)
        generator = torch.Generator().manual_seed(0)
        changed = {}
        if earlier:
            # One matrix each, however many concepts are in it.
            changed = {place: torch.rand(shape, generator=generator) * 1e-3 for place, shape in shapes.items()}
        device = pipeline.device
        states, sizes = None, {}
        if self.method.config.preservation_weight:
            states = known_states(pipeline, ["a photo of a person"])
            sizes = sizes_of(projections, states)
            states = with_kept(pipeline, states, [usual(pipeline.tokenizer, name) for name in earlier])
        stacks = Stacks.of({place: value.to(device) for place, value in changed.items()})
        self.task = Task(shapes, start, stacks, 0, states, sizes)
        self.trainable = self.method.attach(self.task).to(device)
        self.times: list[float] = []

    def turn(self, examples: Examples, seed: int, autocast: bool) -> None:
        """Take steps as a lesson does, one report among them, and keep the mean time of one."""
        moments: list[float] = []

        def penalty(deltas: Stacks, share: float, generator: torch.Generator) -> Mapping[str, torch.Tensor]:
            if examples.latents.is_cuda:
                torch.cuda.synchronize()
            moments.append(time.perf_counter())
            return self.method.penalty(self.trainable, deltas, self.task, share, generator)

        schedule = self.method.config.schedule(seed)
        fit(self.pipeline, self.number, self.trainable, examples, schedule, penalty, autocast=autocast)
        self.times.append((moments[-1] - moments[1]) / (len(moments) - 2))

    @property
    def parameters(self) -> int:
        """What trains in the U-Net."""
        adapter = self.trainable.adapter
        return sum(parameter.numel() for parameter in adapter.parameters()) if adapter is not None else 0


def variants(pipeline: Any) -> Iterator[tuple[str, Callable[[], Variant]]]:
    start = starting_row(pipeline, "person")
    number = models.add_concept(pipeline, "alice", start)
    models.add_concept(pipeline, "before", start)
    made = partial(Variant, pipeline, number, start)
    yield REFERENCE, partial(made, "ti++", earlier=())
    yield "sequential LoRA", partial(made, "lora", earlier=("before",))
    yield FIRST, partial(made, "stamina", earlier=())
    for form in FORMS:
        yield f"STAMINA, {form} mask", partial(made, "stamina", earlier=("before",), mask=form)
    paper = {"optimizer": "adam", "preservation_weight": 0.0, "damping": 0.0, "p2_gamma": 0.0}
    without = partial(made, "stamina", earlier=("before",), **paper)
    yield "STAMINA without Muon, preservation, damping and P2", without
    yield FIFTIETH, partial(_fiftieth, made)


def _fiftieth(made: partial[Variant]) -> Variant:
    pipeline, _, start = made.args
    names = [f"before{index}" for index in range(49)]
    for name in names:
        models.add_concept(pipeline, name, start)
    return made("stamina", earlier=names)


def prepared(device: str, *, in_full: bool = False) -> tuple[Any, Examples]:
    chosen = models.choose_device(device)
    pipeline = models.load_pipeline(pocket.base_folder(), chosen, in_full=in_full)
    latents = torch.randn(16, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    return pipeline, Examples(latents.to(chosen), ["a photo of a V*alice"] * 12 + ["a photo of a person"] * 4, 12)


@dataclass(frozen=True)
class Measured:
    """What a step of a variant costs."""

    seconds: float
    ratio: float
    """Of the other one's seconds."""
    parameters: int
    """What trains in the U-Net."""


@dataclass(frozen=True)
class How:
    """What a variant is measured with."""

    threads: int
    device: str
    precision: str

    @property
    def autocast(self) -> bool:
        return self.device == "cpu" and self.precision == "bf16"

    def prepared(self) -> tuple[Any, Examples]:
        torch.set_num_threads(self.threads)
        return prepared(self.device, in_full=self.precision == "no")


def measure(name: str, rounds: int, how: How, beside: str = REFERENCE) -> Measured:
    """Train a variant and another one in turns."""
    pipeline, examples = how.prepared()
    known = dict(variants(pipeline))
    # The first concept's pipeline has no tokens of others.
    others = known if beside == REFERENCE else dict(variants(how.prepared()[0]))
    variant, reference = known[name](), others[beside]()
    for turn in range(rounds):
        reference.turn(examples, turn, how.autocast)
        variant.turn(examples, turn, how.autocast)
    ratio = statistics.median(ours / theirs for ours, theirs in zip(variant.times, reference.times, strict=True))
    return Measured(statistics.median(variant.times), ratio, variant.parameters)


def peak(name: str, autocast: bool) -> float:
    """The peak memory of this process, which has done nothing yet, when it trains a variant on the CPU, in MB."""
    pipeline, examples = prepared("cpu")
    dict(variants(pipeline))[name]().turn(examples, 0, autocast)
    # Not ru_maxrss: it holds the largest size of the process that began this one, too.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1000


def profile(name: str, how: How) -> str:
    """Where the time of a variant's steps goes, the first of which are not looked at."""
    pipeline, examples = how.prepared()
    variant = dict(variants(pipeline))[name]()
    variant.turn(examples, 0, how.autocast)
    with torch.profiler.profile() as profiler:
        variant.turn(examples, 1, how.autocast)
    table: str = profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=45)
    return table


def alone(work: Callable[..., Found], *arguments: object) -> Found:
    """Do something in a process of its own, as a lesson is."""
    with multiprocessing.get_context("spawn").Pool(1, _begin, (str(bundle.WEIGHTS),)) as pool:
        return pool.apply(work, arguments)


def _begin(weights: str) -> None:
    bundle.WEIGHTS = Path(weights)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--mixed-precision", choices=("no", "bf16"), help="what `learn` takes, if not given")
    parser.add_argument("--weights", type=Path, help="another base than the bundled one")
    parser.add_argument("--profile", action="store_true", help="show where the time of STAMINA's step goes")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.weights:
        bundle.WEIGHTS = options.weights
    device = models.choose_device(options.device)
    on_cpu = device.type == "cpu"
    how = How(options.threads, str(device), options.mixed_precision or ("bf16" if has_fast_bf16(device) else "no"))
    pipeline, _ = prepared("cpu")
    weights = sum(parameter.numel() for parameter in pipeline.unet.parameters())
    print("| variant | s a step | of TI++ | trained, % of the U-Net | peak memory, MB |\n|---|---|---|---|---|")
    rows = {}
    for name, _ in variants(pipeline):
        found = alone(measure, name, options.rounds, how)
        share = 100 * found.parameters / weights
        memory = alone(peak, name, how.autocast) if on_cpu and sys.platform == "linux" else float("nan")
        rows[name] = {"seconds": found.seconds, "ratio": found.ratio, "share": share, "memory": memory}
        print(f"| {name} | {found.seconds:.3f} | {found.ratio:.3f} | {share:.2f} | {memory:.0f} |", flush=True)
    late = alone(measure, FIFTIETH, options.rounds, how, FIRST).ratio
    memory = rows[FIFTIETH]["memory"] / rows[FIRST]["memory"]
    rows[FIFTIETH] |= {"of_first": late, "memory_of_first": memory}
    print(f"\nthe fiftieth concept's step: {late:.3f} of the first one's time, {memory:.3f} of its memory")
    if options.profile:
        print(alone(profile, "STAMINA, low-rank mask", how))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
