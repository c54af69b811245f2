"""Option types that several verbs share, and the text under every verb's help."""

from pathlib import Path
from typing import Annotated

import typer

StoreOption = Annotated[
    Path | None,
    typer.Option("--store", help="The store to use.", envvar="CONCEPTCTL_STORE", metavar="DIR"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, errors too.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print names and paths only, no prose.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show the plan, change nothing.")]
WaitOption = Annotated[bool, typer.Option("--wait", help="Wait while another process changes the store.")]

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


def epilog(*examples: str, codes: tuple[int, ...] = ()) -> str:
    """Return what stands under a verb's help: its examples and its EXIT STATUS section."""
    # The mark keeps typer from filling the lines of the paragraph that it starts.
    shown = "\n".join(f"  {line}" for line in examples)
    status = "\n".join(f"  {code:<4}{EXIT_STATUS[code]}" for code in (0, *codes))
    return f"\b\nEXAMPLES\n{shown}\n\n\b\nEXIT STATUS\n{status}"
