"""What is to be learned: a request, everything about it that can be checked first, and the plan that it makes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptctl.config import TrainConfig
from conceptctl.errors import NotFound, UsageError
from conceptctl.methods import find_method
from conceptctl.store import base, concept
from conceptctl.store.manifest import Generation
from conceptctl.store.store import Store
from conceptctl.workflows.concept_files import check_name_free
from conceptctl.workflows.defaults import POCKET, Defaults, defaults_of

if TYPE_CHECKING:
    from PIL import Image

    from conceptctl.diffusion.fit import Report
    from conceptctl.diffusion.photos.gate import Checked, Rules
    from conceptctl.methods.base import Method

MOST_SEEDS = 2**63
PRECISIONS = ("no", "bf16")
_MORE_THAN_NOTHING = {"steps", "batch_size", "accumulation", "rank", "learning_rate", "temperature"}
_OF_EITHER_SIGN = {"open_by"}


@dataclass(frozen=True)
class Request:
    """What to learn, and how. `None` leaves the choice to the base and the method."""

    folder: Path
    name: str
    class_word: str = ""
    train: TrainConfig = field(default_factory=TrainConfig)
    auxiliary: int | None = None
    """Auxiliary pictures of the class, drawn by the base."""
    remembered: int | None = None
    """Pictures to draw afterwards, whose features are kept."""
    feature_extractor: str | None = None
    settings: Mapping[str, float | int | str] = field(default_factory=dict)
    """More of the method's own settings, by name."""
    flip: bool = False
    """Also learn from mirrored pictures."""
    gradient_checkpointing: bool = False
    """Less memory, more time."""
    mixed_precision: str | None = None
    """One of `PRECISIONS`: bf16, or fp32; the device decides when it is None."""
    resolution: int | None = None
    """The side that the base is expected to have, in pixels."""
    skip_bad: bool = False
    first_frame: bool = False
    follow_symlinks: bool = False
    license: str = ""
    consent: str = ""


@dataclass(frozen=True)
class Plan:
    """What a run would do, known before anything is trained."""

    name: str
    method: str
    class_word: str
    config: Mapping[str, Any]
    pictures: int
    skipped: tuple[str, ...]
    notes: tuple[str, ...]
    prompts: tuple[str, ...]
    """The different prompts, with the concept's token; what pictures are described as is known when it is learned."""
    auxiliary: int
    device: str
    precision: str


@dataclass(frozen=True)
class Watch:
    """Who is told what while something is learned."""

    stage: Callable[[str, int], None] = lambda what, total: None
    """A new stage begins, with so many units of work; 0 where that is not known."""
    advance: Callable[[int], None] = lambda done: None
    """So many units of the stage are done."""
    report: Callable[[Report], None] = lambda report: None
    warn: Callable[[str], None] = lambda text: None
    preview: Callable[[int, list[Image.Image]], None] | None = None
    """Called with a step and pictures drawn after it."""


def plan(store: Store, request: Request, *, device: str = "auto", watch: Watch | None = None) -> Plan:
    """Check everything that can be checked without training, and change nothing.

    Raises:
        UsageError: A name or a number that cannot be meant.
        PicturesRefused: The folder holds something that must not be learned from.
        AlreadyExists: There is such a concept.
    """
    from conceptctl.diffusion.models import choose_device

    check_facts(request)
    found = choose_device(device)
    precision = precision_of(request, found.type)
    head = store.head()
    method = make_method(request, head.base.name)
    check_name_free(request.name, head, store.layout)
    checked = check_pictures(store, head, request, watch or Watch())
    return planned(head, request, method, checked, str(found), precision)


def check(request: Request, device: str = "auto") -> None:
    """Check what needs no store.

    Raises:
        NotFound: There is no such method or setting.
        UsageError: A name or a number that cannot be meant.
    """
    from conceptctl.diffusion.models import choose_device

    check_facts(request)
    precision_of(request, choose_device(device).type)
    make_method(request, "")


