"""What a run would do, known before anything is trained."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from conceptctl import families
from conceptctl.presets import Preset, preset_of
from conceptctl.store import base
from conceptctl.store.manifest import Generation
from conceptctl.store.store import Store
from conceptctl.workflows.learn import checkpoint, coherence
from conceptctl.workflows.learn.images import check_pictures, sizes_of, unlike_drawings
from conceptctl.workflows.learn.replace import check_name
from conceptctl.workflows.learn.request import (
    Request,
    Watch,
    check_facts,
    chosen_preset,
    make_method,
    precision_of,
)
from conceptctl.workflows.learn.samples import check_prompts

if TYPE_CHECKING:
    from conceptctl.images.buckets import PictureSizes
    from conceptctl.images.gate import Checked
    from conceptctl.learning.method import Method
    from conceptctl.learning.schedule import Later


@dataclass(frozen=True)
class Plan:
    """What a run would do."""

    name: str
    method: str
    class_word: str
    preset: str
    """The name of the preset that the settings come from."""
    config: Mapping[str, Any]
    """Every setting of the method."""
    differs: Mapping[str, Any]
    """Those that are not the preset's, and a resolution that is not the base's own."""
    pictures: int
    resolution: int
    """Side of the square that no picture has more pixels than."""
    sizes: Mapping[str, int]
    """How many pictures are learned at which size, `448x576`; mirrored ones are not counted."""
    skipped: tuple[str, ...]
    notes: tuple[str, ...]
    prompts: tuple[str, ...]
    """The different prompts, with the concept's token; what pictures are described as is known when it is learned."""
    auxiliary: int
    auxiliary_side: int | None
    """Pixels to which auxiliary pictures are made smaller; None where they are learned from as they are drawn."""
    reference_samples: int
    compared: int
    """Pictures of different things that the concept's are compared with; 0 where nobody is asked how alike they are."""
    device: str
    precision: str
    resumes: int | None = None
    """The step from which an interrupted run would go on; None where there is none to go on with."""
    later: tuple[Later, ...] = ()
    """The phases that follow the learning."""

    def as_preset(self) -> dict[str, Any]:
        """All of it that a preset can say, as `--preset FILE` reads it."""
        return {
            "name": self.preset,
            "description": f"{self.method} as {self.name} was learned",
            "learn": {"method": self.method, "auxiliary": self.auxiliary, "reference_samples": self.reference_samples},
            "methods": {self.method: dict(self.config)},
        }


def plan(
    store: Store, request: Request, *, device: str = "auto", watch: Watch | None = None, is_there: bool = False
) -> Plan:
    """Check everything that can be checked without training, and change nothing.

    Args:
        store: The store.
        request: What would be learned.
        device: "auto", "cpu" or "cuda".
        watch: Who is told.
        is_there: Whether the concept was learned, and its name need not be free.

    Raises:
        NotFound: There is no such method, preset or setting.
        UsageError: A name or a number that cannot be meant.
        PicturesRefused: The folder holds something that must not be learned from.
        AlreadyExists: There is such a concept.
    """
    from conceptctl.diffusion.models import choose_device
    from conceptctl.workflows import extractor

    check_facts(request)
    found = choose_device(device)
    precision = precision_of(request, str(found))
    head = store.head()
    preset = chosen_preset(request, preset_of(head.base))
    method = make_method(request, preset)
    if not is_there:
        check_name(request, head, store)
    check_prompts(request, [each.name for each in head.concepts])
    check_earlier(store, head, request, method)
    watch = watch or Watch()
    checked = check_pictures(store, head, request, watch)
    made = planned(request, preset, method, checked, sizes_of(store, head), str(found), precision)
    if request.feature_extractor is not None and extractor.is_local(request.feature_extractor):
        extractor.open_extractor(head.base, request.feature_extractor, found)
    if request.replace:
        # Its runs are on the weights without the old one, which nobody has found yet.
        return made
    # What else describes pictures may have to be fetched, and is not for a plan.
    describer = None if is_described(request, preset, method, checked) else ""
    settings = checkpoint.settings_of(request, method, made, head, describer)
    runs = checkpoint.interrupted(store.layout, settings, checked)
    for said in checkpoint.begins_anew(runs):
        watch.warn(said)
    if not (step := checkpoint.reached(runs)):
        return made
    return dataclasses.replace(
        made, resumes=step, notes=(f"goes on with an interrupted run, from step {step}", *made.notes)
    )


