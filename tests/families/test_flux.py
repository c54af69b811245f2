"""FLUX.1, tiny and of random weights, as dev and as schnell: states, packed latents, and the whole journey."""

import json

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from PIL import Image

from conceptctl import families
from conceptctl.config import TrainConfig
from conceptctl.diffusion.joint_networks import packed, unpacked
from conceptctl.errors import ImportRefused, UsageError
from conceptctl.families import flux
from conceptctl.learning.backbone import Noising
from conceptctl.store import base, folded, weights
from conceptctl.store.tensorfile import read_header
from conceptctl.store.verify import verify
from conceptctl.workflows.export import export_concepts, export_folder
from conceptctl.workflows.export_shared import export_shared
from conceptctl.workflows.fold import fold
from conceptctl.workflows.forget import forget, plan_forget
from conceptctl.workflows.generate.run import Request as Drawing
from conceptctl.workflows.generate.run import generate
from conceptctl.workflows.init import initialize
from conceptctl.workflows.learn.request import Request
from conceptctl.workflows.learn.run import learn
from tests.tiny_pipeline import WIDTH, write_tiny_flux

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_flux(tmp_path_factory.mktemp("flux") / "model")


@pytest.fixture(scope="module")
def schnell(tmp_path_factory):
    return write_tiny_flux(tmp_path_factory.mktemp("flux") / "model", distilled=False)


@pytest.fixture(scope="module", params=["dev", "schnell"])
def backbone(request, folder, schnell):
    return flux.load(folder if request.param == "dev" else schnell, CPU)


def test_it_is_recognized_and_what_takes_more_than_latents_is_not(folder, schnell, tmp_path):
    assert families.recognized(folder) is families.recognized(schnell) is flux
    assert flux.family_in(folder) == flux.FAMILY
    # As its models for filling in have: latents, a masked picture and a mask.
    for part, config in (
        ("transformer", {"_class_name": "FluxTransformer2DModel", "in_channels": 384}),
        ("vae", {"latent_channels": 16}),
    ):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(config))
    with pytest.raises(ImportRefused, match="takes 384 channels for 64"):
        flux.check(tmp_path)


def test_its_targets_are_those_of_blocks_with_two_streams(backbone):
    names = {f"transformer/transformer_blocks.0.attn.add_{which}_proj.weight" for which in "kv"}
    assert set(backbone.targets()) == names


def test_prompts_are_encoded_as_the_pipeline_encodes_them(folder):
    loaded = flux.load(folder, CPU)
    # In fp32 a CPU's order of additions is larger than what is asked for here.
    for encoder in (loaded.pipeline.text_encoder, loaded.pipeline.text_encoder_2):
        encoder.double()
    alice = loaded.add_token("alice", loaded.token_start("cat"))
    texts = ["a photo of a V*alice in the snow", "a dog"]
    hidden, pooled, _ = loaded.pipeline.encode_prompt(texts, None, device=CPU)
    states = loaded.conditions(texts, [alice]).of_examples(torch.arange(2))
    assert torch.allclose(states.hidden, hidden, atol=1e-5)
    assert torch.allclose(states.pooled, pooled, atol=1e-5)
    assert states.hidden.shape == (2, 512, 2 * WIDTH) and states.pooled.shape == (2, WIDTH)


def test_latents_are_packed_as_the_pipeline_packs_them():
    latents = torch.randn(2, 4, 6, 8)
    assert torch.equal(packed(latents), FluxPipeline._pack_latents(latents, 2, 4, 6, 8))
    assert torch.equal(unpacked(packed(latents), 6, 8), latents)


def test_the_network_is_told_what_the_pipeline_tells_it(backbone):
    objective = backbone.objective(Noising())
    condition = backbone.conditions(["a cat"], ()).of_prompt("a cat", torch.arange(2))
    noised = objective.corrupt(torch.randn(2, 4, 8, 8), torch.Generator().manual_seed(0))
    told = backbone.pipeline.transformer.config.guidance_embeds
    wanted = backbone.pipeline.transformer(
        hidden_states=packed(noised.inputs),
        timestep=noised.timesteps,
        guidance=torch.tensor([3.5, 3.5]) if told else None,
        encoder_hidden_states=condition.hidden,
        pooled_projections=condition.pooled,
        txt_ids=torch.zeros(512, 3),
        img_ids=FluxPipeline._prepare_latent_image_ids(2, 4, 4, CPU, torch.float32),
    ).sample
    predicted = objective.predict(noised, condition)
    assert torch.equal(predicted, unpacked(wanted, 8, 8))
    assert objective.errors(predicted, noised).shape == (2,)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    place = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for index in range(3):
        Image.fromarray(random.integers(0, 255, (600, 600, 3), dtype=np.uint8)).save(place / f"{index}.png")
    return place


