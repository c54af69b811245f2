"""`conceptctl gc`: take out what nothing needs."""

from conceptctl.cli.options import DryRunOption, JsonOption, QuietOption, StoreOption, WaitOption, YesOption, epilog
from conceptctl.cli.output import Output
from conceptctl.cli.stores import go_on, open_store, size_text
from conceptctl.wording import count

EPILOG = epilog("conceptctl gc --dry-run", "conceptctl gc --yes", codes=(2, 4, 5, 6))


def gc(
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    wait: WaitOption = False,
    store: StoreOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Take out what nothing needs: to trash/, and from there what the last gc moved there."""
    from conceptctl.store import garbage

    output = Output(json, quiet)
    opened = open_store(store)
    plan = garbage.plan(opened.layout)
    moved, freed = plan.trashed_bytes, plan.freed_bytes
    result = {
        "to_trash": [path.name for path in plan.to_trash],
        "trashed_bytes": moved,
        "to_remove": [path.name for path in plan.to_remove],
        "freed_bytes": freed,
    }
    lines = [
        f"to trash/: {count(len(plan.to_trash), 'blob')}, {size_text(moved)}",
        f"removed from trash/: {count(len(plan.to_remove), 'file')}, {size_text(freed)}",
    ]
    nothing = not plan.to_trash and not plan.to_remove
    done = not nothing and go_on(output, lines, yes=yes, dry_run=dry_run)
    if done:
        with opened.writing("gc", wait=wait):
            garbage.collect(opened.layout)
    output.data({"done": done, **result}, ["nothing to take out"] if nothing else [], [])
    if done:
        later = f"; the next gc frees {size_text(moved)} more" if plan.to_trash else ""
        output.say(f"freed {size_text(freed)}{later}")
