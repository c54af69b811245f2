"""The weights that ship with the package, and the manifest that they are checked against.

weights/base/    a Stable Diffusion pipeline in diffusers' format, half precision
weights/clip/    the whole CLIP model whose text tower the pipeline has; its image tower makes the metrics' features
weights/judge/   the judge
weights/manifest.json   the sha256 and the size of every file
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from conceptctl.errors import StoreDamaged

if TYPE_CHECKING:
    from conceptctl.pocket.judge import Judge

WEIGHTS = Path(__file__).parent / "weights"
MANIFEST = "manifest.json"
JUDGE_FILE = "judge/judge.safetensors"
_HINT = "install conceptctl again: its bundled base is not as it was published"


def base_folder() -> Path:
    """The bundled base, every file of it checked: a folder for `StableDiffusionPipeline.from_pretrained`.

    Raises:
        StoreDamaged: A weight file is missing or is not the one that was published.
    """
    return _checked("base")


def clip_folder() -> Path:
    """The bundled CLIP model, every file of it checked: a folder for `CLIPModel.from_pretrained`.

    Raises:
        StoreDamaged: A weight file is missing or is not the one that was published.
    """
    return _checked("clip")


def load_judge() -> Judge:
    """Load the judge, on the CPU.

    Raises:
        StoreDamaged: A weight file is missing or is not the one that was published.
    """
    _checked("judge")
    from safetensors.torch import load_file

    from conceptctl.pocket.judge import Judge, JudgeNetwork

    network = JudgeNetwork()
    network.load_state_dict(
        {name: value.float() for name, value in load_file(WEIGHTS / JUDGE_FILE).items()}, strict=False
    )
    return Judge(network)


def write_manifest(folder: Path) -> None:
    """Write down the digest and size of every file of a folder of weights."""
    files = {
        path.relative_to(folder).as_posix(): {"sha256": file_digest(path), "bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    (folder / MANIFEST).write_text(json.dumps({"files": files}, indent=2) + "\n", encoding="utf-8")


def file_digest(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checked(part: str) -> Path:
    try:
        files = json.loads((WEIGHTS / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreDamaged(f"The bundled base has no readable manifest: {WEIGHTS / MANIFEST}", hint=_HINT) from error
    for name, entry in files.items():
        if not name.startswith(f"{part}/"):
            continue
        path = WEIGHTS / name
        if not path.is_file():
            raise StoreDamaged(f"A file of the bundled base is missing: {path}", hint=_HINT)
        if path.stat().st_size != entry["bytes"] or file_digest(path) != entry["sha256"]:
            raise StoreDamaged(f"A file of the bundled base is damaged: {path}", hint=_HINT)
    return WEIGHTS / part
