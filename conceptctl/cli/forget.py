"""`conceptctl forget`: the store without a concept."""

from typing import TYPE_CHECKING, Annotated

import typer

from conceptctl.cli.options import (
    ConceptArgument,
    DryRunOption,
    JsonOption,
    QuietOption,
    StoreOption,
    WaitOption,
    YesOption,
    epilog,
)
from conceptctl.cli.output import Output
from conceptctl.cli.stores import go_on, kept_lines, left_text, listed, open_drawing, settle, share_text, size_text
from conceptctl.wording import count

if TYPE_CHECKING:
    from conceptctl.store.manifest import Generation
    from conceptctl.workflows.consolidation import Solved
    from conceptctl.workflows.forget import ForgetPlan

EPILOG = epilog("conceptctl forget alice", "conceptctl forget alice --purge --dry-run", codes=(2, 4, 5, 6, 7))


def forget(
    name: ConceptArgument,
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
    """Forget a concept. The others keep what they draw; `undo` brings it back, unless it was purged."""
    from conceptctl.workflows import forget as workflow

    output = Output(json, quiet)
    opened = open_drawing(store, "conceptctl undo takes back the task that was learned last")
    settle(opened, "forget", wait=wait, dry_run=dry_run)
    with output.progress() as bar:
        plan = workflow.plan_forget(opened, name, purge_it=purge, progress=bar("reading prompts"))
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
            "kept": {each.name: each.changed for each in plan.solved.kept} if plan.solved else {},
            "damaged": list(plan.damaged),
            "left": plan.solved.left if plan.solved else None,
            "elsewhere": plan.solved.elsewhere if plan.solved else None,
        },
        [f"generation {head.seq}"] if done else [],
        [str(head.seq)] if done else [],
    )
    if done:
        output.say(_done(plan, head))


def _done(plan: "ForgetPlan", head: "Generation") -> str:
    if not plan.concepts:
        return f"removed {count(plan.interrupted, 'interrupted training')} of {plan.name}; {left_text(head)}"
    gone = listed([f"V*{name}" for name in dict.fromkeys(each.name for each in plan.concepts)])
    if plan.is_purge:
        return f"removed {gone} for good; {left_text(head)}; files you exported and backups are not reached"
    back = "" if plan.damaged else "; conceptctl undo brings it back"
    return f"forgot {gone}; {left_text(head)}{back}"


def _names(plan: "ForgetPlan") -> str:
    earlier = [name for name in plan.names if name != plan.name]
    return f"names ({listed([plan.name, *earlier])})" if earlier else "name"


def _others(plan: "ForgetPlan") -> bool:
    uids = {each.uid for each in plan.concepts}
    return any(each.uid not in uids for each in plan.head.concepts)


def _solved(solved: "Solved") -> list[str]:
    """What becomes of the others, as far as it is known before a picture is drawn."""
    return [
        "  the others keep what they draw: the keys and values of their prompts change by",
        *kept_lines(solved.kept),
        f"  its own become the base's, within {share_text(solved.left or 0.0)}; other prompts' change by "
        f"{share_text(solved.elsewhere)}",
    ]


def _shown(plan: "ForgetPlan") -> list[str]:
    if not plan.concepts:
        only = count(plan.interrupted, "interrupted training")
        return [f"forget {plan.name}", f"  only {only}; removed for good", "  nothing brings it back"]
    own = [each.class_word or "no class" for each in plan.concepts if each.name == plan.name]
    lines = [f"forget {plan.name} ({', '.join(own)})"]
    if others := sorted({each.name for each in plan.concepts} - {plan.name}):
        lines.append(f"  with it, because they go on from it and only history has them: {', '.join(others)}")
    if plan.solved:
        lines += _solved(plan.solved)
    elif plan.rebuild:
        lines.append("  the stored weights become those without it")
    if plan.damaged:
        lines.append(
            f"  damaged: the files of {', '.join(plan.damaged)}; put them back from a backup first, or undo fails"
        )
    if not plan.is_purge:
        return [*lines, *([] if plan.damaged else ["  conceptctl undo brings it back"])]
    return [
        *lines,
        f"  removed for good: {size_text(plan.removed_bytes)}, and every other blob that holds it",
        f"  rewritten without its {_names(plan)}: {count(plan.rewritten, 'generation')}",
        "  emptied: trash/, tmp/ and damaged/; its interrupted jobs are removed",
        "  nothing brings it back, and undo to before this is refused",
        "  files you exported, backups and file system snapshots are not reached",
        *(["  what the others draw because it was there stays in their weights"] if _others(plan) else []),
    ]
