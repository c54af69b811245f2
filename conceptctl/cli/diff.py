"""`conceptctl diff`: how two generations differ."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from conceptctl.cli import completion
from conceptctl.cli.options import JsonOption, QuietOption, StoreOption, epilog
from conceptctl.cli.output import Output
from conceptctl.cli.stores import action_text, minute, open_store, share_text, size_text
from conceptctl.wording import count

if TYPE_CHECKING:
    from conceptctl.store.manifest import Concept, Generation
    from conceptctl.workflows.generation_diff import GenerationDiff

EPILOG = epilog("conceptctl diff 3", "conceptctl diff 3 7 --json", codes=(2, 4, 5))
LARGEST = 3
"""How many of the weights that differ most are shown."""


def diff(
    first: Annotated[
        int, typer.Argument(help="A generation (see log).", metavar="A", autocompletion=completion.generations)
    ],
    second: Annotated[
        int | None,
        typer.Argument(help="Another one; the newest by default.", metavar="B", autocompletion=completion.generations),
    ] = None,
    store: StoreOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compare two generations: which concepts came, went or have another name, and how far the weights moved.

    The distance is |B - A| / |A| (Frobenius norm) over all weights that concepts can change.
    """
    from conceptctl.workflows import generation_diff

    output = Output(json, quiet)
    found = generation_diff.diff(open_store(store), first, second)
    output.data(_payload(found), _lines(found), _names(found))


def _names(found: "GenerationDiff") -> list[str]:
    new = [concept for _, concept in found.renamed]
    return [each.name for each in (*found.added, *found.removed, *found.relearned, *new, *found.rewritten)]


def _lines(found: "GenerationDiff") -> list[str]:
    before, after = found.before, found.after
    noun = after.base.noun
    lines = [
        f"generation {each.seq}, {minute(each.time)}, {action_text(each.action.verb, each.action.names)}"
        for each in (before, after)
    ]
    lines += [f"  added: {_concept(each)}" for each in found.added]
    lines += [f"  removed: {_concept(each)}" for each in found.removed]
    lines += [f"  learned anew: {_concept(each)}" for each in found.relearned]
    lines += [f"  renamed: {old.name} is {new.name}" for old, new in found.renamed]
    lines += [f"  without its delta: {_concept(each)}" for each in found.rewritten]
    if not _names(found):
        lines.append(f"  the same {noun}s")
    lines.append(
        f"  files of {noun}s: {size_text(_size(before))} ({count(len(before.concepts), noun)}) -> "
        f"{size_text(_size(after))} ({count(len(after.concepts), noun)})"
    )
    if found.distance is None:
        return [*lines, f"  weights: not compared, {found.gone}"]
    if not found.largest:
        return [*lines, "  weights: the same, bit for bit"]
    most = list(found.largest.items())[:LARGEST]
    return [
        *lines,
        f"  weights: {share_text(found.distance)} apart, in {count(len(found.largest), 'matrix', 'matrices')}; most in",
        *(f"    {share_text(distance)}  {path}" for path, distance in most),
    ]


def _concept(each: "Concept") -> str:
    return (
        f"{each.name} ({', '.join(part for part in (each.class_word, each.method, size_text(each.blob.size)) if part)})"
    )


def _size(generation: "Generation") -> int:
    return sum(each.blob.size for each in generation.concepts)


def _payload(found: "GenerationDiff") -> dict[str, Any]:
    def facts(generation: "Generation") -> dict[str, Any]:
        return {
            "generation": generation.seq,
            "id": generation.identity,
            "time": generation.time,
            "verb": generation.action.verb,
            "names": list(generation.action.names),
            "concepts": [each.name for each in generation.concepts],
            "bytes": _size(generation),
        }

    return {
        "from": facts(found.before),
        "to": facts(found.after),
        "added": [each.name for each in found.added],
        "removed": [each.name for each in found.removed],
        "relearned": [each.name for each in found.relearned],
        "renamed": [{"from": old.name, "to": new.name} for old, new in found.renamed],
        "rewritten": [each.name for each in found.rewritten],
        "distance": found.distance,
        "distances": dict(found.largest),
        "not_compared": found.gone,
    }
