"""What a base makes of captions and of a class, told by its tokenizer before anything of its weights is loaded."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conceptctl import families
from conceptctl.errors import PicturesRefused, UsageError
from conceptctl.images.captions import PLACE
from conceptctl.store import base
from conceptctl.workflows.learn.auxiliary import prompt_of

if TYPE_CHECKING:
    from conceptctl.presets import Learn
    from conceptctl.store.manifest import Generation
    from conceptctl.store.store import Store
    from conceptctl.workflows.learn.request import Request


def tokenizer_of(store: Store, head: Generation, name: str = "") -> Any:
    """Load the tokenizer of a store's base, with the tokens of all that was learned but one's that is learned anew.

    Raises:
        NotFound: The base has none.
    """
    from conceptctl.diffusion.prompts import add_token

    with base.folder(store.layout, head) as folder:
        tokenizer = families.family_of(head.base).load_tokenizer(folder)
    for concept in head.concepts:
        if concept.name != name:
            add_token(tokenizer, concept.name)
    return tokenizer


def tokenizer_in(folder: Path) -> Any:
    """Load the tokenizer of a base that no store has yet."""
    return families.recognized(folder).load_tokenizer(folder)


def caption_judge(tokenizer: Any, name: str) -> Callable[[str], str]:
    """Make what judges captions: a concept that the text encoder does not come to see is learned from nothing.

    Args:
        tokenizer: The base's; the concept's token is added to it.
        name: The concept's.

    Returns:
        A function of a caption with `{token}` in it, which returns what is to be noted of it, or "", and raises
        `PicturesRefused` where the token lies beyond what is read, or a concept has a strength, which would be read as
        words.
    """
    from conceptctl.diffusion.prompts import add_token, cut_off, with_strengths

    token_id = add_token(tokenizer, name)
    seen = tokenizer.model_max_length - 2

    def judge(caption: str) -> str:
        prompt = caption.replace(PLACE, f"V*{name}")
        try:
            strengths = with_strengths(prompt)[1]
        except UsageError as error:
            raise PicturesRefused(str(error)) from None
        if strengths:
            raise PicturesRefused("a caption gives no strengths: write it without the number behind a name")
        if token_id not in tokenizer(prompt, truncation=True).input_ids:
            raise PicturesRefused(
                f"too long: {PLACE} lies beyond the {seen} tokens (words or parts of words) that this base reads"
            )
        lost = cut_off(tokenizer, prompt)
        return f"is too long for this base, which does not see {_shortened(lost)!r}" if lost else ""

    return judge


def on_class(request: Request, takes: Learn, tokenizer: Any) -> list[str]:
    """Say what a user should know of the class that a request names, or does not.

    Args:
        request: The request.
        takes: What the base's preset says.
        tokenizer: The base's.
    """
    from conceptctl.diffusion.prompts import cut_off

    word, name = request.class_word, f"V*{request.name}"
    if not word:
        return [
            f"no class word (--class person): {name} begins as no kind of thing, and no pictures of its kind are "
            "learned beside it"
        ]
    said = []
    if lost := cut_off(tokenizer, prompt_of(word)):
        said.append(f"the class is too long for this base, which does not see {_shortened(lost)!r}")
    if takes.classes and not _ends_in(word, takes.classes):
        near = difflib.get_close_matches(word.lower(), takes.classes, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        said.append(f"this base draws {_listed(takes.classes)}, and cannot know what a {word} is{meant}")
    elif not takes.classes and _is_spelled_out(tokenizer, word):
        said.append(f"this base has no word for {word!r} and spells it out, so it hardly knows what that is")
    return said


def _ends_in(word: str, classes: Sequence[str]) -> bool:
    """Tell whether one of them is what a word comes down to: a brown dog is a dog."""
    return any(f" {word.lower()}".endswith(f" {each}") for each in classes)


def _is_spelled_out(tokenizer: Any, word: str) -> bool:
    """Whether not one of its words is a token, nor made of tokens of two letters and more, as rare words are."""
    pieces = [len(tokenizer(each, add_special_tokens=False).input_ids) for each in word.split()]
    return all(count > 1 and 2 * count > len(each) for count, each in zip(pieces, word.split(), strict=True))


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]


def _shortened(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[:most].rstrip()} ..."
