"""`conceptctl classify`: what pictures show."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conceptctl.cli.options import (
    AtOption,
    DeviceOption,
    FirstFrameOption,
    JsonOption,
    QuietOption,
    SkipBadOption,
    StoreOption,
    SymlinksOption,
    epilog,
)
from conceptctl.cli.output import Output
from conceptctl.cli.stores import open_store
from conceptctl.images.files import printable

if TYPE_CHECKING:
    from conceptctl.workflows.classification.classify import Classified

EPILOG = epilog(
    "conceptctl classify cat.jpg",
    "conceptctl classify ./pictures --top 3 --json",
    "conceptctl classify cat.jpg --at 4",
    codes=(2, 3, 4, 5, 9),
)


def classify(
    pictures: Annotated[list[Path], typer.Argument(help="Pictures, and folders of pictures.", metavar="PICTURE")],
    top: Annotated[int, typer.Option("--top", help="How many classes of each, the likeliest first.")] = 1,
    at: AtOption = None,
    skip_bad: SkipBadOption = False,
    first_frame: FirstFrameOption = False,
    follow_symlinks: SymlinksOption = False,
    device: DeviceOption = "auto",
    store: StoreOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Tell the class of pictures, among all that the store has learned, and how probable it is."""
    from conceptctl.workflows.classification import classify as workflow
    from conceptctl.workflows.classification.pictures import Rules

    out = Output(json, quiet)
    with out.progress() as shown:
        found = workflow.classify(
            open_store(store),
            pictures,
            top=top,
            at=at,
            rules=Rules(skip_bad, first_frame, follow_symlinks),
            device=device,
            progress=shown("reading pictures"),
        )
    for each in found.skipped:
        out.warn(f"skipped: {each}")
    payload = {
        "generation": found.generation.seq,
        "pictures": [
            {
                "path": str(each.path),
                "classes": [{"class": name, "probability": value} for name, value in each.classes],
            }
            for each in found.pictures
        ],
    }
    if out.quiet:
        out.data(payload, [], [name for each in found.pictures for name, _ in each.classes])
        return
    out.table(payload, ("picture", "class", "probability"), [row for each in found.pictures for row in _rows(each)])


def _rows(each: "Classified") -> list[tuple[str, str, str]]:
    return [(printable(str(each.path)), name, f"{value:.3f}") for name, value in each.classes]