def check_facts(request: Request) -> None:
    """Check what needs neither a store nor a method.

    Raises:
        UsageError: A name, a word or a number that cannot be meant.
    """
    concept.check_name(request.name)
    word = request.class_word
    odd = not word.isprintable() or word != " ".join(word.split()) or bool(set(word) & {"{", "}"})
    if odd or "V*" in word.upper():
        raise UsageError(f"{word!a} cannot be a class", hint="--class person, --class 'mountain bike'")
    for option, text in (("--license", request.license), ("--consent", request.consent)):
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise UsageError(f"{option} {text!a} is not UTF-8 text") from None
    if request.auxiliary is not None and request.auxiliary < 0:
        raise UsageError(f"auxiliary pictures are counted from 0, not {request.auxiliary}", hint="--aux 0 for none")
    if request.mixed_precision not in (None, *PRECISIONS):
        raise UsageError(
            f"there is no precision {request.mixed_precision!r} to learn in",
            hint="--mixed-precision bf16 or no; fp16 has too small a range for what is learned here",
        )
    if not 0 <= request.train.seed < MOST_SEEDS:
        raise UsageError("a seed is a number from 0 to 2^63")


def precision_of(request: Request, device: str) -> str:
    """Return the precision that a device learns in, one of `PRECISIONS`: bf16 where that is fast.

    Raises:
        UsageError: It does not learn in the one that is asked for.
    """
    import torch

    from conceptctl.diffusion.models import has_fast_bf16

    fast = has_fast_bf16(torch.device(device))
    if request.mixed_precision == "bf16" and not fast:
        raise UsageError(
            "this CPU does not say that it is fast in bf16", hint="leave --mixed-precision out, or --device cuda"
        )
    return request.mixed_precision or ("bf16" if fast else "no")


def make_method(request: Request, base_name: str) -> Method:
    """Make the method that a request asks for, with its settings.

    The method's own defaults are the papers'; the base may have others, and the user has the last word.

    Raises:
        NotFound: There is no such method or setting.
        UsageError: A number that cannot be meant.
    """
    from conceptctl.diffusion.fit import OPTIMIZERS, SCHEDULERS, TIMESTEP_SAMPLINGS
    from conceptctl.methods.base import PROMPTS

    found = find_method(request.train.method)
    known = {each.name for each in dataclasses.fields(found.configuration)}
    asked = {
        name: value for name, value in dataclasses.asdict(request.train).items() if name in known and value is not None
    }
    if unknown := sorted(set(request.settings) - known):
        raise NotFound(f"{found.name} has no setting {unknown[0]!r}", hint="settings: " + ", ".join(sorted(known)))
    values = {**(found.pocket if base_name == "pocket" else {}), **asked, **request.settings}
    if request.class_word == "" or request.auxiliary == 0:
        values["auxiliary_batch"] = 0
    for each in dataclasses.fields(found.configuration):
        # A whole number is a number; torch makes other tensors of the two.
        if isinstance(each.default, float) and type(value := values.get(each.name)) is int:
            values[each.name] = float(value)
    config = found.configuration(**values)
    for each in dataclasses.fields(config):
        _check_number(each.name, getattr(config, each.name), type(each.default))
    for name, words in (
        ("scheduler", SCHEDULERS),
        ("optimizer", OPTIMIZERS),
        ("timestep_sampling", TIMESTEP_SAMPLINGS),
        ("prompts", PROMPTS),
    ):
        if (asked_for := getattr(config, name)) not in words:
            raise UsageError(f"there is no {name}={asked_for!a}", hint=f"{name}: " + ", ".join(words))
    return found(config)


def _check_number(name: str, value: Any, kind: type) -> None:
    if kind is str:
        # Words are looked up in a list, where a number is not found.
        return
    words = name.replace("_", " ")
    if type(value) not in ((int, float) if kind is float else (kind,)):
        raise UsageError(f"{words} must be a {'whole number' if kind is int else 'number'}, not {value!r}")
    if not math.isfinite(value):
        raise UsageError(f"{words} cannot be {value}")
    if name in _MORE_THAN_NOTHING and value <= 0:
        raise UsageError(f"{words} must be more than 0, not {value}")
    if name not in _OF_EITHER_SIGN and value < 0:
        raise UsageError(f"{words} cannot be less than 0, as {value} is")


