"""The report of `eval`: what was measured now and before, as one HTML file."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from conceptctl.errors import AlreadyExists
from conceptctl.metrics.continual import averaged
from conceptctl.metrics.mmd import SCALE
from conceptctl.report.content import Chart, Line, Report, Sheet, Subject, Table
from conceptctl.report.page import page
from conceptctl.store.index import LogRow
from conceptctl.store.manifest import now
from conceptctl.store.store import Store
from conceptctl.workflows.evaluate import history
from conceptctl.workflows.evaluate.events import Event, events, is_kept
from conceptctl.workflows.evaluate.figures import CROSS_CHECK
from conceptctl.workflows.evaluate.history import Kept

if TYPE_CHECKING:
    from PIL import Image

    from conceptctl.workflows.evaluate.evaluation import Evaluation, Measured

COLUMNS = 4
LARGEST_SIDE = 128
"""Pixels of a picture's side on a sheet: a report of 50 concepts is still sent by mail."""

MEANINGS = {
    "A_mmd": "how far today's pictures are from the held-out ones; smaller is better",
    "F_mmd": "forgetting: how far they have gone from what they were just after learning; 0 is best",
    "P_mmd": "plasticity: how far they were from the held-out ones just after learning; smaller is better",
    "BwT_mmd": "backward transfer, P_mmd - A_mmd; larger is better, 0 when nothing has changed",
    "kid": "the unbiased cubic MMD of today's pictures and the held-out ones; smaller is better",
    "clip_i2i": "mean cosine similarity with the held-out pictures; larger is better",
    "clip_t2i": "mean cosine similarity with the prompt, in which the class word stands for the concept",
    "noise_floor": "MMD between two halves of the generated pictures: what no difference at all looks like",
    "noise_floor_heldout": "the same of the held-out pictures",
    "diversity": "how far apart the generated pictures are, over how far apart the held-out ones are; 1 is alike",
}
TITLES = {"kid": "KID", "clip_i2i": "CLIP I2I", "clip_t2i": "CLIP T2I", "noise_floor": "noise floor",
          "noise_floor_heldout": "noise floor, held-out"}  # fmt: skip


def write_report(
    store: Store, found: Evaluation, path: Path, *, warn: Callable[[str], None] = lambda text: None
) -> None:
    """Write the report of a run, with the runs before it that can be compared with it.

    Raises:
        AlreadyExists: There is such a file; nothing is overwritten.
    """
    kept = history.read_all(store.layout, store.head(), warn=warn)
    text = page(make_report(found, comparable(found, kept), store.log()))
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise AlreadyExists(f"{path} is there already: the figures are kept, the report is not written") from None


def comparable(found: Evaluation, kept: Iterable[tuple[str, Kept]]) -> dict[int, dict[str, Kept]]:
    """Sort earlier runs by the generation they drew with, and by concept; leave out what was measured otherwise.

    Returns:
        By generation and uid, this run among them; of several runs at a generation, the last one counts.
    """
    measured = {each.uid: each.kept for each in found.measured}
    like = found.measured[0].kept
    runs: dict[int, dict[str, Kept]] = {}
    for uid, each in kept:
        if each.extractor["sha256"] == like.extractor["sha256"] and each.kernel == like.kernel:
            runs.setdefault(each.generation, {})[uid] = each
    runs.setdefault(found.head.seq, {}).update(measured)
    return dict(sorted(runs.items()))


def make_report(found: Evaluation, runs: Mapping[int, Mapping[str, Kept]], log: Sequence[LogRow] = ()) -> Report:
    """Turn what was found into what is shown.

    Args:
        found: This run.
        runs: Every comparable run, by generation and the concept's uid.
        log: The store's history.
    """
    happened = events(log, runs, {each.uid: each.name for each in found.head.concepts})
    count = len(found.measured)
    return Report(
        title=f"How {count} {'concept fares' if count == 1 else 'concepts fare'}",
        text=f"Measured with generation {found.head.seq} of the store, {now()}.",
        facts=_facts(found),
        tables=(_averages(found), _concepts(found), *([_events(happened)] if happened else [])),
        charts=_charts(found, runs),
        subjects=tuple(map(_subject, found.measured)),
    )


