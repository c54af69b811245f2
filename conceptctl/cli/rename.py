"""`conceptctl rename`: another name for a concept."""

from typing import Annotated

import typer

from conceptctl.cli.options import ConceptArgument, JsonOption, QuietOption, StoreOption, WaitOption, epilog
from conceptctl.cli.output import Output
from conceptctl.cli.stores import open_store

EPILOG = epilog("conceptctl rename alice ally", codes=(2, 4, 5, 6, 7))


def rename(
    name: ConceptArgument,
    new: Annotated[str, typer.Argument(help="Its new name: V*NEW in prompts.", metavar="NEW")],
    wait: WaitOption = False,
    store: StoreOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Give a concept another name. It draws what it drew; `undo` gives it the old one again.

    History keeps the old name, until `forget NEW --purge` removes both.
    """
    from conceptctl.workflows import rename as workflow

    output = Output(json, quiet)
    done = workflow.rename(open_store(store), name, new, wait=wait)
    if done.in_the_way:
        output.warn(f"a training of {new} was interrupted, and cannot go on under that name")
    seq, payload = done.head.seq, {"generation": done.head.seq, "from": name, "name": new}
    if done.head.base.is_classifier:
        output.data(payload, [f"generation {seq}: {new}"], [new])
        output.say(f"renamed the task {name} to {new}; conceptctl undo takes that back")
        return
    output.data({**payload, "token": f"V*{new}"}, [f"generation {seq}: V*{new}"], [new])
    output.say(f"renamed V*{name} to V*{new}, as prompts must say from now on; conceptctl undo takes that back")
