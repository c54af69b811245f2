"""SDXL, tiny and of random weights: states as diffusers makes them, and the whole journey."""

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image

from conceptctl import families
from conceptctl.config import TrainConfig
from conceptctl.errors import ImportRefused
from conceptctl.families import sdxl
from conceptctl.learning.backbone import Noising
from conceptctl.learning.weights import token_override
from conceptctl.store import base, folded, weights
from conceptctl.store.tensorfile import read_header
from conceptctl.store.verify import verify
from conceptctl.workflows.export import export_concepts, export_folder
from conceptctl.workflows.export_shared import export_shared
from conceptctl.workflows.fold import fold
from conceptctl.workflows.forget import forget, plan_forget
from conceptctl.workflows.generate.request import Request as Drawing
from conceptctl.workflows.generate.run import generate
from conceptctl.workflows.import_concept import import_concept
from conceptctl.workflows.init import initialize
from conceptctl.workflows.learn.request import Request
from conceptctl.workflows.learn.run import learn
from tests.tiny_pipeline import WIDTH, write_tiny_sdxl

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_sdxl(tmp_path_factory.mktemp("sdxl") / "model")


@pytest.fixture(scope="module")
def backbone(folder):
    return sdxl.load(folder, CPU)


def test_it_is_recognized(folder, tmp_path):
    assert families.recognized(folder).FAMILY.name == "sdxl"
    (tmp_path / "unet").mkdir()
    (tmp_path / "text_encoder_2").mkdir()
    with pytest.raises(ImportRefused, match="refiner"):
        sdxl.check(tmp_path)


def test_prompts_are_encoded_as_the_pipeline_encodes_them(backbone):
    texts = ["a photo of a cat", "a dog"]
    hidden, _, pooled, _ = backbone.pipeline.encode_prompt(texts, device=CPU, do_classifier_free_guidance=False)
    states = backbone.conditions(texts, ()).of_examples(torch.arange(2))
    assert torch.allclose(states.hidden, hidden, atol=1e-6)
    assert torch.allclose(states.pooled, pooled, atol=1e-6)
    assert states.hidden.shape[-1] == 3 * WIDTH
    seen, behind = backbone.hidden_states(texts)
    assert torch.allclose(seen, hidden, atol=1e-6) and not behind.any()


def test_a_learned_row_stands_in_in_both_tables(folder):
    backbone = sdxl.load(folder, CPU)
    start = backbone.token_start("cat")
    assert {name: row.shape for name, row in start.items()} == {
        "text_encoder": (1, WIDTH),
        "text_encoder_2": (1, 2 * WIDTH),
    }
    alice = backbone.add_token("alice", start)
    prompts = backbone.conditions(["a V*alice"], [alice])
    rows = {name: torch.randn_like(row, requires_grad=True) for name, row in start.items()}
    with token_override(backbone.token_tables(), [alice], backbone.token_numbers([alice])) as override:
        override.rows = rows
        there = prompts.of_prompt("a V*alice", torch.arange(1))
        (there.hidden.sum() + there.pooled.sum()).backward()
    assert all(row.grad is not None and row.grad.abs().sum() > 0 for row in rows.values())
    backbone.set_token(alice, {name: row.detach() for name, row in rows.items()})
    assert torch.allclose(prompts.of_prompt("a V*alice", torch.arange(1)).hidden, there.hidden)


def test_the_network_is_told_what_the_pipeline_tells_it(backbone):
    """Sizes and pooled states: the prediction is that of a call by hand."""
    objective = backbone.objective(Noising())
    condition = backbone.conditions(["a cat"], ()).of_prompt("a cat", torch.arange(2))
    noised = objective.corrupt(torch.randn(2, 4, 8, 8), torch.Generator().manual_seed(0))
    sizes = backbone.pipeline._get_add_time_ids((16, 16), (0, 0), (16, 16), torch.float32, 8).expand(2, -1)
    wanted = backbone.pipeline.unet(
        noised.inputs,
        noised.timesteps,
        condition.hidden,
        added_cond_kwargs={"text_embeds": condition.pooled, "time_ids": sizes},
    ).sample
    # One level of this autoencoder halves the sides.
    assert backbone.pipeline.vae_scale_factor == 2
    assert torch.equal(objective.predict(noised, condition), wanted)
    assert objective.errors(wanted, noised).shape == (2,)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    place = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for index in range(3):
        Image.fromarray(random.integers(0, 255, (600, 600, 3), dtype=np.uint8)).save(place / f"{index}.png")
    return place


