"""Did it work? One verdict a concept, in words, from what a person would look at.

A picture *looks like* the concept when, among held-out pictures, it has a nearest one that is about as near as those
are to one another (`metrics/closeness.py`: the scale from the class's pictures to the held-out ones' leave-one-out, of
which a picture must have gone four fifths). All else rests on how many of the pictures do, now and just after learning,
on F_mmd against its noise floor, and on what a judge sees where the base has one:

- *too few to tell*: fewer than `FEWEST` pictures on either side, or held-out pictures that are no more alike than the
  class's are to them: nothing that is drawn could be told from the class.
- *not learned*: fewer than `SOME` of the pictures look like it, and no more did just after learning.
- *forgotten*: fewer than `SOME` look like it, but `MOST` did just after learning.
- *drifting*: F_mmd is above the noise floor, or fewer look like it than just after learning by `FALLEN` or more.
- *in part*: fewer than `MOST` look like it; or the judge misses something; or all pictures are nearly one.
- *well*: none of these.

The thresholds are shares of the pictures; they stand beside every verdict that is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from conceptctl.metrics.closeness import LIKE
from conceptctl.workflows.evaluate.events import is_kept

if TYPE_CHECKING:
    from conceptctl.pocket.seen import Seen
    from conceptctl.workflows.evaluate.history import Kept

FEWEST = 4
MOST = 0.75
SOME = 0.25
FALLEN = 0.25
ALIKE = 0.4
"""Diversity below which all pictures are nearly one: a training picture is drawn again and again."""
UNBIASED = 50
"""Pictures on each side below which KID, though unbiased, mostly shows chance."""
NAMED = 2
"""How many of the things that a judge misses a verdict names."""
WELL, PART, NOT, DRIFTING, FORGOTTEN, UNKNOWN = "well", "part", "not learned", "drifting", "forgotten", "unknown"


@dataclass(frozen=True)
class Evidence:
    """What a verdict rests on.

    Attributes:
        drawn: Pictures drawn now.
        heldout: Real pictures.
        like: How many of the drawn ones look like the concept; None where nothing could be told from its class.
        like_learned: The same of as many that were drawn just after learning; None where those are not there.
        kept: Whether F_mmd is within the noise floor; None where it is not known.
        diversity: How far apart the drawn pictures are, over how far apart the real ones are.
        seen: What the judge sees.
        since: With how many concepts in the store it began to drift; None where it does not, or that is not known.
        exact: Whether it was still kept when there was one concept less.
    """

    drawn: int
    heldout: int
    like: int | None
    like_learned: int | None = None
    kept: bool | None = None
    diversity: float | None = None
    seen: Seen | None = None
    since: int | None = None
    exact: bool = True

    @property
    def fallen(self) -> bool:
        """Whether it is not what it was just after learning."""
        if self.kept is False:
            return True
        return None not in (self.like, self.like_learned) and (
            (self.like_learned or 0) - (self.like or 0) >= FALLEN * self.drawn
        )


@dataclass(frozen=True)
class Verdict:
    """A verdict."""

    code: str
    """One of `WELL`, `PART`, `NOT`, `DRIFTING`, `FORGOTTEN`, `UNKNOWN`."""
    text: str
    """In a few words."""
    sentence: str
    """Why, in one sentence for people."""
    numbers: Mapping[str, Any]
    """What it rests on, and the thresholds."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as it is kept and printed."""
        return {"code": self.code, "text": self.text, "sentence": self.sentence, **self.numbers}


def judge(evidence: Evidence) -> Verdict:
    """Come to a verdict."""
    code, text = _judged(evidence)
    seen = evidence.seen
    numbers = {
        "pictures": evidence.drawn,
        "like": evidence.like,
        "like_after_learning": evidence.like_learned,
        "kept": evidence.kept,
        "since": evidence.since,
        "seen": {words: round(share, 3) for words, share in seen.shares.items()} if seen else None,
        "missing": list(seen.missing) if seen else None,
        "thresholds": {"like": LIKE, "most": MOST, "some": SOME, "fallen": FALLEN, "alike": ALIKE, "fewest": FEWEST},
    }
    return Verdict(code, text, _sentence(evidence), numbers)


