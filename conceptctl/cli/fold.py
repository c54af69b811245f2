"""`conceptctl fold`: what was learned, merged into the stored weights."""

from conceptctl.cli.options import DryRunOption, JsonOption, QuietOption, StoreOption, WaitOption, epilog
from conceptctl.cli.output import Output
from conceptctl.cli.stores import listed, next_text, open_store, outcome_of

EPILOG = epilog("conceptctl fold", "conceptctl fold --dry-run", codes=(4, 5, 6, 7))


def fold(
    dry_run: DryRunOption = False,
    wait: WaitOption = False,
    store: StoreOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Merge every concept that is not folded yet into the stored weights, as one generation."""
    from conceptctl.workflows import fold as workflow

    output = Output(json, quiet)
    opened = open_store(store)
    if dry_run:
        head = opened.head()
        result = workflow.Folded(head, workflow.unfolded(head))
    else:
        result = workflow.fold(opened, wait=wait)
    names = result.names
    verb = "would fold" if dry_run else "folded"
    output.data(
        {"generation": result.head.seq, "done": bool(names) and not dry_run, "folded": list(names)},
        [f"{verb}: {' '.join(names)}" if names else "everything is folded already"],
        names,
    )
    if dry_run:
        output.say("dry run: nothing was changed")
    elif names:
        output.say(f"folded {listed(names)}: {outcome_of(result.head)} stay the same; conceptctl undo takes that back")
    elif not result.head.concepts:
        output.say(next_text(result.head))
