"""`conceptctl bench`: methods compared on one sequence of concepts, and what that is made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from conceptctl.cli.help import Command
from conceptctl.cli.options import DeviceOption, ExtractorOption, JsonOption, QuietOption, epilog
from conceptctl.cli.output import Output
from conceptctl.errors import UsageError
from conceptctl.wording import count

if TYPE_CHECKING:
    from conceptctl.cli.progress import ProgressLine
    from conceptctl.workflows.bench.cell import Cell
    from conceptctl.workflows.bench.classification.spec import ClassSpec
    from conceptctl.workflows.bench.planned import Planned
    from conceptctl.workflows.bench.run import Watch
    from conceptctl.workflows.bench.spec import Spec

EPILOG = epilog(
    "conceptctl bench data ./concepts",
    "conceptctl bench data ./fifty --concepts 50 --seed 1",
    codes=(2, 5, 7),
)
RUN_EPILOG = epilog(
    "conceptctl bench run smoke --output ./bench",
    "conceptctl bench run table1-people --output ./bench --dry-run",
    "conceptctl bench run table1-people --cells 'stamina/*' --output ./bench",
    "conceptctl bench run dc-scores-6 --base ./sd14 --data ./customconcept --output ./bench",
    codes=(2, 3, 4, 5, 6, 7, 8, 9, 130),
)
REPORT_EPILOG = epilog("conceptctl bench report ./bench", codes=(2, 4, 5, 7))
LIST_EPILOG = epilog("conceptctl bench list", codes=(2,))
SHOW_EPILOG = epilog("conceptctl bench show keeping", "conceptctl bench show keeping > mine.toml", codes=(2, 5))
app = typer.Typer(help="Compare methods.", no_args_is_help=True, epilog=RUN_EPILOG, rich_markup_mode=None)
AtOnceOption = Annotated[
    int | None,
    typer.Option(
        help="Cells at the same time; by default one a graphics card, or one a core as far as memory goes.", metavar="N"
    ),
]
PicturesOption = Annotated[
    Path | None,
    typer.Option(
        help="Your pictures: DIR/NAME/train, DIR/NAME/heldout, DIR/concepts.json; for classes DIR/CLASS.",
        metavar="DIR",
    ),
]
DirArgument = Annotated[Path, typer.Argument(help="What `bench run --output` named.", metavar="DIR")]


@app.command("data", cls=Command, epilog=EPILOG)
def data(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.", metavar="DIR")],
    concepts: Annotated[int, typer.Option(help="How many concepts; figures are published for 10, 20, 50, 500.")] = 10,
    seed: Annotated[int, typer.Option(help="Which sequence; different seeds share no concept.")] = 0,
    train: Annotated[int, typer.Option(help="Training pictures of each concept.")] = 12,
    heldout: Annotated[int, typer.Option(help="Held-out pictures of each concept.")] = 40,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write concepts of the pocket world as picture folders: DIR/NAME/train, DIR/NAME/heldout, DIR/concepts.json."""
    from conceptctl.workflows.bench.data import write_bench_data

    output = Output(json, quiet)
    with output.progress() as shown:
        names: list[str] = []
        draw = shown("drawing")

        def drawn(name: str) -> None:
            names.append(name)
            draw(len(names), concepts)

        written = write_bench_data(
            folder,
            length=concepts,
            seed=seed,
            training=train,
            heldout=heldout,
            progress=drawn,
        )
    paths = [str(folder / name) for name in written]
    payload = {"folder": str(folder), "concepts": list(written), "train": train, "heldout": heldout}
    output.data(payload, paths, paths)
    output.say(f"{count(len(paths), 'concept')}, each with {train} training and {count(heldout, 'held-out picture')}")


