"""Signals wait while something must not be torn apart."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def deferred_signals() -> Iterator[list[int]]:
    """Hold back SIGINT and SIGTERM, and deliver them at the end to whoever handled them before.

    Yields:
        The signals that wait.
    """
    waiting: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread is ever interrupted.
        yield waiting
        return

    def wait(number: int, frame: FrameType | None) -> None:
        waiting.append(number)

    before: dict[int, Any] = {number: signal.signal(number, wait) for number in _SIGNALS}
    try:
        yield waiting
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in waiting[:1]:
            signal.raise_signal(number)
