"""What a process that `accelerate launch` began knows of itself before torch is loaded."""

from __future__ import annotations

import os


def processes() -> int:
    """How many processes this run has."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def process() -> int:
    """Which of them this is, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main_process() -> bool:
    """Whether this is the one process of a run that writes and prints."""
    return process() == 0
