"""What is to be learned, how, and all about it that can be checked before a picture is looked at."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptctl import families
from conceptctl.config import TrainConfig
from conceptctl.errors import NotFound, UsageError
from conceptctl.methods import METHODS, find_method
from conceptctl.presets import AUTO, EVERY_METHOD, Preset, as_settings, named_preset, shipped
from conceptctl.store import concept
from conceptctl.workflows.places import check_writable

if TYPE_CHECKING:
    from conceptctl.learning.method import Config, Method
    from conceptctl.learning.run import Report
    from conceptctl.workflows.learn.estimate import Estimate
    from conceptctl.workflows.learn.memory import Fit

MOST_SEEDS = 2**63
LONGEST_CLASS = 64
"""Letters: no text encoder reads a much longer one as a kind of thing."""
_AS_IN_PROMPTS = re.compile(r"\A[VvＶｖ]\\?[*＊]\s*")
"""Also as a shell's quoting and Asian keyboards leave it."""
PRECISIONS = ("no", "bf16", "fp16")
_MORE_THAN_NOTHING = {
    "steps", "batch_size", "accumulation", "rank", "learning_rate", "temperature", "dc_temperature",
    "teacher_temperature", "consolidation_share", "merge_ridge", "pool_size", "prompt_length", "chosen",
    "general_length", "expert_length", "layers", "added",
}  # fmt: skip
_OF_EITHER_SIGN = {"mask_logit_mean"}
_AT_MOST = {
    "fisher_decay": 1, "consolidation_share": 100, "steps": 10**7, "rank": 4096, "batch_size": 10**4,
    "auxiliary_batch": 10**4, "accumulation": 10**4, "dc_concepts": 10**4, "pool_size": 10**4, "prompt_length": 10**3,
    "chosen": 10**4, "general_length": 10**3, "expert_length": 10**3, "general_layers": 10**3, "expert_layers": 10**3,
    "layers": 10**3, "added": 10**3,
}  # fmt: skip
"""More of them no machine gets through, which is better said at once than when memory runs out."""
MOST_AUXILIARY = 10**5
_SMALLEST, _LARGEST = 1.2e-38, 3.4e38
"""Of fp32, in which everything is learned."""
_AT_LEAST = {"dc_concepts": 2}
_LESS_THAN = {"mask_start": 1}
"""Masks that begin after the last step are none; `mask=none` says so."""
FORMER_SETTINGS = {"open_by": "mask_logit_mean", "spread": "mask_logit_std", "start": "init_std"}
"""Settings by the names that earlier versions had for them: records and scripts may still have those."""


@dataclass(frozen=True)
class Request:
    """What to learn, and how. `None` leaves the choice to the base's preset and the method."""

    folder: Path
    name: str
    class_word: str = ""
    train: TrainConfig = field(default_factory=TrainConfig)
    preset: str | None = None
    """Another preset than the base's own: a name or a file."""
    auxiliary: int | None = None
    """Auxiliary pictures of the class, drawn by the base."""
    reference_samples: int | None = None
    """Pictures to draw afterwards, whose features are kept."""
    feature_extractor: str | None = None
    settings: Mapping[str, float | int | str] = field(default_factory=dict)
    """More of the method's own settings, by name."""
    flip: bool = False
    """Also learn from mirrored pictures."""
    gradient_checkpointing: bool = False
    """Less memory, more time."""
    micro_batch: int | None = None
    """Samples that go through the network together; None for all of a batch, or as many as a GPU has memory for."""
    low_vram: bool = False
    """The least memory: one sample at a time, and gradients checkpointed."""
    mixed_precision: str | None = None
    """One of `PRECISIONS`: bf16, fp16, or `no` for fp32; the device decides when it is None."""
    resolution: int | None = None
    """The side of the square that other pictures have as many pixels as; the base's own when it is None."""
    skip_bad: bool = False
    first_frame: bool = False
    follow_symlinks: bool = False
    license: str = ""
    consent: str = ""
    replace: bool = False
    """Whether the concept takes the place of one of its name."""
    preview: bool = False
    """Draw the concept's own prompt every `sample_every` steps."""
    sample_prompts: tuple[str, ...] = ()
    """More prompts to draw, or others."""
    sample_every: int | None = None
    """Steps between samples; a tenth of all of them by default."""
    output: Path = Path("conceptctl-out")
    """Where samples go, in a folder of the run."""
    log_to: Path | None = None
    """Where losses and samples go instead."""

    def __post_init__(self) -> None:
        """A name may be given as prompts have it: V*alice is alice."""
        object.__setattr__(self, "name", _AS_IN_PROMPTS.sub("", self.name, count=1))


