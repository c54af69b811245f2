"""`conceptctl gc`: take out what nothing needs."""

from conceptctl.cli.options import DryRunOption, JsonOption, QuietOption, StoreOption, WaitOption, YesOption, epilog
from conceptctl.cli.output import Output
from conceptctl.cli.stores import go_on, open_store, size_text

EPILOG = epilog("conceptctl gc --dry-run", "conceptctl gc --yes", codes=(2, 4, 5, 6))


def gc(
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    wait: WaitOption = False,
    store: StoreOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Move blobs that no generation needs to trash/, and remove what the last gc moved there."""
    from conceptctl.store import garbage

    output = Output(json, quiet)
    opened = open_store(store)
    plan = garbage.plan(opened.layout)
    result = {
        "to_trash": [path.name for path in plan.to_trash],
        "trashed_bytes": plan.trashed_bytes,
        "to_remove": [path.name for path in plan.to_remove],
        "freed_bytes": plan.freed_bytes,
    }
    lines = [
        f"to trash/: {len(plan.to_trash)} blobs, {size_text(plan.trashed_bytes)}",
        f"removed from trash/: {len(plan.to_remove)} files, {size_text(plan.freed_bytes)}",
    ]
    nothing = not plan.to_trash and not plan.to_remove
    done = not nothing and go_on(output, lines, yes=yes, dry_run=dry_run)
    if done:
        with opened.writing("gc", wait=wait):
            garbage.collect(opened.layout)
    output.data({"done": done, **result}, ["nothing to take out"] if nothing else [], [])
