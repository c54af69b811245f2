"""What in a prompt is read otherwise than it may be meant: nearly a concept's name, or another program's syntax."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator

from conceptctl.diffusion.prompts import MARKER, MENTION, composed, foreign, looks_like, visible

_STARS = "∗⁎✱✲⋆٭★"
"""What people, phones and web pages write for `*`, beside its compatible forms."""
_NEARLY = re.compile(r"(?<![^\W_])v(?P<between>&(?:ast|#42);|[\W_]{1,6}?)(?P<name>[^\W_][\w-]*)", re.IGNORECASE)
"""`V\\*alice`, `V* alice`, `v *alice`, `V-alice`: something else than a star alone."""
_STARLESS = re.compile(r"(?<!\w)V(?P<name>[a-z0-9][\w-]{2,63})")
"""`Valice`; the two letters of `Val` are rather somebody's name."""
_IN_PLACE_OF_A_STAR = ("-", "_", ".", ":", "^", "'", "\\", "&ast;", "&#42;")
_WORD = re.compile(r"[\w-]+")
_INSIDE = r"[^()\[\]{}<>]{1,80}"
_NAME = r"[Vv]\*[\w-]+"
_SYNTAX = (
    # (red hair:1.3), [cat:dog:0.5], <lora:alice:0.8>
    rf"[(\[{{<]{_INSIDE}:(?:\d*\.\d+|(?<=\D:)\d+)\s*[)\]}}>]",
    rf"\(\({_INSIDE}\)\)|\[\[{_INSIDE}\]\]|\{{\{{{_INSIDE}\}}\}}",
    rf"\[\s*{_NAME}\s*\]|\{{\s*{_NAME}\s*\}}",
    rf"(?:{_NAME}|\({_INSIDE}\))\+{{1,9}}",
)
"""Weights of A1111, ComfyUI, NovelAI and compel."""
_OURS = re.compile(rf"({_NAME}:\d*\.?\d+)\s*[)\]}}>]")
"""What would be the strength of a concept without brackets around it."""
_SPACED = re.compile(rf"({_NAME}):\s+(\d*\.\d+)")
"""What would be one without the space; `V*alice: 2 cats` is a colon."""
_WEIGHTED = re.compile("|".join(_SYNTAX))
_PLACE = "{token}"
_SHOWN = 60
"""How many characters of a prompt a warning shows."""
_FEW = 3
"""How many names it shows."""


def prompt_warnings(prompt: str, known: Collection[str]) -> tuple[str, ...]:
    """Say what of a prompt may not be read as it is meant; nothing for nearly all prompts.

    Args:
        prompt: A prompt whose concepts `names_in` has found, without their strengths.
        known: The names that there are.

    Returns:
        One sentence for each doubt.
    """
    prompt = composed(prompt)
    named = {match[1].lower() for match in MENTION.finditer(prompt)}
    # What is a mention indeed is in no doubt. Every character stays at its place, so that it can be shown as it is.
    rest = "".join(map(_compatible, MENTION.sub(lambda match: " " * len(match[0]), prompt)))
    nearly = {visible(prompt[start:end]): name for start, end, name in _nearly_named(rest, known)}
    words = {word for match in _WORD.finditer(rest.lower()) for word in (match[0], match[0].strip("-_"))}
    plain = [name for name in sorted(known) if name in words - named - set(nearly.values())]
    found = [_doubt([written], [name] if name in known else []) for written, name in list(nearly.items())[:_FEW]]
    if plain:
        found.append(_doubt(plain, plain))
    found += _weights(prompt)
    if _PLACE in prompt:
        found.append(f"{_PLACE} is for captions; a prompt says {MARKER}NAME")
    return tuple(found)


def _weights(prompt: str) -> Iterator[str]:
    """What is said of another program's weights in a prompt."""
    ours, weighted = _OURS.search(prompt), _WEIGHTED.search(prompt)
    if ours or weighted:
        shown = _quoted((weighted or ours or [""])[0])
        told = f"{shown}: brackets and weights are read as words here, and emphasize nothing"
        yield f"{told}; {ours[1]} without brackets draws it with that strength" if ours else told
    if spaced := _SPACED.search(prompt):
        told = f"{_quoted(spaced[0])}: a number behind a space is read as words"
        yield f"{told}; {spaced[1]}:{spaced[2]} draws it with that strength"


def _compatible(character: str) -> str:
    """The one plain character that one of another width, shape or script stands for, or itself."""
    plain = unicodedata.normalize("NFKC", character)
    plain = plain if len(plain) == 1 else character
    return "*" if character in _STARS else looks_like(plain)


def _nearly_named(rest: str, known: Collection[str]) -> Iterator[tuple[int, int, str]]:
    """Where something looks like a concept, from and to, and the name that it would have."""
    for match in _NEARLY.finditer(rest):
        name, between = match["name"].lower(), match["between"].lower()
        starred = "*" in between and (name in known or name[0].isalpha())
        if starred or (between in _IN_PLACE_OF_A_STAR and name in known):
            yield match.start(), match.end(), name
    for match in _STARLESS.finditer(rest):
        if match["name"].lower() in known:
            yield match.start(), match.end(), match["name"].lower()


def _doubt(written: list[str], names: list[str]) -> str:
    shown = ", ".join(map(_quoted, written[:_FEW])) + (", ..." if len(written) > _FEW else "")
    read = f"{shown} {'is' if len(written) == 1 else 'are'} read as plain text{foreign(shown)}"
    if not names:
        return f"{read}; a concept is written {MARKER}NAME"
    return f"{read}; is {' or '.join(MARKER + name for name in names[:_FEW])} meant?"


def _quoted(text: str) -> str:
    text = visible(text)
    return f'"{text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."}"'
