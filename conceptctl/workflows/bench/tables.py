"""The tables of a benchmark's report: the papers' figures beside ours, differences with their p-values, and costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from conceptctl.metrics.continual import mean
from conceptctl.report.content import Table
from conceptctl.workflows.bench.measures import COSTS, LABELS, LARGER_IS_BETTER
from conceptctl.workflows.bench.results import Bench, Result, Row
from conceptctl.workflows.bench.spec import FIGURES
from conceptctl.workflows.bench.statistics import holm, kendall, number, over_seeds, sign_flip

QUALITY = (
    "A_mmd",
    "F_mmd",
    "P_mmd",
    "BwT_mmd",
    "kid",
    "clip_i2i",
    "clip_t2i",
    "success_learned",
    "success",
    "attributes",
    "diversity",
)
TITLES = {
    **LABELS,
    "success_learned": "success, just learned",
    "success": "success at the end",
    "n_param_trained": "N_param trained %",
    "n_param_trained_with_token": "with the token %",
    "n_param_stored": "stored as kept %",
    "changed": "weights changed %",
    "density": "masks' density",
    "stored_bytes": "MB a concept",
    "seconds_a_step": "s a step",
    "peak_memory": "peak memory GB",
    "seconds": "s a concept",
    "steps": "steps, ended by itself",
    "pairs_A_mmd": "A_mmd",
    "pairs_kid": "KID",
    "pairs_clip_i2i": "CLIP I2I",
    "pairs_both": "both seen by the judge",
}
PAIRS = ("pairs_A_mmd", "pairs_kid", "pairs_clip_i2i", "pairs_both")
EIGENVALUES = 5
COMPARED = ("A_mmd", "F_mmd", "P_mmd", "success")
_UNITS = {"stored_bytes": 1e6, "peak_memory": 1e9}
_BETTER = {True: "↑", False: "↓"}


def spelled(row: Row[Result], name: str) -> str:
    """A row's mean over seeds, with the deviation where there are several."""
    values = [value / _UNITS.get(name, 1) for value in row.values(name)]
    return over_seeds(values)


def tables(bench: Bench) -> tuple[Table, ...]:
    """Return every table of a benchmark that has something to say."""
    made = [_quality(bench), _differences(bench), _costs(bench)]
    if any(row.values("pairs_A_mmd") for row in bench.rows):
        made.append(_pairs(bench))
    made += [_classified(bench), _eigenvalues(bench)]
    return tuple(each for each in made if each is not None)


def _quality(bench: Bench) -> Table:
    """The papers' table: ours, and beside each figure the paper's where it has one."""
    paper = bench.spec["paper"]["values"]
    shown = [name for name in QUALITY if any(row.values(name) for row in bench.rows)]
    published = [name for name in shown if any(name in row for row in paper.values())]
    columns = ["method", "seeds"]
    for name in shown:
        arrow = "" if name == "diversity" else f" {_BETTER[name in LARGER_IS_BETTER or name == 'success_learned']}"
        columns += [TITLES[name] + arrow, *(["paper"] if name in published else [])]
    rows = []
    for row in bench.rows:
        cells = [row.label, str(len(row.results))]
        for name in shown:
            cells.append(spelled(row, name))
            if name in published:
                cells.append(number(paper.get(row.label, {}).get(name)))
        rows.append(tuple(cells))
    several = any(len(row.results) > 1 for row in bench.rows)
    notes = [
        "MMD and KID are x 10^3. A_mmd, KID, CLIP I2I and T2I, success and attributes are of the end of the sequence; "
        "F_mmd and BwT_mmd leave out what was learned last. Success is the share of pictures that the judge accepts: "
        "each detail of the concept, and all of it but for one slip. ↓ smaller is better, ↑ larger is better."
        + (" ± is the standard deviation over seeds." if several else " One seed: nothing is said of deviations."),
    ]
    if published:
        notes.append(
            f"Paper: {bench.spec['paper']['source']}. Another base, other pictures, another kernel: compare orders."
        )
    return Table("Quality", tuple(columns), tuple(rows), tuple(notes))


