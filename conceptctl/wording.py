"""Counts and articles in sentences."""

SILENT = ("hour", "honest")
"""Beginnings with a letter that is not heard."""
LIKE_YOU = ("uni", "use", "usu", "eu", "one")
"""Beginnings with a vowel that sounds like a consonant."""


def count(number: int, what: str, several: str = "") -> str:
    """Return a number and what there are so many of: "1 concept", "2 concepts".

    Args:
        number: How many.
        what: What one of them is called.
        several: What more of them are called, where that is not `what` with an s.
    """
    return f"{number} {what if number == 1 else several or f'{what}s'}"


def article(word: str) -> str:
    """Return a word behind its article: "an eval", "a waterfall", "a V*alice"."""
    start = word.lstrip("'\"").lower()
    vowel = start.startswith(SILENT) or (start[:1] in set("aeiou8") and not start.startswith(LIKE_YOU))
    return f"{'an' if vowel else 'a'} {word}"