@dataclass(frozen=True)
class Watch:
    """Who is told what while something is learned."""

    stage: Callable[[str, int], None] = lambda what, total: None
    """A new stage begins, with so many units of work; 0 where that is not known."""
    ending: Callable[[int], None] = lambda total: None
    """The stage has fewer units of work than was said: so many."""
    advance: Callable[[int], None] = lambda done: None
    """So many units of the stage are done."""
    report: Callable[[Report], None] = lambda report: None
    step: Callable[[int], None] = lambda done: None
    """So many steps of the phase are done."""
    ahead: Callable[[float], None] = lambda seconds: None
    """About so many seconds come after the stage; told where that is known."""
    warn: Callable[[str], None] = lambda text: None
    fitted: Callable[[Fit], None] = lambda fit: None
    """How a step is fitted into memory; told once, where anything was chosen."""
    sample: Callable[[Path], None] = lambda path: None
    """Pictures of a step were written."""
    expected: Callable[[Estimate], None] = lambda estimate: None
    """What the run will take is known; told once, before anything expensive."""


def check(request: Request, preset: Preset, device: str = "auto") -> None:
    """Check what needs no store.

    Args:
        request: The request.
        preset: Of the base that the store would have.
        device: "auto", "cpu" or "cuda".

    Raises:
        NotFound: There is no such method, preset or setting.
        UsageError: A name or a number that cannot be meant.
    """
    from conceptctl.diffusion.models import choose_device

    check_facts(request)
    precision_of(request, str(choose_device(device)))
    make_method(request, chosen_preset(request, preset))


def check_facts(request: Request) -> None:
    """Check what needs neither a store nor a method.

    Raises:
        UsageError: A name, a word or a number that cannot be meant.
    """
    concept.check_name(request.name)
    word = request.class_word
    odd = not word.isprintable() or word != " ".join(word.split()) or bool(set(word) & {"{", "}"})
    if odd or "V*" in word.upper() or len(word) > LONGEST_CLASS:
        shown = ascii(word if len(word) <= LONGEST_CLASS else word[:20] + "...")
        raise UsageError(f"{shown} cannot be a class", hint="--class person, --class 'mountain bike'")
    for option, text in (("--license", request.license), ("--consent", request.consent)):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise UsageError(f"{option} {text!a} is not UTF-8 text") from None
    if request.auxiliary is not None and request.auxiliary < 0:
        raise UsageError(f"auxiliary pictures are counted from 0, not {request.auxiliary}", hint="--aux 0 for none")
    if (request.auxiliary or 0) > MOST_AUXILIARY:
        raise UsageError(
            f"{request.auxiliary} auxiliary pictures are too many: at most {MOST_AUXILIARY}", hint="--aux 200"
        )
    if request.micro_batch is not None and request.micro_batch < 1:
        raise UsageError(
            f"1 or more samples go through the network together, not {request.micro_batch}", hint="--micro-batch 1"
        )
    if request.low_vram and (request.micro_batch or 1) > 1:
        raise UsageError(
            f"--low-vram takes samples one at a time, and --micro-batch says {request.micro_batch}",
            hint="one of the two",
        )
    if request.mixed_precision not in (None, *PRECISIONS):
        raise UsageError(
            f"there is no precision {request.mixed_precision!r} to learn in",
            hint="--mixed-precision bf16, fp16 or no",
        )
    if not 0 <= request.train.seed < MOST_SEEDS:
        raise UsageError("a seed is a number from 0 to 2^63")
    _check_samples(request)