def check_earlier(store: Store, head: Generation, request: Request, method: Method) -> None:
    """Let the method look at the concepts that it would go on from.

    Raises:
        UsageError: It cannot be learned after them.
    """
    import torch

    from conceptctl.workflows.learn.task import earlier_tasks

    # What is replaced takes its place among them first.
    if head.concepts and not request.replace:
        family = families.facts_of(head.base)
        found = base.tensors(store.layout, head.base)
        shapes = {
            path: (info.shape[0], info.shape[1]) for path, (_, _, info) in found.items() if family.is_target(path)
        }
        method.check(earlier_tasks(store, head, {}, torch.device("cpu")), shapes)


def planned(
    request: Request,
    preset: Preset,
    method: Method,
    checked: Checked,
    sizes: PictureSizes,
    device: str,
    precision: str,
) -> Plan:
    """Say what a run would do with pictures that passed the gate."""
    resolution = request.resolution or sizes.side
    count = preset.learn.auxiliary if request.auxiliary is None else request.auxiliary
    samples = preset.learn.reference_samples if request.reference_samples is None else request.reference_samples
    config = dataclasses.asdict(method.config)
    usual = {**dataclasses.asdict(method.configuration()), **preset.settings(method.name)}
    return Plan(
        name=request.name,
        method=method.name,
        class_word=request.class_word,
        preset=preset.name,
        config=config,
        differs={
            **({"resolution": resolution} if resolution != sizes.side else {}),
            **{name: value for name, value in config.items() if value != usual[name]},
        },
        pictures=len(checked.pictures),
        resolution=resolution,
        sizes=dict(Counter("{}x{}".format(*picture.bucket) for picture in checked.pictures).most_common()),
        skipped=tuple(str(refusal) for refusal in checked.refusals),
        notes=(*checked.notes, *_note_on_describing(request, preset, method, checked)),
        prompts=tuple(dict.fromkeys(prompts_of(request, method, checked))),
        auxiliary=count if method.config.auxiliary_batch else 0,
        auxiliary_side=resolution if resolution < sizes.side else None,
        reference_samples=samples,
        compared=coherence.pictures_compared(preset, checked) if samples > 0 else 0,
        device=device,
        precision=precision,
        later=method.config.later(),
    )


def is_described(request: Request, preset: Preset, method: Method, checked: Checked) -> bool:
    """Whether anything is said of what is around the concept.

    Without a class word CLIP would name the concept itself, a waterfall "in a forest", and what is said is not learned.
    Nor are photographs described on a base that draws none: what CLIP knows of its drawings does not hold for them.
    """
    wanted = method.config.prompts == "described" and bool(request.class_word)
    foreign = unlike_drawings(checked, preset.learn)
    return wanted and not foreign and any(not picture.caption for picture in checked.pictures)


def _note_on_describing(request: Request, preset: Preset, method: Method, checked: Checked) -> tuple[str, ...]:
    if is_described(request, preset, method, checked):
        return ("pictures without a caption are described by what CLIP sees around the concept",)
    if method.config.prompts == "described" and unlike_drawings(checked, preset.learn):
        return ("photographs are not described: what this base's CLIP knows are drawings",)
    if method.config.prompts == "described" and not request.class_word:
        return ("without a class word (--class) nothing is said of what is around the concept",)
    return ()


def prompts_of(request: Request, method: Method, checked: Checked) -> list[str]:
    """The prompt that each picture is learned under: its caption, or the method's own."""
    token = f"V*{request.name}"
    plain = plain_prompt(method, request.name, request.class_word)
    return [picture.caption.replace("{token}", token) if picture.caption else plain for picture in checked.pictures]


def plain_prompt(method: Method, name: str, class_word: str) -> str:
    """What a method asks for a concept by: `a photo of a V*alice`."""
    return " ".join(method.prompt.format(token=f"V*{name}", word=class_word).split())