def check_pictures(store: Store, head: Generation, request: Request, watch: Watch) -> Checked:
    """Pass a folder through the picture gate, as the store's base asks for it.

    Raises:
        PicturesRefused: It holds something that must not be learned from.
    """
    from conceptctl.diffusion.photos.gate import check_folder

    names = frozenset(each.name for each in head.concepts)
    rules = _rules(base.picture_side(store.layout, head.base), defaults_of(head.base), request, names)
    watch.stage("looking at the pictures", 0)
    checked = check_folder(request.folder, rules, progress=lambda done, total: watch.advance(1))
    if checked.photographic and head.base.name == "pocket":
        watch.warn(
            "these look like photographs, and this base draws 64 x 64 pictures: likeness is not to be expected "
            "(for photographs: conceptctl init --base HUB_ID --store DIR)"
        )
    return checked


def check_pictures_for_pocket(request: Request) -> None:
    """Pass a folder through the picture gate as a store on the bundled base would, where there is none yet.

    Raises:
        PicturesRefused: It holds something that must not be learned from.
    """
    from conceptctl.diffusion.photos.gate import check_folder
    from conceptctl.pocket.world.practice import SIZE

    check_folder(request.folder, _rules(SIZE, POCKET, request, frozenset()))


def _rules(side: int, defaults: Defaults, request: Request, concepts: frozenset[str]) -> Rules:
    from conceptctl.diffusion.photos.gate import Rules

    if request.resolution not in (None, side):
        raise UsageError(
            f"this base learns at {side} x {side}, not at {request.resolution}",
            hint="leave --resolution out; pictures of any size are cropped and scaled to the base's",
        )
    return Rules(
        side=side,
        min_side=defaults.smallest_side or side,
        skip_bad=request.skip_bad,
        first_frame=request.first_frame,
        follow_symlinks=request.follow_symlinks,
        concepts=concepts | {request.name},
    )


def planned(head: Generation, request: Request, method: Method, checked: Checked, device: str, precision: str) -> Plan:
    """Say what a run would do with pictures that passed the gate."""
    count = defaults_of(head.base).auxiliary if request.auxiliary is None else request.auxiliary
    return Plan(
        name=request.name,
        method=method.name,
        class_word=request.class_word,
        config=dataclasses.asdict(method.config),
        pictures=len(checked.pictures),
        skipped=tuple(str(refusal) for refusal in checked.refusals),
        notes=(*checked.notes, *_note_on_describing(request, method, checked)),
        prompts=tuple(dict.fromkeys(prompts_of(request, method, checked))),
        auxiliary=count if method.config.auxiliary_batch else 0,
        device=device,
        precision=precision,
    )


def is_described(request: Request, method: Method, checked: Checked) -> bool:
    """Whether anything is said of what is around the concept.

    Without a class word CLIP would name the concept itself, a waterfall "in a forest", and what is said is not learned.
    """
    wanted = method.config.prompts == "described" and bool(request.class_word)
    return wanted and any(not picture.caption for picture in checked.pictures)


def _note_on_describing(request: Request, method: Method, checked: Checked) -> tuple[str, ...]:
    if is_described(request, method, checked):
        return ("pictures without a caption are described by what CLIP sees around the concept",)
    if method.config.prompts == "described" and not request.class_word:
        return ("without a class word (--class) nothing is said of what is around the concept",)
    return ()


def prompts_of(request: Request, method: Method, checked: Checked) -> list[str]:
    """The prompt that each picture is learned under: its caption, or the method's own."""
    token = f"V*{request.name}"
    plain = " ".join(method.prompt.format(token=token, word=request.class_word).split())
    return [picture.caption.replace("{token}", token) if picture.caption else plain for picture in checked.pictures]
