"""`conceptctl undo`: back to an earlier generation, as a new one."""

from typing import TYPE_CHECKING, Annotated

import typer

from conceptctl.cli import completion
from conceptctl.cli.options import DryRunOption, JsonOption, QuietOption, StoreOption, WaitOption, YesOption, epilog
from conceptctl.cli.output import Output
from conceptctl.cli.stores import action_text, go_on, listed, open_store, settle, there_text
from conceptctl.wording import count

if TYPE_CHECKING:
    from conceptctl.store.index import LogRow
    from conceptctl.workflows.undo import UndoPlan

EPILOG = epilog(
    "conceptctl undo", "conceptctl undo 3 --dry-run", "conceptctl undo --to 12 --yes", codes=(2, 4, 5, 6, 7)
)


def undo(
    steps: Annotated[int, typer.Argument(help="How many steps to go back.", min=1, metavar="STEPS")] = 1,
    to: Annotated[
        int | None,
        typer.Option("--to", help="A generation to go to, undone ones too.", autocompletion=completion.generations),
    ] = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    wait: WaitOption = False,
    store: StoreOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Go back to before the last change of concepts or weights. History only grows, so --to undoes an undo.

    Evaluations change neither: they are passed over, and stay where their concepts do.
    """
    from conceptctl.workflows import undo as workflow

    output = Output(json, quiet)
    opened = open_store(store)
    settle(opened, "undo", wait=wait, dry_run=dry_run)
    plan = workflow.plan_undo(opened, steps, to)
    done = not plan.is_nothing and go_on(output, _shown(plan), yes=yes, dry_run=dry_run)
    head = workflow.undo(opened, plan, wait=wait) if done else plan.head
    output.data(
        {
            "generation": head.seq,
            "done": done,
            "restores": plan.target.seq,
            "undone": [row.seq for row in plan.undone],
            "passed_over": [row.seq for row in plan.passed],
            "returning": list(plan.returning),
            "leaving": list(plan.leaving),
            "renamed": [{"from": now, "to": then} for now, then in plan.renamed],
            "evaluations_lost": plan.evaluations_lost,
        },
        [f"generation {head.seq}"] if done else [],
        [str(head.seq)] if done else [],
    )
    if plan.is_nothing:
        output.say(f"nothing to undo: the store is what it was in generation {plan.target.seq}")
    elif done:
        output.say(
            f"went back to generation {plan.target.seq}; {there_text(head)}; "
            f"conceptctl undo --to {plan.head.seq} takes that back"
        )


def _shown(plan: "UndoPlan") -> list[str]:
    action = plan.target.action
    lines = [
        f"undo {_rows(plan.undone)}" if plan.undone else f"go from generation {plan.head.seq}",
        f"  to a new generation equal to {plan.target.seq} ({action_text(action.verb, action.names)})",
    ]
    if plan.passed:
        lines += [f"  passes over {_rows(plan.passed)}", "  evaluations stay where their concepts do"]
    lines += [f"  comes back: {name}" for name in plan.returning]
    lines += [f"  goes, and stays in history: {name}" for name in plan.leaving]
    lines += [f"  {now} is called {then} again" for now, then in plan.renamed]
    if plan.evaluations_lost:
        lines.append(f"  {count(plan.evaluations_lost, 'evaluation')} not kept any more")
    return lines + (["  the stored weights become those of then"] if plan.folded_changes else [])


def _rows(rows: "tuple[LogRow, ...]") -> str:
    return listed([f"generation {row.seq} ({action_text(row.verb, row.subject.split())})" for row in rows])
