"""Concepts in prompts: `V*alice` is one token of the tokenizer and one row of the token table."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from typing import Any

from tokenizers import AddedToken

from conceptctl.errors import AlreadyExists, NotFound

MARKER = "V*"
_IN_PROMPT = re.compile(r"(\w*)V\*([a-z0-9][a-z0-9_-]*)", re.IGNORECASE)

_NAMED = re.compile(r"(?:\b(?P<article>an?)\s+)?V\*(?P<name>[a-z0-9][a-z0-9_-]*)", re.IGNORECASE)
_BEFORE_AN_ARTICLE = re.compile(
    r"above|and|as|at|behind|below|beneath|beside|between|by|for|from|in|into|is|near|of|on|onto|or|over|than|through|to"
    r"|under|versus|vs|with|without|\w+ing|.*\W|v\*.*"
)
"""After these a thing has an article, where it may have none after others: "of a dog", "my dog"."""
_MEDIUM = (
    "photo|photograph|picture|image|portrait|painting|drawing|sketch|watercolou?r|illustration|render|rendering|cartoon"
    "|comic|engraving|poster|sculpture|statue|close-up|closeup|shot"
)
_BETWEEN = "in|on|at|by|near|with|and|holding|beside"
_OPENING = re.compile(
    rf"\s*(?P<opening>(?:(?:an?|the)\s+)?(?:(?!(?:{_BETWEEN})\b)[\w-]+\s+){{0,3}}(?:{_MEDIUM})\s+of)\s+(?:(?:an?|the|my)\s+)?V\*",
    re.IGNORECASE,
)
_GARMENT = (
    r"suit\sof\sarmou?r|hat|cap|beanie|helmet|crown|glasses|sunglasses|scarf|shirt|t-shirt|blouse|sweater|jumper|hoodie|jacket"
    "|coat|dress|skirt|suit|uniform|costume|armou?r|robe|gown|kimono|boots"
)
"""What people are "in" without being at a place."""
_NOT_ABOUT_IT = (
    "with|without|wearing|holding|carrying|having|in|on|at|by|of|from|to|near|under|over|behind|beside|beneath|between"
    "|front|inside|outside|during|and|full|an?|the"
)
"""Words that do not stand between "in" and what is worn: "in a forest with a hat" is a place."""
_BEHIND_A_GARMENT = (
    "and|with|without|in|on|at|by|under|inside|outside|during|above|behind|below|beside|facing|near|next|over|wearing|holding"
    "|carrying|having|while|as"
)
"""What may go on there; "in a dress shop" is a place."""
_IN_A_GARMENT = (
    rf"in\s(?:(?:an?|his|her|their|the|my)\s)?(?:(?!(?:{_NOT_ABOUT_IT})\b)[\w-]+\s){{0,3}}(?:{_GARMENT})(?![\w'’-])"
    rf"(?=[,.]|$|\s(?:{_BEHIND_A_GARMENT})\b)"
)
_OWN = rf"(?P<own>(?:(?:wearing|with|without|holding|carrying|having)\s.|{_IN_A_GARMENT}).*?)"
_BEFORE_ANOTHER = re.compile(
    rf"(?:\s+(?!with)[\w-]+)?\s+{_OWN}"
    r"\s*(?:,|,?\s(?:above|and|behind|below|beside|by|facing|in front of|near|next to|on|over|under|with))"
    r"\s+(?:(?:an?|the|my)\s+)?",
    re.IGNORECASE | re.DOTALL,
)
_BEHIND_THE_LAST = re.compile(
    rf"(?:\s+(?!with|wearing)[\w-]+)?\s*,?(?:\s+{_OWN})?"
    r"(?:\s*,?\s+(?P<around>(?:in(?!\s+front)|on(?!\s+top|\s+\w+\s+(?:left|right)\b)|at|under|inside|outside|during)\s.+))?",
    re.IGNORECASE | re.DOTALL,
)
"""Behind a concept one more word may say its class."""
_NAMELESS = "something"
"""What is said of a concept that was learned without a class."""


def names_in(prompt: str, known: Collection[str]) -> tuple[str, ...]:
    """Find the concepts that a prompt names, each once, in order.

    The longest name wins, so that `V*al` is never read in `V*alice`, and case is ignored, as CLIP ignores it.

    Args:
        prompt: Any text.
        known: The names that there are.

    Raises:
        NotFound: The prompt names a concept that is not there; the nearest ones are in the hint.
    """
    found: dict[str, None] = {}
    for match in _IN_PROMPT.finditer(prompt):
        before, name = match[1], match[2].lower()
        if before:
            # The tokenizer knows it as a word of its own only, and would spell this.
            raise NotFound(f"no concept {match[0]}", hint=f"{before} {MARKER}{name}, with a space between them")
        if name not in known:
            near = difflib.get_close_matches(name, known)
            hint = f"did you mean {', '.join(MARKER + each for each in near)}?" if near else "conceptctl list"
            raise NotFound(f"no concept {MARKER}{name}", hint=hint)
        found[name] = None
    return tuple(found)


def mentioned(prompt: str) -> frozenset[str]:
    """The names that stand behind a `V*` in a prompt, whether there are such concepts or not."""
    return frozenset(match[2].lower() for match in _IN_PROMPT.finditer(prompt))


def in_plain_words(prompt: str, words: Mapping[str, str]) -> str:
    """Say a prompt without its concepts: a word that everybody knows stands for each.

    "V*alice, smiling, next to a V*falls waterfall" is "a person, smiling, next to a waterfall".

    Args:
        prompt: What may name concepts.
        words: For each concept that it names, what kind of thing it is; "" for something.
    """

    def said(match: re.Match[str]) -> str:
        word = words[match["name"].lower()]
        before = match.string[: match.start()].split()
        last = before[-1].lower() if before else "of"
        if match["article"] or _BEFORE_AN_ARTICLE.fullmatch(last):
            return with_article(word)
        return word or _NAMELESS

    return _NAMED.sub(said, without_classes(prompt, words))


def without_classes(prompt: str, words: Mapping[str, str]) -> str:
    """Take out what some say themselves: "V*falls waterfall" is "V*falls"; the words are those of `in_plain_words`."""
    for name, word in words.items():
        if word:
            twice = rf"(V\*{re.escape(name)}(?![\w-]))\s+{re.escape(word)}(?![\w-])"
            prompt = re.sub(twice, r"\1", prompt, flags=re.IGNORECASE)
    return prompt


def opening(prompt: str) -> str:
    """What kind of picture a prompt asks for, of the first concept that it names: "an oil painting of"; "" for none."""
    match = _OPENING.match(prompt)
    return match["opening"] if match else ""


def own_words(prompt: str) -> dict[str, str]:
    """What a prompt says of each concept itself, by name: "wearing a red cap"; "" for nothing."""
    prompt = " ".join(prompt.split())
    mentions = list(_NAMED.finditer(prompt))
    found: dict[str, str] = {}
    for mention, following in zip(mentions, [*mentions[1:], None], strict=True):
        if following:
            behind = _BEFORE_ANOTHER.fullmatch(prompt, mention.end(), following.start())
        else:
            behind = _BEHIND_THE_LAST.fullmatch(prompt, mention.end())
        own = (behind["own"] or "").rstrip(" ,.") if behind else ""
        found[mention["name"].lower()] = found.get(mention["name"].lower()) or own
    return found


def surroundings(prompt: str) -> str:
    """Where or when a prompt's concepts are, said behind the last of them: "in the snow at night"; "" for nothing."""
    prompt = " ".join(prompt.split())
    *_, last = (None, *_NAMED.finditer(prompt))
    behind = _BEHIND_THE_LAST.fullmatch(prompt, last.end()) if last else None
    return (behind["around"] or "").rstrip(" ,.") if behind else ""