def number(value: float | None) -> str:
    """Spell a figure for people."""
    return "–" if value is None else f"{value:.4g}" if abs(value) >= 0.001 or value == 0 else f"{value:.1e}"


def kernel_text(kernel: Mapping[str, object]) -> str:
    """Spell the five settings of the kernel."""
    return (
        f"polynomial, degree {kernel['degree']}, gamma {kernel['gamma']:.6g}, offset {kernel['offset']:g}, "
        f"{'unit-norm' if kernel['unit_norm'] else 'raw'} features, "
        f"{'biased (V-statistic)' if kernel['biased'] else 'unbiased'}; MMD x {SCALE:g}"
    )


def _facts(found: Evaluation) -> tuple[tuple[str, str], ...]:
    kept = [each.kept for each in found.measured]
    drawn = sorted({(each.drawn, each.steps, each.guidance) for each in kept})
    settings = "; ".join(f"{count} of each, {steps} steps, guidance {scale:g}" for count, steps, scale in drawn)
    facts = [
        ("base", f"{found.head.base.name} ({found.head.base.sha256[:12]})"),
        ("kernel", kernel_text(kept[0].kernel)),
        ("features", f"CLIP {kept[0].extractor['name']} (sha256 {kept[0].extractor['sha256']})"),
        ("pictures", f"{settings}; seeds from 0"),
        ("prompts", ", ".join(sorted({each.prompt.replace("{}", "NAME") for each in kept}))),
    ]
    if found.left_out:
        facts.append(("no held-out pictures", ", ".join(found.left_out)))
    return tuple(facts)


def _averages(found: Evaluation) -> Table:
    rows = [(TITLES.get(name, name), number(value), MEANINGS.get(name, "")) for name, value in found.averages.items()]
    rows += [
        (f"{name}, RBF", number(value), f"the same with the kernel of CMMD: RBF, sigma {CROSS_CHECK.sigma:g}")
        for name, value in found.rbf.items()
    ]
    parameters = found.parameters
    rows += [
        ("N_param trained", _percent(parameters.trained), "in the U-Net for one concept, of its parameters"),
        ("... with the token", _percent(parameters.trained_in_all), "the same with what makes the token"),
        ("N_param stored", _percent(parameters.stored), "weights that are kept changed, all concepts together"),
    ]
    return Table(
        "Averages over concepts",
        ("figure", "value", "meaning"),
        tuple(rows),
        ("F_mmd and BwT_mmd leave out the concept that was learned last: nothing came after it.",),
        explained=True,
    )


def _concepts(found: Evaluation) -> Table:
    names = tuple(found.averages)
    first = {step.uid: step.drift.first_time if step.drift else None for step in found.steps}
    rows = tuple(
        (
            each.name,
            each.class_word or "–",
            f"{each.kept.drawn} / {each.kept.heldout}",
            *(number(each.kept.figures[name]) for name in names),
            {True: "yes", False: "no", None: "–"}[is_kept(each.kept)],
            _percent(each.parameters.trained),
            _percent(each.parameters.stored),
            _percent(None if (share := first[each.uid]) is None else 100 * share),
        )
        for each in found.measured
    )
    columns = ("concept", "class", "drawn / held-out", *(TITLES.get(name, name) for name in names))
    return Table(
        "Each concept, in the order of learning",
        (*columns, "kept", "N_param trained", "N_param stored", "changed first"),
        rows,
    )


def _events(happened: Sequence[Event]) -> Table:
    rows = tuple(
        (
            str(each.generation),
            each.what,
            "not measured" if each.measured is None else f"generation {each.measured}",
            *(", ".join(names) or "–" for names in (each.kept, each.changed, each.unknown)),
        )
        for each in happened
    )
    return Table(
        "What forget, import and compact left",
        ("generation", "what", "measured with", "kept", "not kept", "not known"),
        rows,
        (
            "Kept is what looks as it did just after learning: its F_mmd is no larger than its noise floor. A change "
            "is measured by the first eval before anything else changes the model.",
        ),
        explained=True,
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g} %"


