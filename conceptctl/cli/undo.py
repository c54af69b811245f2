"""`conceptctl undo`: back to an earlier generation, as a new one."""

from typing import Annotated

import typer

from conceptctl.cli.options import DryRunOption, JsonOption, QuietOption, StoreOption, WaitOption, YesOption, epilog
from conceptctl.cli.output import Output
from conceptctl.cli.stores import go_on, open_store

EPILOG = epilog(
    "conceptctl undo", "conceptctl undo 3 --dry-run", "conceptctl undo --to 12 --yes", codes=(2, 4, 5, 6, 7)
)


def undo(
    steps: Annotated[int, typer.Argument(help="How many steps to go back.", min=1)] = 1,
    to: Annotated[int | None, typer.Option("--to", help="A generation to go to, undone ones too.")] = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    wait: WaitOption = False,
    store: StoreOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Go back to an earlier generation. History only grows, so an undo can be undone with --to."""
    from conceptctl.workflows import undo as workflow

    output = Output(json, quiet)
    opened = open_store(store)
    plan = workflow.plan_undo(opened, steps, to)
    shown = [
        f"generation {plan.head.seq} -> a new one equal to {plan.target.seq} ({plan.target.action})",
        *(f"  comes back: {name}" for name in plan.returning),
        *(f"  goes, and stays in history: {name}" for name in plan.leaving),
        *(["  the stored weights become those of then"] if plan.folded_changes else []),
    ]
    done = go_on(output, shown, yes=yes, dry_run=dry_run)
    head = workflow.undo(opened, plan, wait=wait) if done else plan.head
    output.data(
        {
            "generation": head.seq,
            "done": done,
            "restores": plan.target.seq,
            "returning": list(plan.returning),
            "leaving": list(plan.leaving),
        },
        [f"generation {head.seq}"] if done else [],
        [str(head.seq)] if done else [],
    )