def with_article(word: str) -> str:
    """Say that there is a thing of some kind: "an owl"; "something" without a word for it."""
    return f"{'an' if word[0].lower() in 'aeiou' else 'a'} {word}" if word else _NAMELESS


def add_token(tokenizer: Any, name: str) -> int:
    """Make `V*name` one token, and return its id: the row of the token table that is to be learned.

    The token is matched whatever its case and as a whole word only, in any program that loads the tokenizer.

    Args:
        tokenizer: A CLIPTokenizer; changed in place.
        name: The concept's name.

    Raises:
        AlreadyExists: The tokenizer has this token already.
    """
    # Normalized text is in lower case; so is the token.
    token = f"{MARKER}{name}".lower()
    if token in tokenizer.get_vocab():
        raise AlreadyExists(f"{MARKER}{name} is a token of the base already", hint="choose another --token")
    tokenizer.add_tokens([AddedToken(token, single_word=True, normalized=True)])
    token_id: int = tokenizer.convert_tokens_to_ids(token)
    return token_id


def cut_off(tokenizer: Any, prompt: str) -> str:
    """What of a prompt the text encoder does not see, because it is too long; empty when it sees it all."""
    limit = tokenizer.model_max_length - 2
    token_ids = tokenizer(prompt, add_special_tokens=False, truncation=False, verbose=False).input_ids
    lost: str = tokenizer.decode(token_ids[limit:]).strip()
    return lost