def _charts(found: Evaluation, runs: Mapping[int, Mapping[str, Kept]]) -> tuple[Chart, ...]:
    drifts = [(found.introduced_in.get(step.uid), step.drift) for step in found.steps]
    introduced = [(seq, drift) for seq, drift in drifts if seq is not None and drift is not None]
    over = "generation drawn with"
    learned = "generation that learned the concept"
    plasticity = [
        (found.introduced_in[each.uid], each.kept.figures["P_mmd"])
        for each in found.measured
        if each.uid in found.introduced_in
    ]
    distances = [(seq, drift.distance) for seq, drift in introduced]
    firsts = [(seq, None if drift.first_time is None else 100 * drift.first_time) for seq, drift in introduced]
    return (
        Chart("Quality", "A_mmd: distance from the held-out pictures.", over, "A_mmd", _lines(found, runs, "A_mmd")),
        Chart(
            "Forgetting",
            "F_mmd: distance from what the pictures were just after learning.",
            over,
            "F_mmd",
            _lines(found, runs, "F_mmd"),
        ),
        Chart(
            "Plasticity",
            "P_mmd of each concept: rising means that later ones are learned less well.",
            learned,
            "P_mmd",
            (_line("P_mmd", plasticity),),
        ),
        Chart(
            "Distance from the base",
            "The norm of all that was added to the weights. Where it stops growing, the model is saturated.",
            learned,
            "||W - W_init||",
            (_line("distance", distances),),
        ),
        Chart(
            "Weights changed for the first time",
            "Of the weights that a concept changes, those that none before it had changed.",
            learned,
            "%",
            (_line("changed first", firsts),),
        ),
    )


def _lines(found: Evaluation, runs: Mapping[int, Mapping[str, Kept]], figure: str) -> tuple[Line, ...]:
    """One line a concept, and their mean over the concepts of each run."""
    singles = [
        _line(each.name, [(seq, run[each.uid].figures[figure]) for seq, run in runs.items() if each.uid in run])
        for each in found.measured
    ]
    means = [
        (seq, averaged([kept.figures for kept in run.values()], [kept.last for kept in run.values()])[figure])
        for seq, run in runs.items()
    ]
    return (_line("mean", means, main=True), *singles)


def _line(label: str, points: Sequence[tuple[int, float | None]], *, main: bool = False) -> Line:
    return Line(label, tuple(sorted((seq, value) for seq, value in points if value is not None)), main)


def _subject(each: Measured) -> Subject:
    name = each.name
    kinds = (
        ("held-out", each.shown.heldout, f"real pictures of {name} that were not learned from"),
        ("just after learning", each.shown.after_learning, f"pictures of {name} drawn when it had just been learned"),
        ("now", each.shown.current, f"pictures of {name} drawn now, with the same seeds"),
    )
    text = ", ".join(
        f"{figure} {number(each.kept.figures[figure])}" for figure in ("A_mmd", "F_mmd", "P_mmd", "diversity")
    )
    sheets = tuple(_sheet(label, f"{len(pictures)} {words}", pictures) for label, pictures, words in kinds if pictures)
    return Subject(f"V*{name}", f"{each.class_word + ': ' if each.class_word else ''}{text}", sheets)


def _sheet(label: str, description: str, pictures: Sequence[Image.Image]) -> Sheet:
    from PIL import Image

    side = min(LARGEST_SIDE, pictures[0].width)
    columns = min(COLUMNS, len(pictures))
    sheet = Image.new("RGB", (columns * side, -(-len(pictures) // columns) * side), "white")
    for index, picture in enumerate(pictures):
        scaled = picture if picture.width == side else picture.resize((side, side), Image.Resampling.LANCZOS)
        sheet.paste(scaled, (index % columns * side, index // columns * side))
    stream = io.BytesIO()
    sheet.save(stream, "PNG", optimize=True)
    return Sheet(label, description, stream.getvalue(), sheet.size)
