"""What a training step costs: every method, every phase of it, and every form of STAMINA's mask, on the bundled base.

    python benchmarks/methods.py            # time a step against TI++, parameters, peak memory, late against early

Each variant has a process of its own, as a training has, in which it takes the same batches in turns with TI++, so that
what else the machine does falls on both alike; medians are compared.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from conceptctl import families, pocket
from conceptctl.diffusion.models import choose_device, has_fast_bf16, training_dtype
from conceptctl.learning.backbone import Backbone
from conceptctl.learning.checkpoint import TrainingState
from conceptctl.learning.examples import Examples
from conceptctl.learning.loop import Listener, train
from conceptctl.learning.method import Earlier, Method, Phase, Step, Task, Trainable
from conceptctl.learning.processes import make_accelerator
from conceptctl.learning.weights import Deltas, TokenRows, shapes_of
from conceptctl.methods import find_method
from conceptctl.parts.masks import FORMS
from conceptctl.pocket import bundle
from conceptctl.presets import shipped
from conceptctl.workflows.learn.task import make_task

if TYPE_CHECKING:
    from accelerate import Accelerator

REFERENCE = "TI++"
FIRST, FIFTIETH = "STAMINA, first concept", "STAMINA, fiftieth concept"
STEPS = 2 + Listener().report_steps
"""Steps of a variant before the next has its turn: the first, which is not counted, as many as a training has from
report to report, and one more to see when they end."""
PRIOR = "a photo of a person"
Found = TypeVar("Found")


class Variant:
    """One phase of a method with its settings, on a model that it shares with the one it is compared with."""

    def __init__(
        self,
        backbone: Backbone,
        token_id: int,
        start: TokenRows,
        method: str,
        *,
        earlier: Sequence[str],
        phase: int = 0,
        goes_on: bool = False,
        **settings: Any,
    ) -> None:
        """Put a method on a model that has the tokens of earlier concepts.

        Args:
            backbone: The model.
            token_id: The token that is learned.
            start: Where it begins.
            method: The method's name.
            earlier: The concepts before it, by name.
            phase: Which of the method's phases is measured.
            goes_on: Whether the method goes on from what it kept of the concept before.
            settings: Where they are not the preset's.
        """
        found = find_method(method)
        usual = shipped()["pocket"].settings(method)
        self.method = found(found.configuration(**{**usual, "steps": STEPS, **settings}))
        self.backbone, self.token_id, self.phase = backbone, token_id, phase
        self.generator = torch.Generator().manual_seed(0)
        change = {}
        if earlier:
            # One matrix each, however many concepts are in it.
            shapes = shapes_of(backbone.targets())
            change = {path: torch.rand(shape, generator=self.generator) * 1e-3 for path, shape in shapes.items()}
        made = partial(
            make_task,
            backbone,
            self.method,
            token_ids=[token_id],
            token_start=start,
            prompt="a photo of a V*alice",
            class_word="person",
            names=earlier,
            change=change,
        )
        tasks = [self._earlier(made(), name, Deltas.of(change)) for name in earlier] if goes_on else []
        self.task = made(earlier=tasks)
        self.trainable = self.method.attach(self.task).to(backbone.device)
        self.times: list[float] = []

    def _earlier(self, first: Task, name: str, deltas: Deltas) -> Earlier:
        """A concept that the method has learned: what it kept of it is random."""
        kept = self.method.finish(first, self.method.attach(first)).state
        state = {what: torch.rand(value.shape, generator=self.generator) * 1e-3 for what, value in kept.items()}
        teacher = deltas.to(self.backbone.device)
        kinds = frozenset(each.partition("/")[0] for each in state)
        return Earlier(name, f"a photo of a V*{name}", kinds, lambda: state, lambda: teacher)

    def turn(self, examples: Examples, seed: int, accelerator: Accelerator) -> None:
        """Take steps as a training does, one report among them, and keep the mean time of one."""
        moments: list[float] = []

        def begin() -> None:
            if examples.latents.is_cuda:
                torch.cuda.synchronize()
            moments.append(time.perf_counter())

        train(
            self.backbone,
            [self.token_id],
            Timed(self.method, self.phase, begin),
            replace(self.task, seed=seed),
            self.trainable,
            examples,
            accelerator=accelerator,
            # The phases before it are taken as done.
            state=TrainingState(step=self.phase * STEPS),
        )
        self.times.append((moments[-1] - moments[1]) / (len(moments) - 2))

    @property
    def parameters(self) -> int:
        """What trains in the U-Net."""
        adapter = self.trainable.adapter
        return sum(parameter.numel() for parameter in adapter.parameters()) if adapter is not None else 0


class Timed(Method):
    """A method up to one of its phases, which tells when its steps begin."""

    def __init__(self, method: Method, last: int, begin: Callable[[], None]) -> None:
        super().__init__(method.config)
        self.method, self.last, self.begin = method, last, begin

    def phases(self, task: Task, trainable: Trainable) -> Iterator[Phase]:
        for number, phase in enumerate(self.method.phases(task, trainable)):
            if number == self.last:
                yield replace(phase, loss=partial(self._loss, phase))
                return
            yield phase

    def _loss(self, phase: Phase, step: Step) -> Any:
        self.begin()
        return phase.loss(step)


def variants(backbone: Backbone) -> Iterator[tuple[str, Callable[[], Variant]]]:
    start = backbone.token_start("person")
    token_id = backbone.add_token("alice", start)
    backbone.add_token("before", start)
    made = partial(Variant, backbone, token_id, start)
    yield REFERENCE, partial(made, "ti++", earlier=())
    yield "sequential LoRA", partial(made, "lora", earlier=("before",))
    yield FIRST, partial(made, "stamina", earlier=())
    for form in FORMS:
        yield f"STAMINA, {form} mask", partial(made, "stamina", earlier=("before",), mask=form)
    yield "STAMINA without Muon and P2", partial(made, "stamina", earlier=("before",), optimizer="adam", p2_gamma=0.0)
    yield "STAMINA, anchored", partial(made, "stamina-anchored", earlier=("before",))
    yield FIFTIETH, partial(_after, made, 49, "stamina")
    yield "EWC", partial(_after, made, 3, "ewc", goes_on=True)
    after_learning = {"phase": 1, "goes_on": True, "consolidation_share": 1.0}
    yield "EWC, measuring importance", partial(_after, made, 3, "ewc", **after_learning)
    yield "EWC-DC, measuring importance", partial(_after, made, 3, "ewc-dc", **after_learning)
    yield "DSC, consolidating", partial(_after, made, 3, "dsc", **after_learning)


def _after(made: partial[Variant], count: int, method: str, **how: Any) -> Variant:
    """A method after so many concepts of its own."""
    backbone, _, start = made.args
    names = [f"before{index}" for index in range(count)]
    for name in names:
        backbone.add_token(name, start)
    return made(method, earlier=names, **how)


def prepared(device: str, *, precision: str | None = None) -> tuple[Backbone, Examples]:
    chosen, folder = choose_device(device), pocket.base_folder()
    dtype = training_dtype(chosen, precision) if precision else None
    backbone = families.recognized(folder).load(folder, chosen, dtype=dtype)
    latents = torch.randn(16, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    return backbone, Examples(latents.to(chosen), ["a photo of a V*alice"] * 12 + [PRIOR] * 4, 12)


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

    def accelerator(self) -> Accelerator:
        return make_accelerator(choose_device(self.device), self.precision)

    def prepared(self) -> tuple[Backbone, Examples]:
        torch.set_num_threads(self.threads)
        return prepared(self.device, precision=self.precision)


def measure(name: str, rounds: int, how: How, beside: str = REFERENCE) -> Measured:
    """Train a variant and another one in turns."""
    accelerator = how.accelerator()
    backbone, examples = how.prepared()
    known = dict(variants(backbone))
    # The first concept's model has no tokens of others.
    others = known if beside == REFERENCE else dict(variants(how.prepared()[0]))
    variant, reference = known[name](), others[beside]()
    for turn in range(rounds):
        reference.turn(examples, turn, accelerator)
        variant.turn(examples, turn, accelerator)
    ratio = statistics.median(ours / theirs for ours, theirs in zip(variant.times, reference.times, strict=True))
    return Measured(statistics.median(variant.times), ratio, variant.parameters)


def peak(name: str, precision: str) -> float:
    """The peak memory of this process, which has done nothing yet, when it trains a variant on the CPU, in MB."""
    accelerator = make_accelerator(torch.device("cpu"), precision)
    backbone, examples = prepared("cpu")
    dict(variants(backbone))[name]().turn(examples, 0, accelerator)
    # Not ru_maxrss: it holds the largest size of the process that began this one, too.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1000


def profile(name: str, how: How) -> str:
    """Where the time of a variant's steps goes, the first of which are not looked at."""
    accelerator = how.accelerator()
    backbone, examples = how.prepared()
    variant = dict(variants(backbone))[name]()
    variant.turn(examples, 0, accelerator)
    with torch.profiler.profile() as profiler:
        variant.turn(examples, 1, accelerator)
    table: str = profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=45)
    return table


def alone(work: Callable[..., Found], *arguments: object) -> Found:
    """Do something in a process of its own, as a training is."""
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
    device = choose_device(options.device)
    on_cpu = device.type == "cpu"
    how = How(options.threads, str(device), options.mixed_precision or ("bf16" if has_fast_bf16(device) else "no"))
    backbone, _ = prepared("cpu")
    weights = sum(parameter.numel() for parameter in backbone.pipeline.unet.parameters())
    print("| variant | s a step | of TI++ | trained, % of the U-Net | peak memory, MB |\n|---|---|---|---|---|")
    rows = {}
    for name, _ in variants(backbone):
        found = alone(measure, name, options.rounds, how)
        share = 100 * found.parameters / weights
        memory = alone(peak, name, how.precision) if on_cpu and sys.platform == "linux" else float("nan")
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
