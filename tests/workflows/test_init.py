"""`init` on real diffusers folders, tiny ones with random weights."""

import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from conceptctl.errors import AlreadyExists, ImportRefused, NotFound, UsageError
from conceptctl.families.sd import FAMILY
from conceptctl.formats import single_file
from conceptctl.store import base, tensorfile
from conceptctl.store.store import Store
from conceptctl.workflows.export import export_concepts, export_folder
from conceptctl.workflows.import_concept import import_concept
from conceptctl.workflows.init import initialize
from tests import synthetic
from tests.tiny_pipeline import write_tiny_flux, write_tiny_pipeline, write_tiny_sdxl


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
    assert base.token_widths(tensors, FAMILY) == {"text_encoder": 8}
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


def test_of_a_hub_only_what_the_pipeline_loads_is_taken(folder, tmp_path, monkeypatch):
    """From the hub's cache, on a machine without a network."""
    from huggingface_hub import constants

    place = tmp_path / "hub/models--someone--model"
    shutil.copytree(folder, place / "snapshots" / ("0" * 40))
    for name in ("v1-5-pruned.safetensors", "safety_checker/model.safetensors", "unet/model.fp16.safetensors"):
        target = place / "snapshots" / ("0" * 40) / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((folder / "unet/diffusion_pytorch_model.safetensors").read_bytes())
    (place / "refs").mkdir()
    (place / "refs/main").write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    made = initialize(tmp_path / "store", "someone/model")
    assert made.base_name == "someone/model"
    assert set(made.store.head().base.files) == set(base.inspect(folder, FAMILY).weights)
    with pytest.raises(NotFound, match="someone/other cannot be had") as caught:
        initialize(tmp_path / "other", "someone/other")
    assert "hf download someone/other" in caught.value.hint


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def single(request, tmp_path_factory):
    """A tiny checkpoint as a folder, and the same in one file in the original layout."""
    from tests.original_layout import write_single_file
    from tests.tiny_pipeline import write_tiny_pipeline

    place = tmp_path_factory.mktemp("single")
    folder = write_tiny_pipeline(place / "folder", prediction_type=request.param)
    return folder, write_single_file(folder, place / "model.safetensors")


@pytest.fixture
def tiny_architecture(single, monkeypatch):
    """What is known of every checkpoint in one file is that it is like the tiny folder."""
    folder, _ = single
    found = {path.relative_to(folder).as_posix(): json.loads(path.read_text()) for path in folder.rglob("*config.json")}
    found["model_index.json"] = json.loads((folder / "model_index.json").read_text())
    tokenizer = {each: (folder / "tokenizer" / each).read_bytes() for each in ("vocab.json", "merges.txt")}
    monkeypatch.setattr(single_file, "configurations", lambda name: json.loads(json.dumps(found)))
    monkeypatch.setattr(single_file, "vocabulary", lambda: tokenizer)
    return folder


def test_a_single_file_becomes_the_same_base_as_the_folder(single, tiny_architecture, tmp_path):
    folder, path = single
    made = initialize(tmp_path / "store", str(path))
    assert made.base_sha256 == base.inspect(folder, FAMILY).sha256
    head = Store(tmp_path / "store").head()
    assert head.base.name == "local file"
    with base.folder(made.store.layout, head) as laid_out:
        scheduler = json.loads((laid_out / "scheduler/scheduler_config.json").read_text())
        theirs = json.loads((folder / "scheduler/scheduler_config.json").read_text())
        assert scheduler["prediction_type"] == theirs["prediction_type"]
        ours, others = (StableDiffusionPipeline.from_pretrained(each) for each in (laid_out, folder))
        for part in ("unet", "vae", "text_encoder"):
            there = getattr(others, part).state_dict()
            for name, weight in getattr(ours, part).state_dict().items():
                assert torch.equal(weight, there[name])


def test_it_is_told_how_far_a_base_is(single, tiny_architecture, tmp_path):
    folder, path = single
    for named, begins in ((path, ["laying out the checkpoint"]), (folder, [])):
        told: dict[str, list[tuple[int, int]]] = {}

        def stages(text, told=told):
            told[text] = []
            return lambda done, total: told[text].append((done, total))

        initialize(tmp_path / named.name, str(named), stages)
        assert list(told) == [*begins, "checking the weights", "copying the weights"]
        for steps in told.values():
            counts = [count for count, _ in steps]
            assert counts == sorted(counts)
            # A file's header is no weights, and these are tiny.
            assert 0.8 < counts[-1] / steps[-1][1] <= 1
        assert counts[-1] == steps[-1][1]


def test_a_place_that_is_taken_is_said_before_anything_is_read(single, tiny_architecture, tmp_path, monkeypatch):
    _, path = single
    root = tmp_path / "taken"
    root.mkdir()
    (root / "letter.txt").write_text("dear")
    monkeypatch.setattr(tensorfile, "read_header", None)
    with pytest.raises(AlreadyExists, match=r"letter\.txt"):
        initialize(root, str(path))
    with pytest.raises(UsageError, match="cannot write into"):
        initialize(root / "letter.txt" / "store", str(path))


