"""`conceptctl export --to lora`, `diff`, `embedding` or `single-file`: what other programs take."""

from __future__ import annotations

from pathlib import Path

from conceptctl.cli.output import Output
from conceptctl.cli.progress import in_megabytes
from conceptctl.cli.stores import share_text, size_text, warn_of_damaged
from conceptctl.errors import UsageError
from conceptctl.store.store import Store
from conceptctl.wording import count
from conceptctl.workflows.export_shared import Shared, export_shared

ENDING = ".safetensors"
NOT_FOLDERS = {".bin", ".ckpt", ".pt", ".pth", ".txt"}
"""What no folder of embeddings is called, and other programs take for a pickle."""
_WEIGHTS = {
    "lora": "a LoRA for diffusers, ComfyUI, A1111 and sd-scripts",
    "diff": "full differences for ComfyUI and A1111",
    "single-file": "a checkpoint for any program",
}
_EXACT = 1e-5
"""The error of a file in which nothing was left out: that of adding up fp32 numbers."""


def write(
    out: Output,
    store: Store,
    names: tuple[str, ...],
    output: str | None,
    to: str,
    *,
    at: int | None,
    rank: int | None,
    dtype: str | None,
) -> None:
    """Write the files, and say how they are used."""
    if output is None:
        example = "FILE.safetensors" if to != "embedding" else "DIR"
        raise UsageError(f"--to {to} makes files, which need a name", hint=f"--output {example}")
    path = Path(output)
    if path.suffix != ENDING and (to != "embedding" or path.suffix in NOT_FOLDERS):
        named = f"{path.stem or 'model'}{ENDING}"
        raise UsageError(f"{output!r}: other programs read {ENDING} files", hint=f"--output {path.parent / named}")
    with out.progress() as bar:
        made = export_shared(
            store,
            names,
            path,
            to,
            at=at,
            rank=rank,
            dtype=dtype,
            progress=bar("reading prompts"),
            writing=in_megabytes(bar("writing, MB")),
        )
    _show(out, made, to)


def _show(out: Output, made: Shared, to: str) -> None:
    paths = [str(path) for path in (made.path, *made.embeddings.values()) if path]
    payload = {
        "generation": made.generation,
        "format": to,
        "path": None if made.path is None else str(made.path),
        "concepts": list(made.embeddings),
        "embeddings": {name: str(path) for name, path in made.embeddings.items()},
        "bytes": made.size,
        "rank": made.rank or None,
        "error": made.error,
        "changed": dict(made.changed),
    }
    warn_of_damaged(out, made.damaged)
    if made.error > _EXACT:
        out.warn(
            f"truncated to rank {made.rank}: {share_text(made.error)} of what was learned is left out; without --rank "
            "it is exact"
        )
    out.data(payload, paths, paths)
    names = list(made.embeddings)
    what = "a LoRA for diffusers" if made.diffusers_only else _WEIGHTS.get(to, "an embedding each")
    rank = f", rank {made.rank}" if made.rank else ""
    out.say(f"exported {count(len(names), 'concept')} as {what}{rank}; {size_text(made.size)}")
    if names and to != "embedding":
        out.say(
            "its token goes along in an embedding file" if len(names) == 1 else "their tokens go along in embeddings"
        )
    if names:
        name = names[0]
        out.say(f"in prompts: embedding:{name} (ComfyUI), {name} (A1111), V*{name} (diffusers)")
    for name, changed in made.changed.items():
        out.say(f"{name}: whole without the others; its prompts' keys and values within {share_text(changed)}")
