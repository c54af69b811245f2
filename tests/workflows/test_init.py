"""`init` on real diffusers folders, tiny ones with random weights."""

import json

import numpy as np
import pytest

from conceptctl.errors import ImportRefused, NotFound
from conceptctl.families.sd import FAMILY
from conceptctl.formats.single_file import CONFIGURATIONS
from conceptctl.store import base
from conceptctl.store.store import Store
from conceptctl.workflows.init import initialize
from tests import synthetic


@pytest.fixture(scope="module")
def pipeline():
    """A pipeline of the Stable Diffusion architecture, a few thousand weights in all."""
    torch = pytest.importorskip("torch")
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    down, up = ("DownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D", "UpBlock2D")
    unet = UNet2DConditionModel(
        block_out_channels=(4, 8),
        layers_per_block=1,
        sample_size=8,
        down_block_types=down,
        up_block_types=up,
        cross_attention_dim=8,
        norm_num_groups=2,
        attention_head_dim=2,
    )
    vae = AutoencoderKL(block_out_channels=(4,), norm_num_groups=2, latent_channels=4)
    text = CLIPTextModel(
        CLIPTextConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=20)
    )
    return StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        text_encoder=text,
        tokenizer=None,
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@pytest.fixture
def folder(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_saved_pipeline_comes_back_out_of_a_store(pipeline, folder, tmp_path):
    import torch
    from diffusers import UNet2DConditionModel

    store = initialize(tmp_path / "store", str(folder)).store
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    with base.folder(store.layout, store.head()) as laid_out:
        unet = UNet2DConditionModel.from_pretrained(laid_out, subfolder="unet")
        assert json.loads((laid_out / "model_index.json").read_text())["_class_name"] == "StableDiffusionPipeline"
    for name, weight in pipeline.unet.state_dict().items():
        assert torch.equal(unet.state_dict()[name], weight)


def test_concepts_change_the_pipelines_own_projections(pipeline, folder, tmp_path):
    store = initialize(tmp_path / "store", str(folder)).store
    tensors = base.tensors(store.layout, store.head().base)
    assert base.token_width(tensors, FAMILY) == 8
    shapes = {
        name: tuple(weight.shape)
        for name, weight in pipeline.unet.state_dict().items()
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))
    }
    assert len(shapes) >= 6
    synthetic.learn(store, "alice", shapes=shapes, width=8)
    from conceptctl.workflows.fold import fold

    assert fold(store).names == ("alice",)


def test_pocket_is_what_the_package_brings(folder, tmp_path, monkeypatch):
    from conceptctl import pocket

    monkeypatch.setattr(pocket, "base_folder", lambda: folder, raising=False)
    made = initialize(tmp_path / "store", "pocket")
    assert made.base_name == "pocket"
    assert made.base_sha256 == base.inspect(folder, FAMILY).sha256


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """The hub's cache on a machine without a network; nothing is in it yet."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def single(request, tmp_path_factory):
    """A tiny checkpoint as a folder, and the same in one file in the original layout."""
    from tests.original_layout import write_single_file
    from tests.tiny_pipeline import write_tiny_pipeline

    place = tmp_path_factory.mktemp("single")
    folder = write_tiny_pipeline(place / "folder", prediction_type=request.param)
    return folder, write_single_file(folder, place / "model.safetensors")


def put_into(cache, repository, folder):
    """Put a folder's texts into the hub's cache, as `hf download --include` does."""
    place = cache / f"models--{repository.replace('/', '--')}"
    commit = "0" * 40
    for path in folder.rglob("*"):
        if path.suffix in (".json", ".txt"):
            target = place / "snapshots" / commit / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    (place / "refs").mkdir()
    (place / "refs/main").write_text(commit)


def test_a_single_file_becomes_the_same_base_as_the_folder(single, hub_cache, tmp_path):
    folder, path = single
    put_into(hub_cache, CONFIGURATIONS, folder)
    made = initialize(tmp_path / "store", str(path))
    assert made.base_sha256 == base.inspect(folder, FAMILY).sha256
    head = Store(tmp_path / "store").head()
    assert head.base.name == "local file"
    with base.folder(made.store.layout, head) as laid_out:
        scheduler = json.loads((laid_out / "scheduler/scheduler_config.json").read_text())
        theirs = json.loads((folder / "scheduler/scheduler_config.json").read_text())
        assert scheduler["prediction_type"] == theirs["prediction_type"]
        assert (laid_out / "tokenizer/tokenizer.json").is_file()


def test_a_single_file_without_a_network_says_what_to_get(single, hub_cache, tmp_path):
    _, path = single
    with pytest.raises(NotFound, match=r"model\.safetensors") as caught:
        initialize(tmp_path / "store", str(path))
    assert f"hf download {CONFIGURATIONS} --include '*.json' --include '*.txt'" in caught.value.hint
    assert not (tmp_path / "store").exists()


def test_configurations_that_do_not_fit_a_single_file(single, hub_cache, folder, tmp_path):
    _, path = single
    put_into(hub_cache, CONFIGURATIONS, folder)
    with pytest.raises(NotFound, match=r"model\.safetensors") as caught:
        initialize(tmp_path / "store", str(path))
    assert caught.value.hint
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("conceptual.weight", "--base FOLDER"),
        ("conditioner.embedders.1.model.ln_final.weight", "Stable Diffusion 1 or 2"),
    ],
)
def test_a_single_file_of_another_architecture(name, word, tmp_path):
    path = tmp_path / "model.safetensors"
    synthetic.write_safetensors(path, {name: np.zeros((2, 2), np.float32)})
    with pytest.raises(NotFound) as caught:
        initialize(tmp_path / "store", str(path))
    assert word in caught.value.hint
    assert not (tmp_path / "store").exists()


def test_a_single_file_that_is_something_else(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"PK\x03\x04" + bytes(50))
    with pytest.raises(ImportRefused):
        initialize(tmp_path / "store", str(path))
