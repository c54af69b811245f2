"""What is said of a concept's pictures and samples, in words; without torch, for verbs that only read records."""

from __future__ import annotations

from typing import Any

LEAST = 0.25
"""Below that pictures count as of different things (`benchmarks/coherence.py`)."""
LIKE, UNLIKE = 0.8, 0.5
"""From which similarity on samples are called like the pictures, and below which they are not
(`benchmarks/sample_similarity.py`)."""


def differs_text(value: Any) -> str:
    """Say of a coherence that pictures show different things; "" where they do not, or nobody knows."""
    if not _is_one(value) or value >= LEAST:
        return ""
    return (
        f"its pictures are hardly more alike than pictures of different things (coherence {value:.2f}; of one thing "
        f"{LEAST} or more): there may be nothing that they all show"
    )


def samples_text(value: Any, *, advise: bool = True) -> str:
    """Say how like its pictures a concept's samples are; "" where nobody knows.

    Args:
        value: The sample similarity.
        advise: Whether to say what may help: a training that ended by itself has said so.
    """
    if not _is_one(value):
        return ""
    said = "are like" if value >= LIKE else "are partly like" if value >= UNLIKE else "are not like"
    more = ": more steps may help (--steps)" if advise and value < LIKE else ""
    return f"samples {said} its pictures (similarity {value:.2f}; 1 is as alike as these are){more}"


def _is_one(value: Any) -> bool:
    # A record may be from a file of somebody else's.
    return type(value) is float and -100 < value < 100