def _differences(bench: Bench) -> Table | None:
    """How every row differs from the reference, concept by concept and seed by seed."""
    label = bench.spec["reference"]
    reference = bench.row(label)
    others = [row for row in bench.rows if row.label != label]
    if reference is None or not others:
        return None
    found = {row.label: {name: paired(row, reference, name) for name in COMPARED} for row in others}
    adjusted: dict[str, dict[str, float]] = {}
    for name in COMPARED:
        p_values = {row: sign_flip(each[name]) for row, each in found.items()}
        adjusted[name] = holm({row: value for row, value in p_values.items() if value is not None})
    columns = ["method", "pairs"]
    for name in COMPARED:
        columns += [f"{TITLES[name]}, difference", "p"]
    rows = []
    for row, each in found.items():
        cells = [row, str(len(each["A_mmd"]))]
        for name in COMPARED:
            cells += [_signed(mean(each[name])), _p(adjusted[name].get(row))]
        rows.append(tuple(cells))
    return Table(
        f"Differences from {label}",
        tuple(columns),
        tuple(rows),
        (
            "Mean difference over pairs of one concept and one seed, and the two-sided p-value of a paired sign-flip "
            "permutation test, adjusted for the number of rows (Holm). Concepts of one sequence depend on each other, "
            "so a small p from one seed says less than one from several.",
        ),
    )


def paired(row: Row[Result], reference: Row[Result], figure: str) -> list[float]:
    """The differences of a figure, for every concept and seed that both have."""
    found = []
    theirs = {result.seed: result for result in reference.results}
    for result in row.results:
        other = theirs.get(result.seed)
        if other is None or not _same_pictures(result, other):
            continue
        values = zip(result.at_the_end(figure), other.at_the_end(figure), strict=True)
        found += [ours - its for ours, its in values if ours is not None and its is not None]
    return found


def _same_pictures(one: Result, other: Result) -> bool:
    return bool(one.found["cell"]["pictures_sha256"] == other.found["cell"]["pictures_sha256"])


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{'+' if value > 0 else ''}{number(value)}"


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _costs(bench: Bench) -> Table:
    """What a concept took; beside N_param the paper's."""
    paper = bench.spec["paper"]["values"]
    shown = [name for name in (*COSTS, "steps") if any(row.values(name) for row in bench.rows)]
    published = [name for name in shown if name in FIGURES and any(name in row for row in paper.values())]
    columns = ["method"]
    for name in shown:
        columns += [TITLES[name], *(["paper"] if name in published else [])]
    rows = []
    for row in bench.rows:
        cells = [row.label]
        for name in shown:
            cells.append(spelled(row, name))
            if name in published:
                cells.append(number(paper.get(row.label, {}).get(name)))
        rows.append(tuple(cells))
    return Table(
        "Cost",
        tuple(columns),
        tuple(rows),
        (
            "Means over concepts. N_param is in % of the network that is adapted. Stored as kept: a concept's file "
            "without features, in fp32 numbers. Times are comparable only where nothing else ran on the "
            "machine; on a CPU peak memory is that of the process so far, other cells included.",
        ),
    )


def _pairs(bench: Bench) -> Table:
    rows = tuple(
        (row.label, *(spelled(row, name) for name in PAIRS)) for row in bench.rows if row.values("pairs_A_mmd")
    )
    return Table(
        "Two neighbours of the sequence in one picture, at its end",
        ("method", *(TITLES[name] for name in PAIRS)),
        rows,
        ("A_mmd, KID and CLIP I2I are means of those with each of the two concepts' held-out pictures.",),
    )


def _classified(bench: Bench) -> Table | None:
    """Training pictures whose own prompt has the largest score, over tasks ("Mining your own secrets", figure 7)."""
    checked = _with(bench, "classified")
    times = sorted({each["after"] for found in checked.values() for one in found for each in one})
    if not times:
        return None
    rows = []
    for label, found in checked.items():
        cells = [label]
        for after in times:
            right = [each["right"] for one in found for each in one if each["after"] == after]
            cells.append(over_seeds([100 * sum(shares) / after for shares in right]))
        rows.append(tuple(cells))
    return Table(
        "Training pictures classified right by their scores, %",
        ("method", *(f"after {after}" for after in times)),
        tuple(rows),
        ("Of all concepts so far, among the prompts of all of them: after the first there is nothing to choose from.",),
    )


def _eigenvalues(bench: Bench) -> Table | None:
    """The Fisher matrix with the scores in the loss and without ("Mining your own secrets", figure 6)."""
    rows = []
    for label, found in _with(bench, "fisher").items():
        for factor in ("A", "B"):
            for which in ("without", "with"):
                places = zip(*(one[which][factor][:EIGENVALUES] for one in found), strict=False)
                told = [over_seeds(values) for values in places]
                rows.append((label, factor, which, *told, *["–"] * (EIGENVALUES - len(told))))
    if not rows:
        return None
    return Table(
        "Largest eigenvalues of the Fisher matrix, after the last concept",
        ("method", "factor", "scores", *map(str, range(1, EIGENVALUES + 1))),
        tuple(rows),
        ("Of the first target's factors, over the same batches, with the scores in the loss and without.",),
    )


