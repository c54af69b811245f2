"""Option types that several verbs share, and the text under every verb's help."""

import re
from pathlib import Path
from typing import Annotated

import typer

from conceptctl.cli import completion

PICTURES, TRAINING, MEMORY, OUTPUT, STORE = "Pictures", "Training", "Memory", "Output", "Store"
"""The groups that options stand in where a verb has many of them (`rich_help_panel`)."""

StoreOption = Annotated[
    Path | None,
    typer.Option("--store", help="The store to use.", envvar="CONCEPTCTL_STORE", metavar="DIR", rich_help_panel=STORE),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout, errors too.", rich_help_panel=OUTPUT)
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print names and paths only, and warnings.", rich_help_panel=OUTPUT)
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.", rich_help_panel=STORE)]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show the plan, change nothing.", rich_help_panel=STORE)]
WaitOption = Annotated[
    bool, typer.Option("--wait", help="Wait while another process changes the store.", rich_help_panel=STORE)
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        help="auto, cpu or cuda.",
        metavar="NAME",
        rich_help_panel=MEMORY,
        autocompletion=completion.devices,
    ),
]
AtOption = Annotated[
    int | None,
    typer.Option(
        "--at",
        help="As of this generation (see log).",
        metavar="GENERATION",
        rich_help_panel=STORE,
        autocompletion=completion.generations,
    ),
]
SkipBadOption = Annotated[
    bool,
    typer.Option("--skip-bad", help="Go on without the pictures that are refused.", rich_help_panel=PICTURES),
]
FirstFrameOption = Annotated[
    bool, typer.Option("--first-frame", help="Take the first frame of animations.", rich_help_panel=PICTURES)
]
SymlinksOption = Annotated[
    bool, typer.Option("--follow-symlinks", help="Read what links point to.", rich_help_panel=PICTURES)
]
ExtractorOption = Annotated[
    str | None,
    typer.Option(
        "--feature-extractor",
        help="A CLIP model: a folder or a hub id.",
        metavar="FOLDER",
        rich_help_panel=OUTPUT,
    ),
]
ConceptArgument = Annotated[str, typer.Argument(help="A concept.", metavar="NAME", autocompletion=completion.concepts)]

EXIT_STATUS = {
    0: "ok",
    1: "a bug",
    2: "usage",
    3: "pictures refused",
    4: "store damaged",
    5: "not found, or already there",
    6: "another process is changing the store",
    7: "no space",
    8: "import refused",
    9: "device or memory",
    130: "interrupted",
    143: "terminated",
}


WIDTH = 74
"""How long a line of an example may be, to fit into 80 columns with what stands before it."""


def epilog(*examples: str, codes: tuple[int, ...] = ()) -> str:
    """Return what stands under a verb's help: its examples and its EXIT STATUS section."""
    # The mark keeps typer from filling the lines of the paragraph that it starts.
    shown = "\n".join(f"  {line}" for example in examples for line in _lines(example))
    status = "\n".join(f"  {code:<4}{EXIT_STATUS[code]}" for code in (0, *codes))
    return f"\b\nEXAMPLES\n{shown}\n\n\b\nEXIT STATUS\n{status}"


def _lines(example: str) -> list[str]:
    """A command that is too long for a line, on as many as it takes, as a shell reads them."""
    lines = [""]
    for part in re.split(r" (?=-)", example):
        if lines[-1] and len(lines[-1]) + len(part) > WIDTH:
            lines[-1] += " \\"
            lines.append(f"    {part}")
        else:
            lines[-1] += f"{' ' if lines[-1] else ''}{part}"
    return lines
