"""The report of `eval`: what became of each concept, in pictures and words, and the figures for who reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from conceptctl.errors import AlreadyExists
from conceptctl.report.content import Card, Picture, Report, Strip
from conceptctl.report.page import page
from conceptctl.store.index import LogRow
from conceptctl.store.manifest import now
from conceptctl.store.store import Store
from conceptctl.workflows.evaluate import history, tables, verdict
from conceptctl.workflows.evaluate.events import events
from conceptctl.workflows.evaluate.history import Kept

if TYPE_CHECKING:
    from PIL import Image

    from conceptctl.workflows.evaluate.evaluation import Beside, Evaluation, Measured

LARGEST_SIDE = 256
"""Pixels of a picture's side in a report; one of 50 concepts is still sent by mail."""
LOSSLESS = 128
"""Pixels of the side up to which pictures are kept as they are, pixel for pixel."""
TONES: Mapping[str, str] = {
    verdict.WELL: "good",
    verdict.PART: "fair",
    verdict.DRIFTING: "fair",
    verdict.NOT: "bad",
    verdict.FORGOTTEN: "bad",
    verdict.UNKNOWN: "unknown",
}
SUMMED: Mapping[str, str] = {
    verdict.WELL: "learned well",
    verdict.PART: "learned in part",
    verdict.DRIFTING: "drifting",
    verdict.NOT: "not learned",
    verdict.FORGOTTEN: "forgotten",
    verdict.UNKNOWN: "cannot be told",
}


def write_report(
    store: Store, found: Evaluation, path: Path, *, warn: Callable[[str], None] = lambda text: None
) -> None:
    """Write the report of a run, with the runs before it that can be compared with it.

    Raises:
        AlreadyExists: There is such a file; nothing is overwritten.
    """
    kept = history.read_all(store.layout, store.head(), warn=warn)
    text = page(make_report(found, kept, store.log()))
    try:
        stream = path.open("x", encoding="utf-8")
    except FileExistsError:
        raise AlreadyExists(f"{path} is there already: the figures are kept, the report is not written") from None
    try:
        with stream:
            stream.write(text)
    except OSError:
        path.unlink(missing_ok=True)
        raise


def comparable(found: Evaluation, kept: Iterable[tuple[str, Kept]]) -> dict[int, dict[str, Kept]]:
    """Sort earlier runs by the generation they drew with, and by concept; leave out what was measured otherwise.

    Of each concept only what had the same kernel, extractor and numbers of pictures as now can be joined by a curve.

    Returns:
        By generation and uid, this run among them; of several runs at a generation, the last one counts.
    """
    measured = {each.uid: each.kept for each in found.measured}
    alike = [(uid, each) for uid, each in kept if uid in measured and not history.differences(each, measured[uid])]
    return by_generation([*alike, *measured.items()])


def by_generation(kept: Iterable[tuple[str, Kept]]) -> dict[int, dict[str, Kept]]:
    """Sort evaluations by the generation they drew with, and by concept's uid; the last one of several counts."""
    runs: dict[int, dict[str, Kept]] = {}
    for uid, each in kept:
        runs.setdefault(each.generation, {})[uid] = each
    return dict(sorted(runs.items()))


def make_report(found: Evaluation, kept: Sequence[tuple[str, Kept]], log: Sequence[LogRow] = ()) -> Report:
    """Turn what was found into what is shown.

    Args:
        found: This run.
        kept: Every evaluation that is kept, with the concept's uid.
        log: The store's history.
    """
    runs = comparable(found, kept)
    # Whether a concept was kept is said of each run by itself: nothing is compared between runs.
    everything = by_generation([*kept, *((each.uid, each.kept) for each in found.measured)])
    happened = events(log, everything, {each.uid: each.name for each in found.head.concepts})
    count = len(found.measured)
    return Report(
        title=f"How {count} {'concept fares' if count == 1 else 'concepts fare'}",
        text=f"Drawn with generation {found.head.seq} of the store on {now()[:10]}.",
        summary=_summary(found),
        cards=tuple(map(_card, found.measured)),
        beside=tuple(map(_beside, found.beside)),
        notes=tables.notes(found),
        facts=tables.facts(found),
        tables=(
            *([tables.averages(found)] if found.alike else []),
            tables.concepts(found),
            *([tables.changes(happened)] if happened else []),
        ),
        charts=tables.charts(found, runs),
    )


def _summary(found: Evaluation) -> tuple[tuple[str, str], ...]:
    counts = Counter(each.kept.verdict["code"] for each in found.measured)
    return tuple((TONES[code], f"{counts[code]} {words}") for code, words in SUMMED.items() if counts[code])


def _card(each: Measured) -> Card:
    name, said = each.name, each.kept.verdict
    asked = each.kept.prompt.replace("{}", name)
    strips = (
        ("Held-out", f"real pictures, not learned from: {each.kept.heldout} in all", each.shown.heldout, False),
        ("Just after learning", f"“{asked}”, drawn with the model of then", each.shown.after_learning, True),
        ("Now", "the same seeds, drawn with the model of today", each.shown.current, True),
    )
    return Card(
        f"V*{name}",
        each.class_word,
        TONES[said["code"]],
        said["text"],
        said["sentence"],
        tuple(
            Strip(label, text, _pictures(pictures, f"{name}, {label.lower()}", drawn=drawn))
            for label, text, pictures, drawn in strips
            if pictures
        ),
    )


def _beside(each: Beside) -> Strip:
    return Strip(f"“{each.prompt}”", "", _pictures(each.pictures, each.prompt, drawn=True))


def _pictures(pictures: Sequence[Image.Image], what: str, *, drawn: bool) -> tuple[Picture, ...]:
    return tuple(
        _picture(picture, f"seed {place}" if drawn else "", f"{what}, {'seed' if drawn else 'picture'} {place}", drawn)
        for place, picture in enumerate(pictures)
    )


def _picture(picture: Image.Image, label: str, description: str, drawn: bool) -> Picture:
    from PIL import Image

    from conceptctl.images.writing import encoded

    if max(picture.size) > LARGEST_SIDE:
        scale = LARGEST_SIDE / max(picture.size)
        size = (round(picture.width * scale), round(picture.height * scale))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    kind = "PNG" if max(picture.size) <= LOSSLESS else "JPEG"
    return Picture(label, description, f"image/{kind.lower()}", encoded(picture, kind, noted=drawn), picture.size)
