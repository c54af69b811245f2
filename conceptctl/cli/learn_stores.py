"""The store that `learn` learns in: the one that is there, or a first one on the bundled base."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from conceptctl.cli.output import Output
from conceptctl.cli.stores import open_store
from conceptctl.errors import NotFound
from conceptctl.learning.launch import processes
from conceptctl.store.layout import chosen_root
from conceptctl.store.store import Store

if TYPE_CHECKING:
    from conceptctl.workflows.learn.batch import Entry


@contextmanager
def store_to_plan_with(option: Path | None, entries: Sequence[Entry], out: Output) -> Iterator[Store]:
    """Open the store; where `store_to_learn_in` would make one, make one that goes away again."""
    if not _is_first(option):
        yield open_store(option)
        return
    from conceptctl.workflows.init import POCKET, initialize

    _check_first(entries)
    with TemporaryDirectory() as scratch:
        yield initialize(Path(scratch) / "store", POCKET).store
    out.say(f"there is no store yet: one would be made at {chosen_root(option)} on the bundled base")


def store_to_learn_in(option: Path | None, entries: Sequence[Entry], out: Output) -> Store:
    """Open the store; on the default path, make one on the bundled base when there is none."""
    if _is_first(option):
        from conceptctl.workflows.init import POCKET, initialize

        if processes() > 1:
            raise NotFound("there is no store yet, and several processes would make one", hint="conceptctl init")
        _check_first(entries)
        root = chosen_root(option)
        initialize(root, POCKET)
        out.say(
            f"made a store at {root} on the bundled base, which draws 64 x 64 pictures; "
            "for photographs: conceptctl init --base HUB_ID --store DIR"
        )
    return open_store(option)


def _is_first(option: Path | None) -> bool:
    """Whether there is nothing yet on the default path."""
    return option is None and not chosen_root(option).exists()


def _check_first(entries: Sequence[Entry]) -> None:
    """Refuse before a store is made."""
    from conceptctl.images.buckets import PictureSizes
    from conceptctl.pocket import base_folder
    from conceptctl.pocket.world.practice import SIZE
    from conceptctl.presets import shipped
    from conceptctl.workflows.init import POCKET
    from conceptctl.workflows.learn.batch import check_different
    from conceptctl.workflows.learn.images import check_pictures_for
    from conceptctl.workflows.learn.request import check
    from conceptctl.workflows.learn.samples import check_prompts

    preset = shipped()[POCKET]
    check_different(entries)
    if len(entries) == 1 and entries[0].request.replace:
        name = entries[0].request.name
        raise NotFound(f"there is no store yet, and no {name!r} to replace", hint="without --replace")
    for each in entries:
        check(each.request, preset, each.device)
        check_prompts(each.request, ())
    for each in entries:
        check_pictures_for(base_folder(), PictureSizes(SIZE), preset.learn, each.request)
