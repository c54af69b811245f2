"""Concepts in prompts: `V*alice` is one token of the tokenizer and one row of the token table."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Collection, Mapping
from typing import Any

from tokenizers import AddedToken

from conceptctl.errors import AlreadyExists, NotFound, UsageError
from conceptctl.wording import article

MARKER = "V*"
MENTION = re.compile(r"[Vv]\*([A-Za-z0-9][A-Za-z0-9_-]*)")
"""A concept in a prompt that `composed` was applied to."""
MOST_STRENGTH = 2.0
"""Times what learning a concept changed: on the bundled base pictures break up before it."""
_STRENGTH = re.compile(
    rf"(?P<mention>{MENTION.pattern}):(?:(?P<value>\d+(?:\.\d+)?|\.\d+)(?![\w%+-]|[.,:/]\d)|(?P<odd>[-+]?(?:[.,]?\d\S*|(?i:nan|inf(?:inity)?)(?![\w-]))))"
)
"""`V*alice:0.8`. A colon that no number follows is a colon."""
_BRACKETS = ("()", "[]", "{}", "<>")
_LOOKALIKES = str.maketrans("авекмнорстухіјѕԁһԛԝӏοαυνικρτχεη", "abekmhopctyxijsdhqwloauvikptxen")
"""Small letters of Cyrillic and Greek that look like Latin ones, or nearly, and those."""
_GLUED = 24
"""How many of the characters beside a name are shown."""
_LETTERS_TOO = re.compile("[\u200c\u200d\u24b6-\u24e9\U0001f130-\U0001f149\U0001f150-\U0001f169\U0001f170-\U0001f189]")
"""Joiners of width 0, and letters in circles and squares: Unicode files them elsewhere, and calls them alphabetic."""

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

    The longest name wins, so that `V*al` is never read in `V*alice`, and case is ignored, as CLIP ignores it. A name
    must be a word of its own: the tokenizer spells `V*alice` out wherever a letter of any script touches it, and what
    is drawn then has nothing to do with the concept.

    Args:
        prompt: Any text.
        known: The names that there are.

    Raises:
        NotFound: The prompt names a concept that is not there, or writes one so that the tokenizer does not see it;
            what would work is in the hint.
    """
    prompt = composed(prompt)
    found: dict[str, None] = {}
    for match in MENTION.finditer(prompt):
        name = match[1].lower()
        before, behind = _glued(prompt, match)
        written = visible(f"{before}{MARKER}{match[1]}{behind}")
        if name not in known:
            near = difflib.get_close_matches(_plain(match[1] + behind), known)
            hint = f"did you mean {', '.join(MARKER + each for each in near)}?" if near else "conceptctl list"
            raise NotFound(f"no concept {written}{foreign(written)}", hint=hint)
        if before or behind:
            apart = visible(" ".join(part for part in (before, MARKER + name, behind) if part))
            raise NotFound(f"no concept {written}: a name is a word of its own", hint=f"{apart}, with a space between")
        found[name] = None
    return tuple(found)


def with_strengths(prompt: str) -> tuple[str, dict[str, float]]:
    """Take the strengths of concepts out of a prompt: "V*alice:0.8 in the snow" is "V*alice in the snow", alice at 0.8.

    Within brackets a number is the weight of another program, `(V*alice:1.3)`, and stays: see `prompt_warnings`.

    Args:
        prompt: Any text.

    Returns:
        The prompt without them, and the strengths by name.

    Raises:
        UsageError: What stands there is no strength, or a concept has two.
    """
    found: dict[str, float] = {}

    def take(match: re.Match[str]) -> str:
        if _in_brackets(match):
            return match[0]
        written, name = visible(match[0][: len(match["mention"]) + _GLUED]), match[2].lower()
        value = -1.0 if match["odd"] else float(match["value"])
        if not 0 <= value <= MOST_STRENGTH:
            raise UsageError(
                f"{written}: a strength is a number from 0 to {MOST_STRENGTH:g}",
                hint=f"{MARKER}{name}:0.8; {MARKER}{name}: with a space behind it where the colon is part of the text",
            )
        if found.setdefault(name, value) != value:
            raise UsageError(
                f"{MARKER}{name} has two strengths, {found[name]:g} and {value:g}",
                hint="a concept has one in the whole prompt; say it once",
            )
        return match["mention"]

    return _STRENGTH.sub(take, prompt), found