def test_a_single_file_stays_what_it_is_on_the_disk(single, tiny_architecture, tmp_path):
    _, path = single
    half = {name: value.half() for name, value in load_file(path).items()}
    # Weights that a training averaged, which nothing needs.
    more = {"model_ema.decay": torch.ones(50_000), "model.diffusion_model.ids": torch.arange(3)}
    save_file(half, tmp_path / "half.safetensors")
    save_file({**half, **more}, tmp_path / "more.safetensors")
    made, with_more = (initialize(tmp_path / name, str(tmp_path / f"{name}.safetensors")) for name in ("half", "more"))
    refs = made.store.head().base.files.values()
    assert sum(ref.size for ref in refs) < 1.05 * (tmp_path / "half.safetensors").stat().st_size
    for ref in refs:
        types = {info.dtype for info in tensorfile.read_header(made.store.layout.blob(ref.sha256)).tensors.values()}
        assert types == {"F16"}
    # Rounding does not make it another base; nor do other tensors beside it.
    assert made.base_sha256 == with_more.base_sha256 == initialize(tmp_path / "full", str(path)).base_sha256


def test_a_concept_travels_between_forms_of_one_base(single, tiny_architecture, tmp_path):
    folder, path = single
    stores = [initialize(tmp_path / name, str(named)).store for name, named in (("a", folder), ("b", path))]
    from tests.tiny_pipeline import WIDTH, key_value_shapes

    synthetic.learn(stores[0], "alice", shapes=key_value_shapes(folder), width=WIDTH)
    export_concepts(stores[0], ["alice"], tmp_path / "alice.safetensors", raw=True)
    assert import_concept(stores[1], tmp_path / "alice.safetensors").generation.concept("alice")


def test_a_single_file_that_lacks_something_says_what(single, tiny_architecture, tmp_path):
    _, path = single
    tensors = load_file(path)
    key = "model.diffusion_model.out.2.weight"
    del tensors[key]
    save_file(tensors, tmp_path / "less.safetensors")
    with pytest.raises(NotFound, match=re.escape(key)) as caught:
        initialize(tmp_path / "store", str(tmp_path / "less.safetensors"))
    assert caught.value.hint
    assert not (tmp_path / "store").exists()
    assert not list(tmp_path.glob("conceptctl-*"))


def test_a_single_file_of_other_sizes_than_are_known(single, tmp_path):
    _, path = single
    with pytest.raises(NotFound, match="another model than its keys say") as caught:
        initialize(tmp_path / "store", str(path))
    assert "--base FOLDER" in caught.value.hint
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("name", "kind", "word"),
    [
        ("conceptual.weight", NotFound, "--base FOLDER"),
        ("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", ImportRefused, "--base FOLDER"),
        ("model.diffusion_model.double_blocks.0.img_attn.qkv.weight", ImportRefused, "--base FOLDER"),
        ("lora_unet_mid_block.lora_up.weight", ImportRefused, "conceptctl import"),
        ("emb_params", ImportRefused, "conceptctl import"),
        ("conditioner.embedders.0.model.ln_final.weight", ImportRefused, "whole"),
        ("model.diffusion_model.out.0.weight", NotFound, "whole"),
    ],
)
def test_a_single_file_of_another_architecture(name, kind, word, tmp_path):
    path = tmp_path / "model.safetensors"
    synthetic.write_safetensors(path, {name: np.zeros((2, 2), np.float32)})
    with pytest.raises(kind) as caught:
        initialize(tmp_path / "store", str(path))
    assert word in caught.value.hint
    assert not (tmp_path / "store").exists()


def test_quantized_models_are_called_so(tmp_path):
    path = tmp_path / "model.safetensors"
    for name, dtype, word in (
        ("model.diffusion_model.out.2.weight", "F8_E4M3", "F8_E4M3"),
        ("model.diffusion_model.out.2.weight.quant_state.bitsandbytes__nf4", "U8", "bitsandbytes"),
    ):
        path.write_bytes(b"".join(tensorfile.encode({name: tensorfile.Tensor(dtype, (2, 2), bytes(4))}, {})))
        with pytest.raises(ImportRefused, match=word) as caught:
            initialize(tmp_path / "store", str(path))
        assert "fp16" in caught.value.hint
    folder = synthetic.write_base(tmp_path / "base")
    (folder / "unet/config.json").write_text('{"quantization_config": {"quant_method": "bitsandbytes"}}')
    with pytest.raises(ImportRefused, match="base/unet: quantized by bitsandbytes"):
        initialize(tmp_path / "store", str(folder))
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(("start", "what"), [(b"GGUF", "GGUF"), (b"PK\x03\x04", "pickle"), (b"<html>", "web")])
def test_other_formats_under_the_name_of_safetensors(tmp_path, start, what):
    path = tmp_path / "model.safetensors"
    path.write_bytes(start + bytes(50))
    with pytest.raises(ImportRefused, match=what) as caught:
        initialize(tmp_path / "store", str(path))
    assert caught.value.hint


