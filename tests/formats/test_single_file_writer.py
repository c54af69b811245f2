"""A store's model as a checkpoint in one file: against a peer's layout, and as diffusers reads it."""

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from conceptctl.formats.single_file_writer import tensors_of
from conceptctl.store import base, tensorfile
from conceptctl.workflows.init import initialize
from tests.original_layout import write_single_file
from tests.tiny_pipeline import key_value_shapes, write_tiny_pipeline


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def folder(request, tmp_path_factory):
    return write_tiny_pipeline(tmp_path_factory.mktemp("tiny") / "model", prediction_type=request.param)


@pytest.fixture
def store(folder, tmp_path):
    return initialize(tmp_path / "store", str(folder)).store


def written(store, path, changed, dtype=None):
    head = store.head()
    tensors = tensors_of(base.tensors(store.layout, head.base), base.configs(store.layout, head.base), changed, dtype)
    encoded = tensorfile.encode(tensors, {"format": "pt"})
    with path.open("wb") as stream:
        stream.writelines(encoded)
    assert path.stat().st_size == encoded.size
    return load_file(path)


def test_it_is_what_a_peer_writes(folder, store, tmp_path):
    ours = written(store, tmp_path / "ours.safetensors", {})
    theirs = load_file(write_single_file(folder, tmp_path / "theirs.safetensors"))
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert torch.equal(ours[key], tensor)


def test_diffusers_reads_what_was_learned(folder, store, tmp_path):
    changed = {
        f"unet/{name}": np.random.default_rng(index).standard_normal(shape).astype(np.float32)
        for index, (name, shape) in enumerate(key_value_shapes(folder).items())
    }
    written(store, tmp_path / "model.safetensors", changed)
    pipeline = StableDiffusionPipeline.from_single_file(
        str(tmp_path / "model.safetensors"), config=str(folder), safety_checker=None
    )
    plain = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    for part in ("unet", "vae", "text_encoder"):
        there = getattr(plain, part).state_dict()
        for name, tensor in getattr(pipeline, part).state_dict().items():
            learned = changed.get(f"{part}/{name}")
            assert torch.equal(tensor, there[name] if learned is None else torch.from_numpy(learned)), name


@pytest.mark.parametrize(("name", "kind"), [("F16", torch.float16), ("BF16", torch.bfloat16)])
def test_another_type_is_rounded_to(folder, store, tmp_path, name, kind):
    path = next(iter(key_value_shapes(folder)))
    changed = {
        f"unet/{path}": np.random.default_rng(0).standard_normal(key_value_shapes(folder)[path]).astype(np.float32)
    }
    whole, rounded = (written(store, tmp_path / f"{dtype}.safetensors", changed, dtype) for dtype in (None, name))
    for key, tensor in whole.items():
        assert torch.equal(rounded[key], tensor.to(kind))


def test_open_clip_is_put_together_again(tmp_path):
    """Queries, keys and values are one tensor there, and the projection stands the other way round."""
    from safetensors.torch import save_file
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    from conceptctl.formats.original_layout import open_clip_place

    torch.manual_seed(0)
    network = CLIPTextModelWithProjection(
        CLIPTextConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, projection_dim=6)
    )
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    header = tensorfile.read_header(tmp_path / "model.safetensors")
    found = {
        f"text_encoder_2/{name}": (tmp_path / "model.safetensors", name, info) for name, info in header.tensors.items()
    }
    configs = {f"{name}/config.json": json.loads('{"hidden_size": 8}') for name in ("text_encoder", "text_encoder_2")}
    configs["text_encoder_2/config.json"]["hidden_size"] = 1280
    configs |= {"unet/config.json": {}, "vae/config.json": {}}
    tensors = tensors_of(found, configs, {})
    prefix = "conditioner.embedders.1.model."
    made = {key: np.frombuffer(bytes(each.data), "<f4").reshape(each.shape).copy() for key, each in tensors.items()}
    assert all(key.startswith(prefix) for key in made)
    attention = "text_model.encoder.layers.0.self_attn"
    joined = torch.cat([state[f"{attention}.{each}_proj.weight"] for each in "qkv"])
    assert torch.equal(torch.from_numpy(made[f"{prefix}transformer.resblocks.0.attn.in_proj_weight"]), joined)
    assert torch.equal(torch.from_numpy(made[f"{prefix}text_projection"]), state["text_projection.weight"].T)
    assert made.keys() == {open_clip_place(name, prefix).key for name in state}
