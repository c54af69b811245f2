"""`bench data`: concepts of the pocket world as plain picture folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from conceptctl.errors import AlreadyExists, UsageError
from conceptctl.pocket.world import concepts as world
from conceptctl.workflows.bench.spec import MOST_CONCEPTS
from conceptctl.workflows.places import writable


def write_bench_data(
    folder: Path,
    *,
    length: int,
    seed: int,
    training: int = world.TRAINING_VIEWS,
    heldout: int = world.HELDOUT_VIEWS,
    progress: Callable[[str], None] = lambda name: None,
) -> tuple[str, ...]:
    """Write a sequence of concepts as folders of pictures, in the order in which they are to be learned.

    Args:
        folder: A folder that is not there yet, or is empty.
        length: How many concepts.
        seed: Which sequence.
        training: Training pictures of each concept.
        heldout: Held-out pictures of each concept.
        progress: Called with each concept's name once its pictures are written.

    Returns:
        The names of the concepts.

    Raises:
        AlreadyExists: There is something in the folder.
        UsageError: A number or a place that cannot be meant.
    """
    if not 1 <= length <= MOST_CONCEPTS or training < 1 or heldout < 1 or not 0 <= seed < 2**31:
        raise UsageError(
            f"the numbers of concepts and pictures start at 1, seeds at 0; there are at most {MOST_CONCEPTS} concepts"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AlreadyExists(f"{folder} is there and is not an empty folder.", hint="name a new folder")
    concepts = world.sequence(length, seed)
    with writable(folder):
        for item in world.write_folders(concepts, folder, training=training, heldout=heldout):
            progress(item.name)
    return tuple(item.name for item in concepts)