def _judged(evidence: Evidence) -> tuple[str, str]:
    if min(evidence.drawn, evidence.heldout) < FEWEST:
        return UNKNOWN, "too few pictures to tell"
    if evidence.like is None:
        return UNKNOWN, "cannot be told from its class"
    of_them = f"{evidence.like} of {evidence.drawn} pictures look like it"
    if evidence.like < SOME * evidence.drawn:
        if _never_learned(evidence):
            return NOT, f"not learned: {of_them}"
        return FORGOTTEN, f"forgotten{_since(evidence)}"
    if evidence.fallen:
        return DRIFTING, f"drifting{_since(evidence)}"
    if evidence.like < MOST * evidence.drawn:
        return PART, f"learned in part: {of_them}"
    if evidence.seen and evidence.seen.missing:
        return PART, f"learned in part: {_missing(evidence.seen)} seen"
    if evidence.diversity is not None and evidence.diversity < ALIKE:
        return PART, "learned in part: all pictures are nearly one"
    return WELL, "learned well"


def _never_learned(evidence: Evidence) -> bool:
    """Whether hardly any picture looks like it, and not most did just after learning either."""
    few, most = SOME * evidence.drawn, MOST * evidence.drawn
    return (evidence.like or 0) < few and (evidence.like_learned or 0) < most


def _since(evidence: Evidence) -> str:
    if evidence.since is None:
        return ""
    return f" since the {ordinal(evidence.since)}" + ("" if evidence.exact else " or before")


def _missing(seen: Seen) -> str:
    """Say what is not seen: "no elf ears, no cap and 2 more"."""
    named = ", ".join(f"no {words}" for words in seen.missing[:NAMED])
    more = len(seen.missing) - NAMED
    return named + (f" and {more} more" if more > 0 else "")


def _sentence(evidence: Evidence) -> str:
    if min(evidence.drawn, evidence.heldout) < FEWEST:
        return f"{evidence.drawn} drawn and {evidence.heldout} held out; {FEWEST} of each are needed."
    if evidence.like is None:
        return (
            "The held-out pictures are no more like one another than what the base draws of the class is like them, so "
            "nothing can be said."
        )
    parts = [f"{evidence.like} of {evidence.drawn} pictures look like the held-out ones"]
    before = evidence.like_learned
    if before is not None and before != evidence.like:
        parts[0] += f", {before} did just after learning"
    if evidence.seen and evidence.seen.missing:
        parts.append(f"the judge sees {_list([f'no {words}' for words in evidence.seen.missing])} in most of them")
    elif evidence.seen:
        parts.append("the judge sees all that the held-out ones show")
    if evidence.kept is not None and not _never_learned(evidence):
        same = "as they did just after learning" if evidence.kept else "otherwise than just after learning"
        parts.append(f"on the whole they look {same}")
    return "; ".join(parts) + "."


def _list(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def ordinal(number: int) -> str:
    """Spell a place in an order: 1st, 2nd, 3rd, 11th."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def began(earlier: Sequence[tuple[int, Kept]], own: int, concepts: int) -> tuple[int, bool]:
    """Find since when a concept that is not kept has not been.

    Args:
        earlier: Earlier comparable evaluations of it, oldest first, each with how many concepts there were.
        own: How many there were when it had been learned.
        concepts: How many there are now.

    Returns:
        With how many concepts in the store it was first measured as not kept, without a break until now; and whether it
        is known to have been kept when there was just one less.
    """
    first, before = concepts, own
    for count, kept in reversed(earlier):
        if is_kept(kept) is not False:
            before = count
            break
        first = count
    return first, before >= first - 1
