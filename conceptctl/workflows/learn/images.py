"""The pictures of a request, passed through the gate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptctl import families
from conceptctl.errors import UsageError
from conceptctl.images.buckets import RESOLUTION_STEP, PictureSizes
from conceptctl.presets import Learn, preset_of
from conceptctl.store import base
from conceptctl.store.manifest import Generation
from conceptctl.store.store import Store
from conceptctl.workflows.learn import wording
from conceptctl.workflows.learn.request import Request, Watch

if TYPE_CHECKING:
    from conceptctl.images.gate import Checked, Rules

FEW = 3
"""Pictures below which a user is warned: what they have in common is more than the concept."""


def unlike_drawings(checked: Checked, takes: Learn) -> bool:
    """Whether pictures look like photographs, of which a base that draws none, and its image tower, know nothing."""
    return checked.photographic and not takes.photographs


def check_pictures(store: Store, head: Generation, request: Request, watch: Watch) -> Checked:
    """Pass a folder through the picture gate, as the store's base asks for it.

    Raises:
        PicturesRefused: It holds something that must not be learned from.
    """
    from conceptctl.images.gate import check_folder

    names = frozenset(each.name for each in head.concepts)
    tokenizer = wording.tokenizer_of(store, head, request.name)
    sizes = sizes_of(store, head)
    takes = preset_of(head.base).learn
    rules = _rules(sizes, takes, request, names, tokenizer)
    for said in wording.on_class(request, takes, tokenizer):
        watch.warn(said)

    def looked(done: int, total: int) -> None:
        if done == 1:
            watch.stage("looking at the pictures", total)
        watch.advance(1)

    checked = check_folder(request.folder, rules, progress=looked)
    if unlike_drawings(checked, takes):
        watch.warn(
            f"these look like photographs, and this base draws {sizes.side} x {sizes.side} pictures: "
            "likeness is not to be expected (for photographs: conceptctl init --base HUB_ID --store DIR)"
        )
    if len(checked.pictures) < FEW:
        watch.warn(
            f"only {'one picture' if len(checked.pictures) == 1 else f'{len(checked.pictures)} different pictures'}: "
            f"what is around V*{request.name} is learned with it; a handful, each a little different, is better"
        )
    return checked


def sizes_of(store: Store, head: Generation) -> PictureSizes:
    """Return at what sizes pictures can be learned on a store's base."""
    return families.picture_sizes(head.base, base.configs(store.layout, head.base))


def check_pictures_for(base_folder: Path, sizes: PictureSizes, takes: Learn, request: Request) -> None:
    """Pass a folder through the picture gate as a store that is not there yet would.

    Args:
        base_folder: Its base, as a diffusers folder.
        sizes: At which pictures can be learned on its base.
        takes: What the base's preset says.
        request: Whose folder.

    Raises:
        PicturesRefused: It holds something that must not be learned from.
    """
    from conceptctl.images.gate import check_folder

    check_folder(request.folder, _rules(sizes, takes, request, frozenset(), wording.tokenizer_in(base_folder)))


def _rules(sizes: PictureSizes, takes: Learn, request: Request, concepts: frozenset[str], tokenizer: Any) -> Rules:
    from conceptctl.images.gate import Rules

    side = sizes.side if request.resolution is None else request.resolution
    if not sizes.takes(side):
        others = f" or a multiple of {RESOLUTION_STEP} from {sizes.least} to {sizes.most}" if sizes.step else ""
        raise UsageError(
            f"this base learns at a resolution of {sizes.side}{others}, not {request.resolution}",
            hint="leave --resolution out; pictures of any size are scaled and cropped to fit",
        )
    return Rules(
        side=side,
        step=sizes.step,
        longest=sizes.longest,
        # At any resolution pictures are enlarged by as much at most as at the base's own.
        min_side=-(-takes.smallest_side * side // sizes.side) or side,
        skip_bad=request.skip_bad,
        first_frame=request.first_frame,
        follow_symlinks=request.follow_symlinks,
        concepts=concepts | {request.name},
        judge_caption=wording.caption_judge(tokenizer, request.name),
    )