def _check_samples(request: Request) -> None:
    if request.sample_every is not None and request.sample_every < 1:
        raise UsageError(f"samples are drawn every 1 or more steps, not every {request.sample_every}")
    if odd := [prompt for prompt in request.sample_prompts if not prompt.strip() or not prompt.isprintable()]:
        raise UsageError(f"{odd[0]!a} cannot be drawn", hint="--sample-prompt 'a photo of V*NAME in the snow'")
    if request.log_to or request.preview or request.sample_prompts or request.sample_every:
        check_writable((request.log_to or request.output) / request.name)


def chosen_preset(request: Request, own: Preset) -> Preset:
    """Return the preset that a request is learned with: the base's own, with another over it where one is named.

    Raises:
        NotFound: There is no preset of that name.
        UsageError: A file that is no preset, or one with settings of a method that is not there.
    """
    if request.preset is None:
        return own
    other = named_preset(request.preset)
    if unknown := sorted(set(other.methods) - {*METHODS, EVERY_METHOD}):
        raise UsageError(f"preset {other.name}: there is no method {unknown[0]!r}", hint=", ".join(METHODS))
    made = own.under(other)
    learns, of = made.learn.method, set(other.methods)
    if request.train.method is None and of and request.preset not in shipped() and not of & {learns, EVERY_METHOD}:
        raise UsageError(
            f"preset {other.name} has settings of {', '.join(sorted(of))}, and {learns} learns",
            hint=f"--method {min(of)}, or [methods.{learns}] in the file",
        )
    return made


def precision_of(request: Request, device: str) -> str:
    """Return the precision that a device learns in, one of `PRECISIONS`.

    By default bf16 where that is fast; on other GPUs fp16, on other CPUs fp32.

    Raises:
        UsageError: It does not learn in the one that is asked for.
    """
    import torch

    from conceptctl.diffusion.models import has_fast_bf16

    asked, where = request.mixed_precision, torch.device(device)
    if asked == "no":
        return asked
    on_cpu, fast = where.type == "cpu", has_fast_bf16(where)
    if asked == "bf16" and not fast:
        raise UsageError(
            f"this {'CPU does not say that it is fast in bf16' if on_cpu else 'GPU has no bf16'}",
            hint="leave --mixed-precision out" + (", or --device cuda" if on_cpu else ": it learns in fp16"),
        )
    if asked == "fp16" and on_cpu:
        raise UsageError("a CPU does not learn in fp16", hint="leave --mixed-precision out, or --device cuda")
    return asked or ("bf16" if fast else "no" if on_cpu else "fp16")


def make_method(request: Request, preset: Preset) -> Method:
    """Make the method that a request asks for, with its settings.

    The method's own defaults are the papers'; the preset may have others, and the user has the last word.

    Raises:
        NotFound: There is no such method or setting.
        UsageError: A number that cannot be meant.
    """
    found = find_method(preset.learn.method if request.train.method is None else request.train.method)
    known = {each.name for each in dataclasses.fields(found.configuration)}
    own = {FORMER_SETTINGS.get(name, name): value for name, value in request.settings.items()}
    # A bound in one holds for a number in the other.
    if "max_train_steps" in own and request.train.steps is not None:
        own.setdefault("steps", request.train.steps)
    if type(own.get("steps")) is int and request.train.max_train_steps is not None:
        own.setdefault("max_train_steps", request.train.max_train_steps)
    values = {**preset.settings(found.name), **_asked(request.train, known), **_said_steps(own)}
    auxiliary = preset.learn.auxiliary if request.auxiliary is None else request.auxiliary
    if request.class_word == "" or auxiliary == 0:
        values["auxiliary_batch"] = 0
    config = configured(found, values)
    if preset.family:
        families.check_settings(preset.family, found.name, config)
    return found(config)