def test_a_single_file_that_is_something_else(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"PK\x03\x04" + bytes(50))
    with pytest.raises(ImportRefused):
        initialize(tmp_path / "store", str(path))


@pytest.mark.parametrize("part", ["tokenizer", "tokenizer_2"])
def test_a_base_without_its_vocabulary(tmp_path, part):
    folder = write_tiny_sdxl(tmp_path / "sdxl")
    shutil.rmtree(folder / part)
    with pytest.raises(NotFound, match=f"its {part} has no vocabulary"):
        initialize(tmp_path / "store", str(folder))
    assert not (tmp_path / "store").exists()


def test_folders_of_what_is_no_weights(tmp_path):
    folder = write_tiny_pipeline(tmp_path / "sd")
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    before = load_file(weights)
    save_file({name: each.to(torch.float8_e4m3fn) for name, each in before.items()}, weights)
    with pytest.raises(ImportRefused, match=r"unet/diffusion.*quantized: its weights are F8_E4M3"):
        initialize(tmp_path / "store", str(folder))
    weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(ImportRefused, match=r"unet/diffusion.*a pointer of Git LFS"):
        initialize(tmp_path / "store", str(folder))
    save_file(before, weights)
    (folder / "model_index.json").write_text("[]")
    with pytest.raises(ImportRefused, match="no JSON object"):
        initialize(tmp_path / "store", str(folder))


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "text_encoder/model"])
@pytest.mark.parametrize(
    ("dtype", "value"), [(torch.float32, math.nan), (torch.float16, math.inf), (torch.bfloat16, -math.inf)]
)
def test_a_base_whose_numbers_are_none(tmp_path, part, dtype, value):
    folder = write_tiny_pipeline(tmp_path / "sd")
    weights = folder / f"{part}.safetensors"
    tensors = {name: each.to(dtype) for name, each in load_file(weights).items()}
    name = next(iter(tensors))
    tensors[name].view(-1)[-1] = value
    save_file(tensors, weights)
    with pytest.raises(ImportRefused, match=f"{re.escape(name)}: not all numbers are finite"):
        initialize(tmp_path / "store", str(folder))
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("side", ["big", 0, None, -8])
def test_a_base_that_does_not_say_how_large_its_pictures_are(tmp_path, side):
    folder = write_tiny_pipeline(tmp_path / "sd")
    config = json.loads((folder / "unet/config.json").read_bytes())
    (folder / "unet/config.json").write_text(json.dumps(config | {"sample_size": side}))
    with pytest.raises(ImportRefused, match="how large its pictures are"):
        initialize(tmp_path / "store", str(folder))
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("place", ["config.json", "unet/config.json", "model_index.json", "vae/config.json"])
@pytest.mark.parametrize("text", ["[" * 100_000, '{"_name_or_path": '], ids=["nested", "cut off"])
def test_a_configuration_that_is_no_json(tmp_path, place, text):
    folder = write_tiny_pipeline(tmp_path / "sd")
    if place == "config.json":
        (folder / "model_index.json").unlink()
    (folder / place).write_text(text)
    with pytest.raises((ImportRefused, NotFound)):
        initialize(tmp_path / "store", str(folder))
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("named", ["../x", "-a/b", "a/.b", "a/b.git"])
def test_what_is_no_hub_id_is_not_asked_for(tmp_path, named):
    with pytest.raises(NotFound, match="no base"):
        initialize(tmp_path / "store", named)


def test_t5_whose_token_table_has_its_other_name(tmp_path):
    folder = write_tiny_flux(tmp_path / "flux")
    plain = initialize(tmp_path / "plain", str(folder))
    weights = folder / "text_encoder_2/model.safetensors"
    tensors = load_file(weights)
    tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")
    save_file(tensors, weights, metadata={"format": "pt"})
    made = initialize(tmp_path / "store", str(folder))
    assert made.base_sha256 == plain.base_sha256
    widths = base.token_widths(base.tensors(made.store.layout, made.store.head().base), made.store.head().base.family)
    assert list(widths.values()) == [16, 32]
    synthetic.learn(made.store, "alice", 1, shapes={}, width=48)
    export_folder(made.store, (), tmp_path / "model")
    table = load_file(tmp_path / "model/text_encoder_2/model.safetensors")["encoder.embed_tokens.weight"]
    before = tensors["encoder.embed_tokens.weight"]
    changed = [row for row in range(len(before)) if not torch.equal(table[row], before[row])]
    assert len(changed) == 1 or len(table) > len(before)
