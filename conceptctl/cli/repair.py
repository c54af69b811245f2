"""`conceptctl repair`: make a damaged store usable again."""

from conceptctl.cli.options import DryRunOption, JsonOption, QuietOption, StoreOption, YesOption, epilog
from conceptctl.cli.output import Output
from conceptctl.cli.stores import go_on
from conceptctl.store.layout import Layout, chosen_root
from conceptctl.wording import count

EPILOG = epilog("conceptctl repair --dry-run", "conceptctl repair --yes", codes=(2, 4, 5, 6, 7))


def repair(
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    store: StoreOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make a damaged store usable again: what is damaged goes to damaged/, and what can be rebuilt is.

    Nothing is deleted. It reads every byte.
    """
    from conceptctl.store.repair import repair as mend

    output = Output(json, quiet)
    layout = Layout(chosen_root(store).absolute())
    steps = mend(layout, dry_run=True)
    done = bool(steps) and go_on(output, steps, yes=yes, dry_run=dry_run)
    if done:
        steps = mend(layout)
    summary = count(len(steps), "step") if steps else "nothing to repair"
    output.data({"done": done, "steps": steps}, [summary], steps)
    if done:
        output.say("mended what can be; next: conceptctl verify --read-data")
