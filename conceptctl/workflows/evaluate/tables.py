"""The figures of a report, for those who read them: tables and charts, and what they were measured with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from conceptctl.metrics.continual import averaged
from conceptctl.metrics.mmd import SCALE
from conceptctl.report.content import Chart, Series, Table
from conceptctl.workflows.evaluate.events import Event, is_kept
from conceptctl.workflows.evaluate.figures import CROSS_CHECK
from conceptctl.workflows.evaluate.history import Kept
from conceptctl.workflows.evaluate.verdict import UNBIASED

if TYPE_CHECKING:
    from conceptctl.workflows.evaluate.evaluation import Evaluation

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
    "closeness": "to the nearest held-out pictures: 0 is as far as the class's pictures, 1 as near as real ones are",
    "closeness_learned": "the same just after learning",
    "nearest_heldout": "leave-one-out: how alike each held-out picture and the one nearest to it are (cosine)",
    "nearest_class": "how alike what the base draws of the class and the nearest held-out picture are (cosine)",
    "diversity": "how far apart the generated pictures are, over how far apart the held-out ones are; 1 is alike",
}
TITLES = {"kid": "KID", "clip_i2i": "CLIP I2I", "clip_t2i": "CLIP T2I", "noise_floor": "noise floor",
          "noise_floor_heldout": "noise floor, held-out", "closeness_learned": "closeness after learning",
          "nearest_heldout": "nearest, held-out", "nearest_class": "nearest, class"}  # fmt: skip
ASIDE = {"noise_floor_heldout", "nearest_heldout", "nearest_class", "closeness_learned"}
"""What a table of concepts leaves out, to be narrow enough for paper: it stands among the means and in `--json`."""


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


def facts(found: Evaluation) -> tuple[tuple[str, str], ...]:
    """Say what an evaluation was measured with, by name."""
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


def averages(found: Evaluation) -> Table:
    """Return the means over concepts, each with what it means."""
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


def concepts(found: Evaluation) -> Table:
    """Return the figures of each concept."""
    names = tuple(name for name in found.averages if name not in ASIDE)
    first = {step.uid: step.drift.first_time if step.drift else None for step in found.steps}
    rows = tuple(
        (
            each.name,
            each.class_word or "–",
            f"{each.kept.drawn} / {each.kept.heldout}",
            *(number(each.kept.figures.get(name)) for name in names),
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


def changes(happened: Sequence[Event]) -> Table:
    """Return what each forget, import and compact left."""
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


SIDE_BY_SIDE = "concept, in the order of learning"
OVER_TIME = "generation drawn with"


def charts(found: Evaluation, runs: Mapping[int, Mapping[str, Kept]]) -> tuple[Chart, ...]:
    """Return how figures went over evaluations, and what each concept brought.

    Args:
        found: This run.
        runs: Every comparable run, by generation and the concept's uid.
    """
    quality, forgetting = (_lines(found, runs, figure) for figure in ("A_mmd", "F_mmd"))
    text = "distance from what the pictures were just after learning"
    return (
        _closeness(found),
        Chart("Quality", "A_mmd: distance from the held-out pictures.", OVER_TIME, "A_mmd", quality),
        Chart("Forgetting", f"F_mmd: {text}.", OVER_TIME, "F_mmd", forgetting),
        _plasticity(found),
        *_weights(found),
    )


def _closeness(found: Evaluation) -> Chart:
    now, learned = (
        {place: each.kept.figures.get(figure) for place, each in enumerate(found.measured)}
        for figure in ("closeness", "closeness_learned")
    )
    return _bars(
        "Closeness",
        "Nearest held-out pictures: 0 is as far as the class's pictures, 1 as near as real ones to one another.",
        "closeness",
        tuple(each.name for each in found.measured),
        {"just after learning": learned, "now": now},
    )


def _plasticity(found: Evaluation) -> Chart:
    return _bars(
        "Plasticity",
        "P_mmd of each concept: rising means that later ones are learned less well.",
        "P_mmd",
        tuple(each.name for each in found.measured),
        {"P_mmd": {place: each.kept.figures["P_mmd"] for place, each in enumerate(found.measured)}},
    )


def _weights(found: Evaluation) -> tuple[Chart, Chart]:
    steps = [(step.name, step.drift) for step in found.steps if step.drift is not None]
    names = tuple(name for name, _ in steps)
    firsts = {place: drift.first_time for place, (_, drift) in enumerate(steps)}
    return (
        _bars(
            "Distance from the base",
            "The norm of all that was added to the weights, after each concept. Where it stops growing, the model is "
            "saturated.",
            "||W - W_init||",
            names,
            {"distance": {place: drift.distance for place, (_, drift) in enumerate(steps)}},
        ),
        _bars(
            "Weights changed for the first time",
            "Of the weights that a concept changes, those that none before it had changed.",
            "%",
            names,
            {"changed first": {place: None if share is None else 100 * share for place, share in firsts.items()}},
        ),
    )


def _bars(
    title: str, text: str, label: str, names: tuple[str, ...], values: Mapping[str, Mapping[int, float | None]]
) -> Chart:
    """Different concepts side by side, which no line joins."""
    every = _known(*(_series(name, points) for name, points in values.items()))
    return Chart(title, text, SIDE_BY_SIDE, label, every, "bars", names)


def _lines(found: Evaluation, runs: Mapping[int, Mapping[str, Kept]], figure: str) -> tuple[Series, ...]:
    """One line a concept, and their mean over the concepts of each run where they can be averaged."""
    singles = [
        _series(each.name, {seq: run[each.uid].figures.get(figure) for seq, run in runs.items() if each.uid in run})
        for each in found.measured
    ]
    means = {
        seq: averaged([kept.figures for kept in run.values()], [kept.last for kept in run.values()])[figure]
        for seq, run in runs.items()
    }
    mean = [_series("mean", means, main=True)] if found.alike and len(found.measured) > 1 else []
    return _known(*mean, *singles)


def _known(*every: Series) -> tuple[Series, ...]:
    return tuple(series for series in every if series.points)


def _series(label: str, points: Mapping[int, float | None], *, main: bool = False) -> Series:
    return Series(label, tuple(sorted((x, y) for x, y in points.items() if y is not None)), main=main)


def notes(found: Evaluation) -> tuple[str, ...]:
    """Say what to know before the figures are read."""
    fewest = min(min(each.kept.drawn, each.kept.heldout) for each in found.measured)
    said = []
    if fewest < UNBIASED:
        said.append(
            f"KID is of as few as {fewest} pictures here: it is unbiased, but below about {UNBIASED} mostly chance."
        )
    if not found.alike:
        said.append(
            "The concepts were measured with different numbers of pictures, on which MMD depends: they are not "
            "averaged and not to be compared with one another."
        )
    return tuple(said)