def configured(found: type[Method], asked: Mapping[str, Any]) -> Config:
    """Make a method's settings.

    Args:
        found: The method.
        asked: What is set of them; the others are the method's own.

    Raises:
        NotFound: There is no such setting.
        UsageError: A number or a word that cannot be meant.
    """
    values = dict(asked)
    known = {each.name: each for each in dataclasses.fields(found.configuration)}
    if unknown := sorted(set(values) - set(known)):
        having = [
            name
            for name, method in ((each, find_method(each)) for each in METHODS)
            if unknown[0] in {each.name for each in dataclasses.fields(method.configuration)}
        ]
        others = f"; methods that have it: {', '.join(having)}" if having else ""
        raise NotFound(
            f"{found.name} has no setting {unknown[0]!r}", hint=f"settings: {', '.join(sorted(known))}{others}"
        )
    for name, each in known.items():
        # A whole number is a number; torch makes other tensors of the two.
        if isinstance(each.default, float) and type(value := values.get(name)) is int:
            values[name] = float(value) if abs(value) < 2**1000 else math.inf
        if isinstance(each.default, str) and not isinstance(values.get(name, ""), str):
            raise UsageError(f"{name.replace('_', ' ')} must be a word, not {values[name]!r}")
    config = found.configuration(**values)
    for name, each in known.items():
        _check_number(name, getattr(config, name), type(each.default))
    _check_words(config)
    return config


def _asked(train: TrainConfig, known: AbstractSet[str]) -> dict[str, Any]:
    """What of a method's settings the user's options say."""
    said = {name: value for name, value in dataclasses.asdict(train).items() if value is not None}
    return {name: value for name, value in _said_steps(said).items() if name in known}


def _said_steps(said: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by the names that methods have for them; whoever says a number of steps wants that number."""
    number = {} if said.get("steps") in (None, AUTO) else {"stopping": "fixed"}
    return {**number, **as_settings(said)}


def _check_words(config: Any) -> None:
    from conceptctl.diffusion.noise import TIMESTEP_SAMPLINGS
    from conceptctl.learning.method import PROMPTS
    from conceptctl.learning.optim import OPTIMIZERS, SCHEDULERS, check_optimizer
    from conceptctl.learning.stopping import STOPPINGS

    for name, words in (
        ("scheduler", SCHEDULERS),
        ("optimizer", OPTIMIZERS),
        ("timestep_sampling", TIMESTEP_SAMPLINGS),
        ("prompts", PROMPTS),
        ("stopping", STOPPINGS),
    ):
        if (asked_for := getattr(config, name)) not in words:
            raise UsageError(f"there is no {name}={asked_for!a}", hint=f"{name}: " + ", ".join(words))
    check_optimizer(config.optimizer)


def _check_number(name: str, value: Any, kind: type) -> None:
    if kind is str:
        # Words are looked up in a list, where a number is not found.
        return
    words = name.replace("_", " ")
    if type(value) not in ((int, float) if kind is float else (kind,)):
        raise UsageError(f"{words} must be a {'whole number' if kind is int else 'number'}, not {value!r}")
    if isinstance(value, float) and value and not _SMALLEST <= abs(value) <= _LARGEST:
        raise UsageError(f"{words} cannot be {value}")
    if name in _MORE_THAN_NOTHING and value <= 0:
        raise UsageError(f"{words} must be more than 0, not {value}")
    if name not in _OF_EITHER_SIGN and value < 0:
        raise UsageError(f"{words} cannot be less than 0, as {value} is")
    if value > _AT_MOST.get(name, value):
        raise UsageError(f"{words} cannot be more than {_AT_MOST[name]}, as {value} is")
    if name in _LESS_THAN and value >= _LESS_THAN[name]:
        raise UsageError(f"{words} must be less than {_LESS_THAN[name]}, not {value}")
    if value < _AT_LEAST.get(name, value):
        raise UsageError(f"{words} cannot be less than {_AT_LEAST[name]}, as {value} is")
