"""`conceptctl verify`: look for damage."""

import dataclasses
from typing import Annotated

import typer

from conceptctl.cli.options import JsonOption, QuietOption, StoreOption, epilog
from conceptctl.cli.output import Output
from conceptctl.errors import StoreDamaged
from conceptctl.store.layout import Layout, chosen_root
from conceptctl.wording import count

EPILOG = epilog("conceptctl verify", "conceptctl verify --read-data --json", codes=(4, 5))


def verify(
    read_data: Annotated[bool, typer.Option("--read-data", help="Read every byte of every blob.")] = False,
    store: StoreOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Look for damage in the history's chain, the index, sizes and headers; with --read-data, in every byte."""
    from conceptctl.store.verify import verify as look

    report = look(Layout(chosen_root(store).absolute()), read_data=read_data)
    depth = "every byte read" if read_data else "sizes and headers only; --read-data reads every byte"
    output = Output(json, quiet)
    output.data(
        {"ok": not report.problems, **dataclasses.asdict(report)},
        [
            *(f"{problem.where}: {problem.what}" for problem in report.problems),
            *(f"note: {note}" for note in report.notes),
            f"{count(len(report.problems), 'problem')} in {count(report.generations, 'generation')} and "
            f"{count(report.blobs, 'blob')} ({depth})",
        ],
        [problem.where for problem in report.problems],
    )
    if report.problems:
        output.say("next: conceptctl repair --dry-run")
        raise typer.Exit(StoreDamaged.exit_code)