@pytest.fixture(scope="module")
def store(folder, photos, tmp_path_factory):
    made = initialize(tmp_path_factory.mktemp("store") / "store", str(folder)).store
    for name, method in (("alice", "stamina"), ("bob", "lora")):
        train = TrainConfig(method=method, steps=3, seed=1)
        request = Request(
            photos, name, "cat", train=train, settings={"batch_size": 2}, auxiliary=2, reference_samples=0
        )
        learn(made, request, device="cpu")
    return made


def pixels(generated):
    return [np.asarray(Image.open(each.path)) for each in generated.images]


def test_pictures_are_the_same_folded_and_in_diffusers(store, tmp_path):
    row = weights.read_floats(store.blob(store.concept("alice")), "token")
    assert row.shape == (1, WIDTH + 2 * WIDTH)
    assert base.token_widths(base.tensors(store.layout, store.head().base), flux.FAMILY) == {
        "text_encoder": WIDTH,
        "text_encoder_2": 2 * WIDTH,
    }
    asked = Drawing("a photo of a V*alice", count=2, seed=3, steps=3, prompt_only=True)
    before = pixels(generate(store, asked, tmp_path / "before", device="cpu"))
    fold(store)
    assert all(map(np.array_equal, before, pixels(generate(store, asked, tmp_path / "after", device="cpu"))))
    export_folder(store, [], tmp_path / "model")
    pipeline = FluxPipeline.from_pretrained(tmp_path / "model")
    sums, _ = folded.read(store.layout, store.head())
    for path in sums:
        found = pipeline.transformer.get_parameter(path.removeprefix("transformer/")).detach()
        assert torch.equal(found, torch.from_numpy(sums[path]))
    for seed, wanted in zip((3, 4), before, strict=True):
        made = pipeline(
            "a photo of a V*alice",
            num_inference_steps=3,
            height=16,
            width=16,
            generator=torch.Generator().manual_seed(seed),
        ).images[0]
        assert np.abs(np.asarray(made).astype(int) - wanted).max() <= 1
    assert verify(store.layout, read_data=True).problems == ()


def test_guidance_is_told_to_the_network_and_a_negative_prompt_is_refused(store, tmp_path, monkeypatch):
    drawn = [
        pixels(generate(store, Drawing("a cat", steps=3, guidance=guidance), tmp_path / str(guidance), device="cpu"))
        for guidance in (1.0, 8.0)
    ]
    assert not np.array_equal(*(each[0] for each in drawn))
    monkeypatch.setattr(flux, "load", None)
    with pytest.raises(UsageError, match="negative prompt"):
        generate(store, Drawing("a cat", steps=3, negative="a dog"), tmp_path / "negative", device="cpu")
    assert not (tmp_path / "negative").exists()


def test_words_beside_a_concept_count(store, tmp_path):
    drawn = [
        pixels(generate(store, Drawing("V*alice in the snow", steps=3, prompt_only=each), tmp_path / str(each)))
        for each in (False, True)
    ]
    assert not np.array_equal(*(each[0] for each in drawn))


def test_its_lora_is_read_by_diffusers_and_the_last_concept_leaves(store, folder, tmp_path):
    made = export_shared(store, [], tmp_path / "both.safetensors", "lora")
    assert set(read_header(made.embeddings["alice"]).tensors) == {"clip_l", "t5xxl"}
    pipeline = FluxPipeline.from_pretrained(folder)
    pipeline.load_lora_weights(made.path)
    pipeline.fuse_lora(components=["transformer"])
    pipeline.unload_lora_weights()
    sums, _ = folded.read(store.layout, store.head())
    for path in sums:
        found = pipeline.transformer.get_parameter(path.removeprefix("transformer/")).detach()
        assert torch.allclose(found, torch.from_numpy(sums[path]), atol=2e-6)
    with pytest.raises(UsageError, match="joint attention"):
        export_concepts(store, ["bob"], tmp_path / "bob.safetensors")
    forget(store, plan_forget(store, "bob"))
    assert [each.name for each in store.head().concepts] == ["alice"]
    assert verify(store.layout, read_data=True).problems == ()
