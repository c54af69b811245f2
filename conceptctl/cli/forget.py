"""`conceptctl forget`: the store without a concept."""

from typing import TYPE_CHECKING, Annotated

import typer

from conceptctl.cli.options import DryRunOption, JsonOption, QuietOption, StoreOption, WaitOption, YesOption, epilog
from conceptctl.cli.output import Output
from conceptctl.cli.stores import go_on, open_store, size_text

if TYPE_CHECKING:
    from conceptctl.workflows.forget import ForgetPlan

EPILOG = epilog("conceptctl forget alice", "conceptctl forget alice --purge --dry-run", codes=(2, 4, 5, 6, 7))


def forget(
    name: Annotated[str, typer.Argument(help="A concept.")],
    purge: Annotated[
        bool, typer.Option("--purge", help="Remove it for good, its name and history too; no undo.")
    ] = False,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    wait: WaitOption = False,
    store: StoreOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Forget a concept. Its weights are rebuilt without it; `undo` brings it back, unless it was purged."""
    from conceptctl.workflows import forget as workflow

    output = Output(json, quiet)
    opened = open_store(store)
    plan = workflow.plan_forget(opened, name, purge_it=purge)
    done = go_on(output, _shown(plan), yes=yes, dry_run=dry_run)
    head = workflow.forget(opened, plan, wait=wait) if done else plan.head
    output.data(
        {
            "generation": head.seq,
            "done": done,
            "purge": plan.is_purge,
            "concepts": [each.name for each in plan.concepts],
            "rebuilt": plan.rebuild,
            "removed_bytes": plan.removed_bytes,
            "interrupted": plan.interrupted,
        },
        [f"generation {head.seq}"] if done else [],
        [str(head.seq)] if done else [],
    )


def _shown(plan: "ForgetPlan") -> list[str]:
    if not plan.concepts:
        return [f"forget {plan.name}", "  only an interrupted training; removed for good", "  nothing brings it back"]
    own = [each.class_word or "no class" for each in plan.concepts if each.name == plan.name]
    lines = [f"forget {plan.name} ({', '.join(own)})"]
    if others := sorted({each.name for each in plan.concepts} - {plan.name}):
        lines.append(f"  with it, because they go on from it and only history has them: {', '.join(others)}")
    if plan.rebuild:
        lines.append("  the stored weights are rebuilt from the base and the other deltas")
    if not plan.is_purge:
        return [*lines, "  conceptctl undo brings it back"]
    return [
        *lines,
        f"  removed for good: {size_text(plan.removed_bytes)}, and every other blob that holds it",
        f"  rewritten without its name: {plan.rewritten} generations",
        "  emptied: trash/, tmp/ and damaged/; its interrupted jobs are removed",
        "  nothing brings it back, and undo to before this is refused",
        "  files you exported, backups and file system snapshots are not reached",
    ]
