"""What `learn` says: what it would do, and what it did."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from conceptctl.cli.stores import size_text
from conceptctl.errors import UsageError
from conceptctl.wording import article, count
from conceptctl.workflows.learn.picture_texts import differs_text, samples_text

if TYPE_CHECKING:
    from conceptctl.store.concept import Record
    from conceptctl.workflows.learn.estimate import Estimate
    from conceptctl.workflows.learn.memory import Fit
    from conceptctl.workflows.learn.plan import Plan
    from conceptctl.workflows.learn.run import LearnedConcept

SHOWN_PROMPTS = 5
SPOILED = 1.1
"""By how much the loss on pictures of its class rises where a concept's training has changed what others look like."""


def duration(seconds: float) -> str:
    """Say a time for people."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def plan_payload(plan: Plan, expected: Estimate | None = None) -> dict[str, Any]:
    """Return a plan as `--json` prints it, with what it will take where that was asked."""
    planned = {**dataclasses.asdict(plan), "config": dict(plan.config), "preset": plan.as_preset()}
    # The stages of the estimate name them.
    del planned["later"]
    return {"plan": planned, **({"estimate": dataclasses.asdict(expected)} if expected else {})}


def plan_lines(plan: Plan, expected: Estimate, *, replaces: bool, slow: str, full: bool) -> list[str]:
    """Say what a run would do, what matters most first.

    Args:
        plan: The plan.
        expected: What it will take.
        replaces: Whether a concept of its name leaves for it.
        slow: What is known of its time where nothing was learned here before; "" for nothing.
        full: Whether every setting is said.
    """
    facts = [
        ("time", _time(plan, expected, slow)),
        ("memory", _memory(expected)),
        ("store", _size(expected)),
        ("prompts", _prompts(plan)),
        ("beside", _beside(plan, expected)),
        ("work", work_text(expected)),
        ("steps", _steps(plan)),
        *((("at", _sizes(plan)),) if _sizes(plan) else ()),
        ("on", f"{plan.device}, in {'fp32' if plan.precision == 'no' else plan.precision}"),
        ("preset", plan.preset + (f", but {listed_settings(plan.differs)}" if plan.differs else "")),
    ]
    if full:
        facts.append(("settings", listed_settings(plan.config)))
    what = f"{count(plan.pictures, 'picture')}{f' of {article(plan.class_word)}' if plan.class_word else ''}"
    place = " in the place of the one that is there" if replaces else ""
    return [
        f"would learn V*{plan.name} from {what} with {plan.method}{place}",
        *(line for name, text in facts for line in _wrapped(name, text)),
        *(f"note: {note}" for note in plan.notes),
        *(f"skipped: {refusal}" for refusal in plan.skipped),
    ]


def _wrapped(name: str, text: str) -> list[str]:
    """A fact in lines as wide as the terminal; elsewhere in one."""
    line = f"  {name:<10}{text}"
    if not sys.stdout.isatty():
        return [line]
    width = shutil.get_terminal_size().columns
    return textwrap.wrap(line, width, subsequent_indent=" " * 12, break_on_hyphens=False) or [line]


def listed_settings(settings: Any) -> str:
    """Say settings and their values."""
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def _steps(plan: Plan) -> str:
    text = f"{plan.config['steps']} of {count(plan.config['batch_size'], 'picture')}"
    return f"at most {text}, until it is learned" if _ends_itself(plan) else text


def _ends_itself(plan: Plan) -> bool:
    return bool(plan.config["stopping"] == "auto")


def _time(plan: Plan, expected: Estimate, slow: str) -> str:
    if expected.seconds_a_step is None:
        unknown = f"not known: no concept here says what it took on {plan.device.partition(':')[0]}"
        return f"{unknown} ({slow})" if slow else unknown
    step = f"V*{expected.like} took {expected.seconds_a_step:.2g} s a step here"
    about = "at most about" if _ends_itself(plan) else "about"
    if expected.seconds is None:
        return f"{about} {duration(expected.seconds_a_step * plan.config['steps'])} and what drawing takes: {step}"
    return f"{about} {duration(expected.seconds)}: {step}"


def _memory(expected: Estimate) -> str:
    if expected.memory is not None:
        return f"about {size_text(expected.memory)}, as V*{expected.like} took"
    return f"more than {size_text(expected.least_memory)}, which the base takes; how much more is not known before"


def _size(expected: Estimate) -> str:
    if expected.size is None:
        return "grows; by how much is not known before the first concept of this method"
    if expected.size_like:
        return f"grows by about {size_text(expected.size)}, as for V*{expected.size_like}"
    return f"grows by at most {size_text(expected.size)}"


def _prompts(plan: Plan) -> str:
    more = len(plan.prompts) - SHOWN_PROMPTS
    shown = "; ".join(plan.prompts[:SHOWN_PROMPTS])
    return f"{shown}; and {more} more" if more > 0 else shown


def _sizes(plan: Plan) -> str:
    """At what sizes pictures are learned, the commonest first; "" where that is the square that the base draws."""
    square = f"{plan.resolution}x{plan.resolution}"
    if "resolution" not in plan.differs and set(plan.sizes) == {square}:
        return ""
    sizes = {size.replace("x", " x "): number for size, number in plan.sizes.items()}
    return ", ".join(f"{size} ({number})" for size, number in sizes.items())


def _beside(plan: Plan, expected: Estimate) -> str:
    if not plan.auxiliary:
        return "no other pictures"
    first = "drawn first" if expected.to_draw else "which the store has"
    return f"{count(plan.auxiliary, 'picture')} of {article(plan.class_word)}, {first}"


def work_text(expected: Estimate) -> str:
    """What a run is made of, in passes of a sample through the network."""
    stages = [
        f"{stage.name} {stage.evaluations:,}" + (f" ({duration(stage.seconds)})" if stage.seconds is not None else "")
        for stage in expected.stages
    ]
    share = 100 * expected.training_share
    return f"{share:.0f} % training, in passes of a sample through the network: {', '.join(stages)}"


def fit_text(fit: Fit) -> str:
    """How a step is fitted into memory."""
    together = f"{count(fit.micro_batch, 'sample')} at a time" if fit.micro_batch else "all samples of a step together"
    again = ", gradients checkpointed" if fit.checkpointing else ""
    takes = ""
    if fit.needed is not None and fit.free is not None:
        takes = f": about {size_text(fit.needed)} beside the model, of {size_text(fit.free)} that are free"
    return f"memory: {together}{again}{takes}"


def ended_text(record: Record) -> str:
    """How a training ended: by itself, of one thing, with samples like its pictures; "" where nobody says."""
    said = record.settings
    parts = (
        _stopped_text(record),
        differs_text(said.get("coherence")),
        samples_text(said.get("sample_similarity"), advise="stopped" not in said),
    )
    return "; ".join(part for part in parts if part)


def _stopped_text(record: Record) -> str:
    said = record.settings
    loss, beside = _pair(said.get("fixed_loss")), _pair(said.get("fixed_class_loss"))
    if loss is None:
        return ""
    fell = f"the loss on its pictures fell by {max(0.0, 100 * (1 - loss[1] / loss[0])):.0f} %"
    most = said.get("max_train_steps")
    text = {
        "learned": f"learned after {record.steps} of at most {most} steps: {fell}, and no further",
        "bound": f"still learning after all {most} steps: {fell}; more may help (--max-train-steps)",
        "nothing": f"hardly anything was learned in {record.steps} steps: {fell}. Is the learning rate very small?",
    }.get(str(said.get("stopped")), "")
    if text and beside and beside[1] > SPOILED * beside[0]:
        rose = 100 * (beside[1] / beside[0] - 1)
        text += f"; others of its class are drawn worse (their loss rose by {rose:.0f} %): fewer steps may do"
    return text


def moved_text(record: Record) -> str:
    """How far a concept went from what it was learned on, and how fast its token; "" where nobody says."""
    weights, token, rate = (
        _finite(record.settings.get(name)) for name in ("moved_weights", "moved_token", "token_rate")
    )
    parts = [
        f"weights by {_share(weights)} of their size" if weights is not None else "",
        f"the token by {_share(token)} of the spread of words" if token is not None else "",
        f"the token's rate {_share(rate)} of the table's deviation a step" if rate is not None else "",
    ]
    return ", ".join(part for part in parts if part)


def _finite(value: Any) -> float | None:
    # A record may be from a file of somebody else's.
    return float(value) if type(value) in (int, float) and 0 <= value < 1e6 else None


def _share(value: float) -> str:
    percent = 100 * value
    return "less than 0.1 %" if percent < 0.1 else f"{percent:.1f} %" if percent < 9.95 else f"{percent:.0f} %"


def _pair(found: Any) -> tuple[float, float] | None:
    # A record may be from a file of somebody else's.
    if not (isinstance(found, list) and len(found) == 2 and all(isinstance(each, int | float) for each in found)):
        return None
    return (found[0], found[1]) if found[0] > 0 else None


def fall(curve: Sequence[float]) -> str:
    """What the loss was at first and at last."""
    return " -> ".join(f"{value:.4f}" for value in (curve if len(curve) < 2 else (curve[0], curve[-1])))


def learned_payload(learned: LearnedConcept, generation: int, *, folded: bool) -> dict[str, Any]:
    """Return what was learned, as `--json` prints it."""
    record = learned.record
    return {
        "generation": generation,
        "concept": {"name": record.name, "token": f"V*{record.name}", "folded": folded},
        "replaced": learned.replaced,
        "plan": plan_payload(learned.plan)["plan"],
        "steps": record.steps,
        "seconds": round(learned.seconds, 1),
        "loss_curve": list(record.loss_curve),
        "settings": dict(record.settings),
    }


def learned_lines(learned: LearnedConcept, generation: int, *, folded: bool) -> list[str]:
    """Say what changed, and what to do next."""
    record, concepts = learned.record, learned.generation.concepts
    curve = record.loss_curve
    size = next(each for each in concepts if each.name == record.name).blob.size
    others = len(concepts) - 1
    now = "the store's only concept" if not others else f"{count(others + 1, 'concept')} in the store now"
    place = " in the place of the old one" if learned.replaced else ""
    pictures = count(record.photos, "picture")
    back = "brings the old one back" if learned.replaced else "takes it back"
    lines = [
        f"learned V*{record.name}{place} in {duration(learned.seconds)} from {pictures}; {now}",
        f"generation {generation}, {size_text(size)}" + (", folded" if folded else f"; conceptctl undo {back}"),
        f"loss {fall(curve)}"
        + (f", mask density {100 * record.settings['density']:.0f} %" if "density" in record.settings else ""),
        *([ended_text(record)] if ended_text(record) else []),
        f'next: conceptctl generate "a photo of a V*{record.name}" -n 4',
    ]
    lines += [f"note: {note}" for note in learned.plan.notes]
    lines += [f"skipped: {refusal}" for refusal in learned.plan.skipped]
    return lines


def settings_in(pairs: list[str]) -> dict[str, Any]:
    """Read `NAME=VALUE` settings; a value is a number where it looks like one.

    Raises:
        UsageError: One has no `=`.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"--set {pair!r} is no NAME=VALUE", hint="--set rank=8")
        found[name] = text
        for kind in (float, int):
            try:
                found[name] = kind(text)
            except ValueError:
                continue
    return found
