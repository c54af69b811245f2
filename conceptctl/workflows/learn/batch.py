"""Several concepts, one after the other: all of them are judged before the first is learned."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from conceptctl.errors import AlreadyExists, PicturesRefused, UsageError
from conceptctl.store.concept import Record, read_record
from conceptctl.store.store import Store
from conceptctl.workflows.learn.plan import Plan, plan
from conceptctl.workflows.learn.replace import check_name
from conceptctl.workflows.learn.request import Request, Watch


@dataclass(frozen=True)
class Entry:
    """One concept of a batch.

    Attributes:
        request: What is learned.
        device: "auto", "cpu" or "cuda".
        fold: Whether it is folded when it is learned.
    """

    request: Request
    device: str = "auto"
    fold: bool = False


@dataclass(frozen=True)
class Judged:
    """An entry that can be learned, or that was.

    Attributes:
        entry: The entry.
        plan: What a run would do; None where it was done.
    """

    entry: Entry
    plan: Plan | None


def judge(store: Store, entries: Sequence[Entry], watch: Watch) -> list[Judged]:
    """Check every entry, and find those that an earlier run of the same batch has learned.

    Raises:
        UsageError: Two entries have one name; or whatever `learn` refuses of one.
        AlreadyExists: A concept of an entry's name is there, and was learned otherwise.
    """
    check_different(entries)
    return [_judged(store, each, watch) for each in entries]


def check_different(entries: Sequence[Entry]) -> None:
    """Refuse two entries of one name.

    Raises:
        UsageError: There are.
    """
    names = [each.request.name for each in entries]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"{twice[0]!r} is the token of two entries", hint="every concept has a name of its own")


def _judged(store: Store, entry: Entry, watch: Watch) -> Judged:
    request, head = entry.request, store.head()
    there = head.concept(request.name)
    if there is None:
        # Where nothing is there yet, nothing has to leave.
        request = dataclasses.replace(request, replace=False)
        planned = plan(store, request, device=entry.device, watch=watch)
        return Judged(dataclasses.replace(entry, request=request), planned)
    record = read_record(store.blob(there))
    try:
        planned = plan(store, request, device=entry.device, watch=watch, is_there=True)
    except PicturesRefused:
        if request.replace:
            raise
        # They may be gone since.
        return Judged(entry, None)
    others = differences(record, planned, request)
    if not others:
        return Judged(entry, None)
    if request.replace:
        check_name(request, head, store)
        return Judged(entry, planned)
    raise AlreadyExists(
        f"a concept {request.name!r} is there already, and was learned otherwise: {'; '.join(others)}",
        hint="another token; or replace = true in its entry",
    )


def differences(record: Record, planned: Plan, request: Request) -> list[str]:
    """In what a concept was learned otherwise than a plan would; of the pictures only their number is known."""
    said = record.settings
    asked = {
        "method": (record.method, planned.method),
        "class": (record.class_word, planned.class_word),
        "pictures": (record.photos, planned.pictures),
        "seed": (record.seed, request.train.seed),
        "license": (record.license, request.license),
        "consent": (record.consent, request.consent),
        # What ended by itself took fewer.
        "steps": (said.get("max_train_steps", record.steps), planned.config["steps"]),
        "aux": (said.get("auxiliary"), planned.auxiliary),
        "flip": (said.get("flip", False), request.flip),
        **{
            name: (said.get(name), value) for name, value in planned.config.items() if name not in ("steps", "stopping")
        },
        # Earlier versions knew one way.
        "stopping": (said.get("stopping", "fixed"), planned.config["stopping"]),
    }
    return [f"{name} was {then!r}, not {now!r}" for name, (then, now) in asked.items() if then != now]
