"""`conceptctl compact`: the deltas of a long history, replaced by the weights that they make."""

from conceptctl.cli.options import DryRunOption, JsonOption, QuietOption, StoreOption, WaitOption, YesOption, epilog
from conceptctl.cli.output import Output
from conceptctl.cli.stores import go_on, open_store, outcome_of, settle, size_text
from conceptctl.wording import count

EPILOG = epilog("conceptctl compact --dry-run", "conceptctl compact --yes", codes=(2, 4, 5, 6, 7))


def compact(
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    wait: WaitOption = False,
    store: StoreOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Put the weights in the place of all deltas: a smaller store that starts faster and draws the very same.

    Concepts keep their names; there is no undo to before it.
    """
    from conceptctl.workflows import compact as workflow

    output = Output(json, quiet)
    opened = open_store(store)
    settle(opened, "compact", wait=wait, dry_run=dry_run)
    plan = workflow.plan_compact(opened)
    noun = plan.head.base.noun
    shown = [
        f"compact {count(len(plan.head.concepts), noun)}: all deltas become one increment, "
        f"{outcome_of(plan.head)} stay the same",
        f"  nothing needs any more: {size_text(plan.freed_bytes)} (conceptctl gc takes it out); "
        f"the increment: {size_text(plan.added_bytes)}",
        f"  once gc has run twice, the store {_net(plan.freed_bytes - plan.added_bytes)}",
        f"  cannot be gone back to any more: {count(plan.generations, 'generation')}",
        f"  what a {noun} alone had changed is not known any more"
        + ("" if plan.head.base.is_classifier else "; export gives it whole, and not --raw"),
    ]
    done = go_on(output, shown, yes=yes, dry_run=dry_run)
    head = workflow.compact(opened, plan, wait=wait) if done else plan.head
    output.data(
        {
            "generation": head.seq,
            "done": done,
            "concepts": [each.name for each in plan.head.concepts],
            "generations": plan.generations,
            "freed_bytes": plan.freed_bytes,
            "added_bytes": plan.added_bytes,
            "net_bytes": plan.added_bytes - plan.freed_bytes,
        },
        [f"generation {head.seq}"] if done else [],
        [str(head.seq)] if done else [],
    )
    if done:
        output.say(
            f"compacted {count(len(head.concepts), noun)}: {outcome_of(head)} are what they were; "
            f"conceptctl gc takes out what nothing needs any more"
        )


def _net(smaller: int) -> str:
    return f"is {size_text(smaller)} smaller" if smaller >= 0 else f"is {size_text(-smaller)} larger"
