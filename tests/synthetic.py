"""Bases and concepts made of random numbers, in the shapes of real ones and without torch."""

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np

import conceptctl
from conceptctl.families.sd import FAMILY
from conceptctl.store import base, folded, tensorfile, weights
from conceptctl.store.concept import Record
from conceptctl.store.factors import Factors
from conceptctl.store.manifest import Generation
from conceptctl.store.store import Store
from conceptctl.workflows.adding import add_concept

TOKEN_TABLE = "text_model.embeddings.token_embedding.weight"
TINY = {"mid_block.attn2.to_k.weight": (24, 6), "mid_block.attn2.to_v.weight": (20, 6)}
WIDTH = 6

SD1_CROSS_ATTENTION = (320,) * 10 + (640,) * 10 + (1280,) * 12
"""Output widths of the 32 K and V projections of Stable Diffusion 1.x; each takes 768."""


def sd1_shapes() -> dict[str, tuple[int, int]]:
    """Return the K and V weights of Stable Diffusion 1.x: 19,169,280 numbers."""
    return {f"block{i // 2}.attn2.to_{'kv'[i % 2]}.weight": (width, 768) for i, width in enumerate(SD1_CROSS_ATTENTION)}


def write_safetensors(path: Path, arrays: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: weights.array_tensor(array) for name, array in arrays.items()}
    path.write_bytes(b"".join(tensorfile.encode(tensors, {"format": "pt"})))


def write_base(folder: Path, shapes=None, width=WIDTH, seed=0) -> Path:
    """Write what the store needs of a diffusers folder."""
    rng = np.random.default_rng(seed)
    shapes = shapes or TINY
    unet = {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    write_safetensors(folder / "unet/diffusion_pytorch_model.safetensors", unet)
    table = rng.standard_normal((8, width), dtype=np.float32)
    write_safetensors(folder / "text_encoder/model.safetensors", {TOKEN_TABLE: table})
    write_safetensors(folder / "vae/diffusion_pytorch_model.safetensors", {"w": np.ones(3, np.float32)})
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (folder / "unet/config.json").write_text('{"_name_or_path": "/home/someone/models/x", "sample_size": 4}')
    (folder / "vae/config.json").write_text('{"block_out_channels": [4]}')
    (folder / "tokenizer").mkdir(exist_ok=True)
    (folder / "tokenizer/tokenizer_config.json").write_text('{"name_or_path": "/home/someone/models/x"}')
    (folder / "tokenizer/vocab.json").write_text(json.dumps({"a</w>": 0, "v*taken</w>": 1}))
    return folder


def make_store(root: Path, base_folder: Path, name: str = "local folder") -> Store:
    return Store.create(root, base.inspect(base_folder, FAMILY), name)


def deltas(shapes, seed: int, density: float) -> dict[str, weights.Delta]:
    rng = np.random.default_rng(seed)
    made = {}
    for name, shape in shapes.items():
        mask = rng.random(shape, dtype=np.float32) < density
        mask.reshape(-1)[seed % math.prod(shape)] = True
        values = rng.standard_normal(np.count_nonzero(mask), dtype=np.float32)
        made[f"unet/{name}"] = weights.Delta(mask, values)
    return made


def factors(shapes, seed: int, rank: int, density: float = 1.0) -> dict[str, Factors]:
    """Deltas that are products, with a mask where not all entries pass."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, (rows, columns) in shapes.items():
        up, down = (rng.standard_normal(shape, dtype=np.float32) for shape in ((rows, rank), (rank, columns)))
        mask = rng.random((rows, columns)) < density if density < 1 else None
        made[f"unet/{name}"] = Factors.of(up, down, mask)
    return made


def state(shapes=None, seed: int = 0) -> dict[str, np.ndarray]:
    """What a method may keep for its next concept: two factors of each weight."""
    rng = np.random.default_rng(seed + 2)
    kept = {}
    for name, (rows, columns) in (shapes or TINY).items():
        kept[f"up/unet/{name}"] = rng.standard_normal((rows, 2), dtype=np.float32)
        kept[f"down/unet/{name}"] = rng.standard_normal((2, columns), dtype=np.float32)
    return kept


def record(store: Store, name: str, seed: int = 0, **changes) -> Record:
    facts = {
        "uid": hashlib.sha256(f"{name} {seed}".encode()).hexdigest()[:16],
        "name": name,
        "class_word": "person",
        "method": "stamina",
        "learned": "2026-11-01T00:00:00Z",
        "program": conceptctl.__version__,
        "base": store.head().base.sha256,
        "after": store.head().seq,
        "seed": seed,
        "steps": 500,
        "photos": 12,
        "settings": {"rank": 16},
        "loss_curve": (0.5, 0.25, 0.125),
    }
    return Record(**{**facts, **changes})


def hold_others(store: Store, head: Generation, uids, progress=None):
    """In the place of `forget.hold_others`, on a base without a text encoder: the others' deltas, added up."""
    left = tuple(each for each in head.concepts if each.uid not in uids)
    sums, tokens = folded.read(store.layout, dataclasses.replace(head, concepts=left, folded=None))
    return SimpleNamespace(weights=sums, tokens=tokens, kept=(), left=0.0, elsewhere=0.0, damaged=())


def join_others(store: Store, head: Generation, record: Record, path: Path, with_others, progress):
    """In the place of `import_concept.join_others`: the delta as it is in the file."""
    shapes = {place: info.shape for place, (_, _, info) in base.tensors(store.layout, head.base).items()}
    return SimpleNamespace(deltas=dict(weights.read_deltas(path, shapes)), kept=(), lacking=0.0, damaged=())


def without_prompts(monkeypatch) -> None:
    """Let `forget` and `import` go on without the hidden states that a base of random numbers cannot give."""
    monkeypatch.setattr("conceptctl.workflows.forget.hold_others", hold_others)
    monkeypatch.setattr("conceptctl.workflows.import_concept.join_others", join_others)


def concept_bytes(
    store: Store, name: str, seed: int = 0, shapes=None, width=WIDTH, density=0.3, rank=0, state=None, **changes
) -> bytes:
    """Return a concept file's bytes; with a rank its deltas are kept as factors."""
    rng = np.random.default_rng(seed + 1)
    shapes = shapes or TINY
    tensors = weights.concept_tensors(
        factors(shapes, seed, rank, density) if rank else deltas(shapes, seed, density),
        rng.standard_normal((1, width), dtype=np.float32),
        rng.standard_normal((2, 3), dtype=np.float32),
        state,
    )
    return b"".join(tensorfile.encode(tensors, record(store, name, seed, **changes).metadata()))


def learn(store: Store, name: str, seed: int = 0, **options) -> Generation:
    """Commit a synthetic concept the way `learn` commits a real one; options that are none are facts of its record."""
    shapes, width, density = (options.pop(k, d) for k, d in (("shapes", TINY), ("width", WIDTH), ("density", 0.3)))
    kept, rank = options.pop("state", None), options.pop("rank", 0)
    made = record(store, name, seed, **options)
    rng = np.random.default_rng(seed + 1)
    row = rng.standard_normal((1, width), dtype=np.float32)
    changes = factors(shapes, seed, rank, density) if rank else deltas(shapes, seed, density)
    tensors = weights.concept_tensors(changes, row, state=kept)
    with store.writing("learn", wait=True) as writer:
        return add_concept(writer, "learn", made, writer.add_tensors(tensors, made.metadata()))