def _in_brackets(match: re.Match[str]) -> bool:
    """Whether a number behind a name ends a pair of brackets."""
    behind = match.string[match.end() : match.end() + _GLUED].lstrip()[:1]
    if match["odd"]:
        return False
    pair = next((each for each in _BRACKETS if each[1] == behind), "")
    before = match.string[: match.start()]
    return bool(pair) and before.rfind(pair[0]) > before.rfind(pair[1])


def composed(prompt: str) -> str:
    """Write letters and their accents as one character each (NFC), as the tokenizer does before it looks for tokens."""
    return unicodedata.normalize("NFC", prompt)


def joins(character: str) -> bool:
    """Whether a character beside a concept's name hides it from the tokenizer.

    These are letters, marks and digits of every script, and what joins words. Characters that are newer than Python's
    tables are taken for letters, since the tokenizer's may be newer too.
    """
    category = unicodedata.category(character)
    return category[0] in "LM" or category in ("Nd", "Nl", "Pc", "Cn") or bool(_LETTERS_TOO.match(character))


def _glued(prompt: str, mention: re.Match[str]) -> tuple[str, str]:
    """What is written before and behind a mention without a space, where that hides it; at most a few characters."""
    before = prompt[max(0, mention.start() - _GLUED) : mention.start()]
    behind = prompt[mention.end() : mention.end() + _GLUED]
    return (
        before.split()[-1] if before and joins(before[-1]) else "",
        behind.split()[0] if behind and joins(behind[0]) else "",
    )


def visible(text: str) -> str:
    """A piece of a prompt as it can be printed: what nobody would see is written as an escape."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _plain(text: str) -> str:
    """A text in small letters without accents, as concepts are named."""
    apart = unicodedata.normalize("NFKD", text.casefold())
    return "".join(looks_like(letter) for letter in apart if not unicodedata.combining(letter))


def looks_like(letter: str) -> str:
    """The small Latin letter that a Cyrillic or Greek one is taken for; any other letter itself."""
    return letter.casefold().translate(_LOOKALIKES) if len(letter.casefold()) == 1 and not letter.isascii() else letter


def foreign(text: str) -> str:
    """Name the letter of a text that looks like a Latin one and is none, as something said in brackets; "" for none."""
    found = next((letter for letter in text if looks_like(letter).isascii() and not letter.isascii()), "")
    return f" ({found!r} is {unicodedata.name(found)})" if found else ""


def mentioned(prompt: str) -> frozenset[str]:
    """The names that stand behind a `V*` in a prompt, whether there are such concepts or not."""
    return frozenset(match[1].lower() for match in MENTION.finditer(composed(prompt)))


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
    return article(word) if word else _NAMELESS


def add_token(tokenizer: Any, name: str) -> int:
    """Make `V*name` one token, and return its id: the row of the token table that is to be learned.

    The token is matched as a whole word only, in any program that loads the tokenizer; whatever its case, where the
    tokenizer reads everything in small letters, as CLIP's does.

    Args:
        tokenizer: CLIP's or T5's; changed in place.
        name: The concept's name.

    Raises:
        AlreadyExists: The tokenizer has this token already.
    """
    token = token_of(tokenizer, name)
    if token in tokenizer.get_vocab():
        raise AlreadyExists(f"{MARKER}{name} is a token of the base already", hint="choose another --token")
    tokenizer.add_tokens([AddedToken(token, single_word=True, normalized=True)])
    token_id: int = tokenizer.convert_tokens_to_ids(token)
    return token_id


def token_of(tokenizer: Any, name: str) -> str:
    """How a tokenizer spells a concept's token: normalized text may be in small letters, and then so is the token."""
    token = f"{MARKER}{name}"
    return token if tokenizer.tokenize("A") != tokenizer.tokenize("a") else token.lower()


def spelled_alike(prompt: str) -> str:
    """A prompt with its concepts' names as they were given: tokenizers that mind the case know no others."""
    return MENTION.sub(lambda match: f"{MARKER}{match[1].lower()}", composed(prompt))


def cut_off(tokenizer: Any, prompt: str) -> str:
    """What of a prompt the text encoder does not see, because it is too long; empty when it sees it all."""
    limit = tokenizer.model_max_length - 2
    token_ids = tokenizer(prompt, add_special_tokens=False, truncation=False, verbose=False).input_ids
    lost: str = tokenizer.decode(token_ids[limit:]).strip()
    return lost