def _with(bench: Bench, name: str) -> dict[str, list[Any]]:
    """What results have that not all have, by row."""
    found = {row.label: [each.found[name] for each in row.results if name in each.found] for row in bench.rows}
    return {label: each for label, each in found.items() if each}


def notes(bench: Bench) -> tuple[str, ...]:
    """What is to be read off the tables."""
    found = [_order(bench), *_gaps(bench)]
    found += unfinished(bench)
    again = [f"{row.label}/{result.seed}" for row in bench.rows for result in row.results if result.found["starts"] > 1]
    if again:
        found.append(f"Interrupted and gone on with: {', '.join(again)}.")
    return tuple(each for each in found if each)


def unfinished(bench: Bench) -> tuple[str, ...]:
    """Which cells have no results, and why as far as that is known."""
    missing = (f"Not run, or not to the end: {'; '.join(_by_seeds(bench))}.",) if bench.missing else ()
    return (*missing, *(f"Failed: {name}: {problem}." for name, problem in bench.failed.items()))


def _by_seeds(bench: Bench) -> Iterator[str]:
    """Which rows have no results, of seeds that lack the same ones at once."""
    lacking: dict[int, list[str]] = {}
    for name in bench.missing:
        label, _, seed = name.rpartition("/")
        lacking.setdefault(int(seed), []).append(label)
    for labels in dict.fromkeys(map(tuple, lacking.values())):
        seeds = _seeds(seed for seed, those in lacking.items() if tuple(those) == labels)
        whole = len(labels) == len(bench.spec["entries"])
        yield f"of {seeds}: {'every row' if whole else ' · '.join(labels)}"


def _order(bench: Bench) -> str:
    """The order of the rows by A_mmd, and the paper's."""
    shared = frozenset.intersection(*(row.seeds for row in bench.rows))
    every = frozenset.union(*(row.seeds for row in bench.rows))
    # Sequences differ: rows are compared on those that all of them have.
    ours = {row.label: mean(row.values("A_mmd", shared or None)) for row in bench.rows}
    known = {label: value for label, value in ours.items() if value is not None}
    over = (
        ""
        if shared == every
        else f", over {_seeds(shared)}, which all rows have"
        if shared
        else ", each over its own seeds"
    )
    text = f"By A_mmd{over}, best first: {' < '.join(sorted(known, key=lambda label: known[label]))}."
    paper = {label: row["A_mmd"] for label, row in bench.spec["paper"]["values"].items() if "A_mmd" in row}
    both = [label for label in known if label in paper]
    if len(both) < 3:
        return text
    tau = kendall([known[label] for label in both], [paper[label] for label in both])
    order = " < ".join(sorted(both, key=lambda label: paper[label]))
    return f"{text} The paper: {order}. Kendall's tau of the two orders: {number(tau)}."


def _gaps(bench: Bench) -> Sequence[str]:
    """How far rows are from each upper bound, in % of it (000, table 3)."""
    bounds = [(row, bound) for row in bench.rows if (bound := _bound(row.results[0]))]
    others = [row for row in bench.rows if not _bound(row.results[0])]
    found = []
    for row, bound in bounds:
        gaps = [
            f"{other.label} {100 * (value / least - 1):.0f} %"
            for other in others
            if (least := mean(row.values("A_mmd", other.seeds)))
            and (value := mean(other.values("A_mmd", row.seeds))) is not None
        ]
        found += [f"A_mmd above that of {row.label}, {bound}: {', '.join(gaps)}."] if gaps else []
    return found


def _seeds(seeds: Iterable[int]) -> str:
    told = [str(seed) for seed in sorted(seeds)]
    return f"seed{'s' * (len(told) > 1)} {', '.join(told)}"


def _bound(result: Result) -> str:
    """What makes a row an upper bound; "" for one in which one concept is learned after the other."""
    return "each concept alone" if result.alone else "all concepts at once" if result.joint else ""


def agreement(quick: Bench, full: Bench) -> str:
    """Say how the ranking of one protocol agrees with that of another."""
    parts = []
    for name in COMPARED:
        values = [
            (mean(row.values(name, other.seeds)), mean(other.values(name, row.seeds)))
            for row in quick.rows
            if (other := full.row(row.label)) is not None
        ]
        known = [(one, two) for one, two in values if one is not None and two is not None]
        if len(known) >= 3:
            tau = kendall([one for one, _ in known], [two for _, two in known])
            parts.append(f"{TITLES[name]} {number(tau)} ({len(known)} rows)")
    return f"Kendall's tau of {quick.name} and {full.name}: {', '.join(parts)}." if parts else ""