def taught(store, photos, name, method="stamina"):
    request = Request(
        photos,
        name,
        "cat",
        train=TrainConfig(method=method, steps=3, seed=1),
        settings={"batch_size": 2},
        auxiliary=2,
        reference_samples=0,
    )
    return learn(store, request, device="cpu")


@pytest.fixture(scope="module")
def store(folder, photos, tmp_path_factory):
    made = initialize(tmp_path_factory.mktemp("store") / "store", str(folder)).store
    for name, method in (("alice", "stamina"), ("bob", "lora")):
        taught(made, photos, name, method)
    return made


def test_what_is_learned_has_a_row_of_each_table(store):
    row = weights.read_floats(store.blob(store.concept("alice")), "token")
    assert row.shape == (1, 3 * WIDTH)
    found = base.tensors(store.layout, store.head().base)
    assert base.token_widths(found, sdxl.FAMILY) == {"text_encoder": WIDTH, "text_encoder_2": 2 * WIDTH}
    assert verify(store.layout, read_data=True).problems == ()


def pixels(generated):
    return [np.asarray(Image.open(each.path)) for each in generated.images]


def test_pictures_are_the_same_folded_and_in_diffusers(store, tmp_path):
    asked = Drawing("a photo of a V*alice", count=2, seed=3, steps=3, guidance=4.0, prompt_only=True)
    before = pixels(generate(store, asked, tmp_path / "before", device="cpu"))
    fold(store)
    assert all(map(np.array_equal, before, pixels(generate(store, asked, tmp_path / "after", device="cpu"))))
    export_folder(store, [], tmp_path / "model")
    pipeline = StableDiffusionXLPipeline.from_pretrained(tmp_path / "model", add_watermarker=False)
    index = json.loads((tmp_path / "model/model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionXLPipeline"
    for seed, wanted in zip((3, 4), before, strict=True):
        made = pipeline(
            "a photo of a V*alice",
            num_inference_steps=3,
            guidance_scale=4.0,
            generator=torch.Generator().manual_seed(seed),
        ).images[0]
        assert np.abs(np.asarray(made).astype(int) - wanted).max() <= 1


def test_a_lora_is_named_as_trainers_name_it_and_diffusers_reads_it(store, folder, tmp_path):
    made = export_shared(store, [], tmp_path / "both.safetensors", "lora")
    names = {name.rpartition(".lora_")[0] or name.rpartition(".")[0] for name in read_header(made.path).tensors}
    assert "lora_unet_input_blocks_3_1_transformer_blocks_0_attn2_to_k" in names
    assert set(read_header(made.embeddings["alice"]).tensors) == {"clip_l", "clip_g"}
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)
    before = {name: value.clone() for name, value in pipeline.unet.state_dict().items()}
    pipeline.load_lora_weights(made.path)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    sums, _ = folded.read(store.layout, store.head())
    for name, value in pipeline.unet.state_dict().items():
        wanted = torch.from_numpy(sums[f"unet/{name}"]) if f"unet/{name}" in sums else before[name]
        assert torch.allclose(value, wanted, atol=2e-6), name


@pytest.mark.parametrize("prompt", ["a photo of V*alice at night", "a photo of V*alice next to V*bob"])
def test_words_beside_a_concept_and_several_concepts(store, tmp_path, prompt):
    made = generate(store, Drawing(prompt, steps=3, guidance=4.0), tmp_path / "out", device="cpu")
    assert len(made.regions) == (2 if "bob" in prompt else 0)
    assert pixels(made)[0].std() > 0


def test_a_concept_travels_and_leaves(store, folder, tmp_path):
    elsewhere = initialize(tmp_path / "elsewhere", str(folder)).store
    export_concepts(store, ["bob"], tmp_path / "bob.safetensors")
    import_concept(elsewhere, tmp_path / "bob.safetensors")
    assert [each.name for each in elsewhere.head().concepts] == ["bob"]
    forget(store, plan_forget(store, "alice"))
    assert [each.name for each in store.head().concepts] == ["bob"]
    assert verify(store.layout, read_data=True).problems == ()
