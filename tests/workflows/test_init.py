"""`init` on real diffusers folders, tiny ones with random weights."""

import json

import pytest

from conceptctl.errors import ImportRefused, NotFound
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
    assert base.token_width(tensors) == 8
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
    assert made.base_sha256 == base.inspect(folder).sha256


def test_a_single_file_is_laid_out_as_a_folder(pipeline, folder, tmp_path, monkeypatch):
    from diffusers import StableDiffusionPipeline

    monkeypatch.setattr(StableDiffusionPipeline, "from_single_file", lambda *_, **__: pipeline)
    single = tmp_path / "model.safetensors"
    single.write_bytes((folder / "unet/diffusion_pytorch_model.safetensors").read_bytes())
    made = initialize(tmp_path / "store", str(single))
    assert made.base_sha256 == base.inspect(folder).sha256
    assert Store(tmp_path / "store").head().base.name == "local file"


def test_a_single_file_that_cannot_be_completed(folder, tmp_path, monkeypatch):
    from diffusers import StableDiffusionPipeline

    def offline(*_, **__):
        raise OSError("no configuration")

    monkeypatch.setattr(StableDiffusionPipeline, "from_single_file", offline)
    with pytest.raises(NotFound, match=r"diffusion_pytorch_model\.safetensors") as caught:
        initialize(tmp_path / "store", str(folder / "unet/diffusion_pytorch_model.safetensors"))
    assert "--base FOLDER" in caught.value.hint
    assert not (tmp_path / "store").exists()


def test_a_single_file_that_is_something_else(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"PK\x03\x04" + bytes(50))
    with pytest.raises(ImportRefused):
        initialize(tmp_path / "store", str(path))
