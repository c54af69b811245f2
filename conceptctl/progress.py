"""How what takes long says how far it is."""

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


def counted(progress: Progress, total: int) -> Callable[[int], None]:
    """Return what is told how much more is done, and tells how much is."""
    done = 0

    def more(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    return more
