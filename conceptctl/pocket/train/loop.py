"""The one training loop of the base's networks: resumable, with a moving average of the weights and a progress bar."""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import PARAM_LIST, AveragedModel

from conceptctl.diffusion.models import has_fast_bf16
from conceptctl.learning.muon import Muon

NetworkT = TypeVar("NetworkT", bound=nn.Module)
BatchT = TypeVar("BatchT")

Losses = dict[str, Tensor]
"""The parts of a loss by name, each a scalar; the one called "loss" is minimized."""


@dataclass(frozen=True)
class Recipe:
    """How one network is trained."""

    samples: int
    """Pictures (or picture-caption pairs) to see in all."""
    batch: int
    """Pictures a step."""
    learning_rate: float
    """Its peak; it rises over the first steps and falls along a cosine to a hundredth."""
    average: float = 0.999
    """Decay of the moving average of the weights, a step."""
    weight_decay: float = 0.0
    warmup: int = 200
    """Steps over which the learning rate rises."""


class Stage(ABC, Generic[NetworkT, BatchT]):
    """One network's training: what it is made of, its loss, and how good it is."""

    name: str
    network: NetworkT
    """What is trained; its moving average is what is measured and kept."""

    @abstractmethod
    def batch(self, step: int) -> BatchT:
        """Make the data of a step; the same step gives the same data."""

    @abstractmethod
    def losses(self, batch: BatchT) -> Losses:
        """Run the network on a batch."""

    @abstractmethod
    def measure(self, network: NetworkT) -> dict[str, float]:
        """Measure a network on held-out data: the moving average, which is another object than `self.network`."""


@dataclass
class _Progress:
    step: int = 0
    samples: int = 0
    seconds: float = 0.0


class Trainer(Generic[NetworkT, BatchT]):
    """Trains a stage's network, and keeps what is needed to go on after an interruption.

    The file `NAME.safetensors` in the workspace holds the weights, their average and the optimizer's state; it is
    replaced as a whole. `NAME.jsonl` has a line for each report: step, samples, seconds, losses, measures.
    """

    def __init__(
        self,
        stage: Stage[NetworkT, BatchT],
        recipe: Recipe,
        workspace: Path,
        device: torch.device,
        *,
        minutes: float | None = None,
    ) -> None:
        """Take up the training where the workspace has it, or begin it.

        Args:
            stage: What to train.
            recipe: How.
            workspace: The folder of the checkpoint.
            device: Where; the network runs in bfloat16 autocast where `has_fast_bf16`.
            minutes: The time that this training may take in all, earlier runs included; the learning rate has
                fallen by its end. Without it, `recipe.samples` alone decides.
        """
        self.stage, self.recipe, self.device, self.minutes = stage, recipe, device, minutes
        self.path = workspace / f"{stage.name}.safetensors"
        self.log = workspace / f"{stage.name}.jsonl"
        self.parameters = [p for p in stage.network.parameters() if p.requires_grad]
        # Statistics of batch normalization are averaged as the weights are.
        self.average = AveragedModel(stage.network, multi_avg_fn=self._approach, use_buffers=True)
        # Its first update copies instead of averaging: without this one it would begin after the first step.
        self.average.update_parameters(stage.network)
        self.optimizer = Muon(self.parameters, recipe.learning_rate, recipe.weight_decay)
        self.progress = _Progress()
        if self.path.exists():
            self._load()

    @property
    def share(self) -> float:
        """How much of the training is done, 0 to 1."""
        by_samples = self.progress.samples / self.recipe.samples
        by_time = self.progress.seconds / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(by_samples, by_time))

    def run(self, *, report_every: float = 60.0, save_every: float = 120.0) -> None:
        """Train to the end, saving every `save_every` seconds and reporting every `report_every` seconds."""
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
        )
        last_report = last_save = last = time.monotonic()
        sums: dict[str, Tensor] = {}
        # Not every step has every loss.
        counts: Counter[str] = Counter()
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(self.stage.name, total=1.0, note="")
            while self.share < 1.0:
                losses = self._step()
                for name, value in losses.items():
                    sums[name] = sums.get(name, torch.zeros((), device=self.device)) + value.detach()
                counts.update(losses.keys())
                now = time.monotonic()
                self.progress.seconds += now - last
                last = now
                if now - last_report >= report_every or self.share >= 1.0:
                    means = {name: float(value) / counts[name] for name, value in sums.items()}
                    sums, counts = {}, Counter()
                    self._report(means, console)
                    bar.update(task, note=f"loss {means['loss']:.4f}")
                    last_report = last = time.monotonic()
                if now - last_save >= save_every:
                    self._save()
                    last_save = last = time.monotonic()
                bar.update(task, completed=self.share)
        self._save()

    def averaged(self) -> NetworkT:
        """The network with the averaged weights."""
        return self.average.module.eval()  # type: ignore[return-value]

    def _step(self) -> Losses:
        recipe, progress = self.recipe, self.progress
        rise = min(1.0, (progress.step + 1) / recipe.warmup)
        fall = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * self.share))
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * rise * fall
        self.stage.network.train()
        batch = self.stage.batch(progress.step)
        # Whatever a stage draws on the way is the same after an interruption.
        torch.manual_seed(progress.step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=has_fast_bf16(self.device)):
            losses = self.stage.losses(batch)
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        progress.step += 1
        progress.samples += recipe.batch
        self.average.update_parameters(self.stage.network)
        return losses

    def _approach(self, averages: PARAM_LIST, current: PARAM_LIST, _: Tensor | int) -> None:
        """Move averages, all of one dtype, towards what the network has after a step; counters stay as they began."""
        if averages[0].is_floating_point():
            # Not by AveragedModel's own count: it is a tensor, which a GPU would have to be waited for.
            step = self.progress.step
            decay = min(self.recipe.average, (1 + step) / (10 + step))
            torch._foreach_lerp_(averages, current, 1 - decay)

    def _report(self, losses: dict[str, float], console: Console) -> None:
        with torch.no_grad():
            measures = self.stage.measure(self.averaged())
        line = {**asdict(self.progress), "losses": losses, "measures": measures}
        with self.log.open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        shown = "  ".join(f"{name} {value:.4g}" for name, value in {**losses, **measures}.items())
        console.print(f"[dim]{self.stage.name} {self.progress.samples:,} samples  {shown}[/dim]")

    def _save(self) -> None:
        tensors = {f"weights/{key}": value for key, value in self.stage.network.state_dict().items()}
        tensors |= {f"average/{key}": value for key, value in self.average.module.state_dict().items()}
        for index, parameter in enumerate(self.parameters):
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer/{index}/{key}"] = torch.as_tensor(value)
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        partial = self.path.with_suffix(".partial")
        save_file(tensors, partial, metadata={"progress": json.dumps(asdict(self.progress))})
        partial.replace(self.path)

    def _load(self) -> None:
        weights: dict[str, Tensor] = {}
        average: dict[str, Tensor] = {}
        with safe_open(self.path, framework="pt", device="cpu") as file:
            self.progress = _Progress(**json.loads(file.metadata()["progress"]))
            for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
                kind, _, rest = name.partition("/")
                value = file.get_tensor(name)
                if kind == "weights":
                    weights[rest] = value
                elif kind == "average":
                    average[rest] = value
                else:
                    index, _, key = rest.partition("/")
                    parameter = self.parameters[int(index)]
                    self.optimizer.state[parameter][key] = value if key == "step" else value.to(parameter.device)
        self.stage.network.load_state_dict(weights)
        self.average.module.load_state_dict(average)
