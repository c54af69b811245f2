"""`conceptctl log`: the history."""

from conceptctl.cli.options import JsonOption, QuietOption, StoreOption, epilog
from conceptctl.cli.output import Output
from conceptctl.cli.stores import open_store

EPILOG = epilog("conceptctl log", "conceptctl log --json", codes=(4, 5))


def log(store: StoreOption = None, json: JsonOption = False, quiet: QuietOption = False) -> None:
    """List the generations, newest first: when, what was done, and to which concepts."""
    history = open_store(store).log()[::-1]
    rows = [
        (str(row.seq), row.id[:12], row.time, row.verb, row.subject or _goal(row.seq, row.restores), str(row.concepts))
        for row in history
    ]
    payload = {"generations": [vars(row) for row in history]}
    Output(json, quiet).table(payload, ("generation", "id", "when", "verb", "what", "concepts"), rows)


def _goal(seq: int, restores: int) -> str:
    return "" if seq == restores else f"to {restores}"