@app.command("list", cls=Command, epilog=LIST_EPILOG)
def list_specs(json: JsonOption = False, quiet: QuietOption = False) -> None:
    """List the benchmarks that `bench run` knows by name, each with what it costs."""
    from conceptctl.workflows.bench.classification.spec import shipped as shipped_of_classes
    from conceptctl.workflows.bench.spec import shipped

    listed = [_listed(spec, spec.data.concepts, spec.paper.source) for spec in shipped().values()]
    listed += [_listed(spec, spec.data.tasks_learned) for spec in shipped_of_classes().values()]
    rows = [
        (
            each["name"],
            str(each["cells"]),
            str(each["learned"]),
            str(each["drawn"]),
            _hours(each["hours"]),
            each["title"],
        )
        for each in listed
    ]
    columns = ("spec", "cells", "concepts learned", "pictures drawn", "hours of one core", "what it is")
    output = Output(json, quiet)
    output.table({"specs": listed}, columns, rows)
    output.say("hours are rough: of a core without bf16 (half with it), by the spec's own protocol")
    output.say("a cell is one method with one seed (--cells)")


@app.command("show", cls=Command, epilog=SHOW_EPILOG)
def show(
    spec: Annotated[str, typer.Argument(help="A name (see bench list).", metavar="SPEC")],
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Print a shipped spec as TOML: what it is made of, and the beginning of one of your own."""
    from conceptctl.workflows.bench.find import toml_of

    text = toml_of(spec)
    Output(json, quiet).data({"name": spec, "toml": text}, text.splitlines(), text.splitlines())


def _listed(spec: Spec | ClassSpec, concepts: int | None, paper: str = "") -> dict[str, Any]:
    from conceptctl.workflows.bench.cost import cost_of

    cost = cost_of(spec)
    return {
        "name": spec.name,
        "title": spec.title,
        "description": spec.description,
        "protocol": spec.protocol.name,
        "methods": [entry.label for entry in spec.entries],
        "seeds": list(spec.seeds),
        "concepts": concepts,
        "cells": len(spec.entries) * len(spec.seeds),
        "learned": cost.learned if cost else None,
        "drawn": cost.drawn if cost else None,
        "hours": round(cost.hours, 2) if cost and cost.hours is not None else None,
        "paper": paper,
    }


def _hours(hours: float | None) -> str:
    return "–" if hours is None else f"{hours:.2g}" if hours < 10 else f"{hours:.0f}"


@app.command("run", cls=Command, epilog=RUN_EPILOG)
def run(
    spec: Annotated[str, typer.Argument(help="A name (see bench list), or a TOML file.", metavar="SPEC")],
    output: Annotated[str, typer.Option("--output", "-o", help="A folder; several specs may share it.", metavar="DIR")],
    cells: Annotated[
        list[str] | None,
        typer.Option(
            "--cells", help="Only these: METHOD or METHOD/SEED, * for anything. Repeat it.", metavar="PATTERN"
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(help="local: processes on this machine; ray: a Ray cluster, RAY_ADDRESS's or one of its own."),
    ] = "local",
    at_once: AtOnceOption = None,
    protocol: Annotated[
        str | None, typer.Option(help="quick or full; the spec's own by default.", metavar="NAME")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Another base than the spec's, as init --base takes it.", metavar="BASE")
    ] = None,
    data: PicturesOption = None,
    feature_extractor: ExtractorOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, list the cells, change nothing.")
    ] = False,
    device: DeviceOption = "auto",
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run a benchmark: every method learns the sequence with every seed, and is measured.

    What is finished is not run again; a run that was stopped goes on where it was with the same command.
    """
    from conceptctl.workflows.bench import planned
    from conceptctl.workflows.bench import run as workflow

    out = Output(json, quiet)
    folder = _named(output)
    asked = _asked(spec, protocol, base, str(data) if data else None, feature_extractor)
    how: Any = {"patterns": cells or (), "engine": engine, "at_once": at_once, "device": device}
    if dry_run:
        with out.progress() as shown:
            found = planned.plan(asked, folder, **how, watch=_watch(shown))
        _show_plan(asked, folder, found, out)
        return
    with out.progress() as shown:
        ran = workflow.run(asked, folder, **how, watch=_watch(shown))
    homes = [str(cell.home(folder)) for cell in ran.cells]
    before = f", {len(ran.finished_before)} of them by an earlier run" if ran.finished_before else ""
    done = [{"finished_before": cell.name in ran.finished_before} for cell in ran.cells]
    out.data(_as_payload(asked, folder, ran.cells, done), homes, homes)
    out.say(f"{count(len(ran.cells), 'cell')} finished{before}; to read them: conceptctl bench report {folder}")


def _as_payload(
    spec: Spec | ClassSpec, folder: Path, cells: Sequence[Cell], said: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """What `bench run` prints as JSON: each cell, and what is said of it."""
    return {
        "output": str(folder),
        "spec": spec.name,
        "protocol": spec.protocol.name,
        "cells": [
            {"name": cell.name, "path": str(cell.home(folder)), **each} for cell, each in zip(cells, said, strict=True)
        ],
    }


def _show_plan(spec: Spec | ClassSpec, folder: Path, planned: Sequence[Planned], out: Output) -> None:
    """Show how far each cell is, and what is left of all."""
    rows = [
        (
            each.cell.name,
            each.state,
            f"{each.learned} of {each.cell.concepts}",
            "0" if each.hours == 0 else _hours(each.hours),
        )
        for each in planned
    ]
    said = [
        {
            "finished_before": each.state == "finished",
            "state": each.state,
            "learned": each.learned,
            "concepts": each.cell.concepts,
            "hours": None if each.hours is None else round(each.hours, 3),
        }
        for each in planned
    ]
    payload = _as_payload(spec, folder, [each.cell for each in planned], said)
    out.table(payload, ("cell", "state", "learned", "hours of one core"), rows)
    known = all(each.hours is not None for each in planned)
    hours = sum(each.hours or 0.0 for each in planned)
    about = f", about {_hours(hours)} hours of one core" if known and hours else ""
    left = sum(each.state != "finished" for each in planned)
    out.say(f"{left} of {count(len(planned), 'cell')} not finished{about}; dry run: nothing was changed")


def _asked(
    spec: str, protocol: str | None, base: str | None, folder: str | None, feature_extractor: str | None
) -> Spec | ClassSpec:
    """The spec that is named, of either kind, with what is asked for in the place of its own."""
    from conceptctl.workflows.bench.classification.spec import ClassSpec
    from conceptctl.workflows.bench.find import find_spec

    found = find_spec(spec)
    if isinstance(found, ClassSpec):
        others = {"--protocol": protocol, "--feature-extractor": feature_extractor}
        return found.with_(base=base, folder=folder, others=others)
    return found.with_(protocol=protocol, base=base, folder=folder, feature_extractor=feature_extractor)


def _named(output: str) -> Path:
    """The folder that `--output` names; "" would be the one that the user happens to be in."""
    if not output:
        raise UsageError("--output is empty", hint="-o . is this folder")
    return Path(output)


def _watch(shown: ProgressLine) -> Watch:
    from conceptctl.workflows.bench.run import Watch

    def begin(done: int, total: int) -> None:
        shown.stage("concepts of all cells", total, done)

    def progress(what: str, done: int) -> None:
        shown.update(done, [what] if what else [])

    def stage(what: str) -> None:
        shown.stage(what)

    return Watch(stage=stage, begin=begin, progress=progress)


@app.command("report", cls=Command, epilog=REPORT_EPILOG)
def report(
    folder: DirArgument,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            help="Where to write; DIR/report by default, in the place of an earlier one.",
            metavar="DIR",
        ),
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write what benchmarks found as report.html, report.md and report.csv."""
    from conceptctl.workflows.bench.report import write_report

    out = Output(json, quiet)
    written = write_report(folder, folder / "report" if output is None else _named(output))
    paths = [str(path) for path in written.files]
    payload = {
        "files": paths,
        "benches": [
            {
                "name": bench.name,
                "rows": {
                    row.label: {str(result.seed): result.summary() for result in row.results} for row in bench.all_rows
                },
                "missing": list(bench.missing),
                "failed": dict(bench.failed),
            }
            for bench in written.benches
        ],
    }
    out.data(payload, paths, paths)
    if missing := sum(len(bench.missing) for bench in written.benches):
        out.warn(f"{count(missing, 'cell')} not run, or not to the end: the report names them")
