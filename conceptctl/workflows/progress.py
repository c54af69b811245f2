"""How a workflow says how far it is."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with how much is done, and how much there is."""


Stages = Callable[[str], Progress]
"""Called with what is going on; what it returns is told how far that is."""


def ignore(done: int, total: int) -> None:
    """Tell nobody."""


def ignore_all(text: str) -> Progress:
    """Tell nobody of any stage."""
    return ignore
