"""Stable Diffusion 3, tiny and of random weights: states and times as they should be, and the whole journey."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from PIL import Image
from safetensors.torch import load_file, save_file

from conceptctl import families
from conceptctl.config import TrainConfig
from conceptctl.diffusion.flow import FlowObjective, time_shift
from conceptctl.errors import ImportRefused, NotFound, UsageError
from conceptctl.families import sd3
from conceptctl.learning.backbone import Noising
from conceptctl.learning.weights import token_override
from conceptctl.store import base, folded, weights
from conceptctl.store.tensorfile import read_header
from conceptctl.store.verify import verify
from conceptctl.workflows.compact import compact, plan_compact
from conceptctl.workflows.export import export_concepts, export_folder
from conceptctl.workflows.export_shared import export_shared
from conceptctl.workflows.fold import fold
from conceptctl.workflows.forget import forget, plan_forget
from conceptctl.workflows.generate.run import Request as Drawing
from conceptctl.workflows.generate.run import generate
from conceptctl.workflows.import_concept import import_concept
from conceptctl.workflows.init import initialize
from conceptctl.workflows.learn.request import Request
from conceptctl.workflows.learn.run import learn
from tests.tiny_pipeline import WIDTH, write_tiny_sd3

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_sd3(tmp_path_factory.mktemp("sd3") / "model")


@pytest.fixture(scope="module")
def without_t5(tmp_path_factory):
    return write_tiny_sd3(tmp_path_factory.mktemp("sd3") / "model", t5=False)


@pytest.fixture(scope="module")
def backbone(folder):
    return sd3.load(folder, CPU)


def test_it_is_recognized_with_t5_and_without(folder, without_t5, tmp_path):
    assert families.recognized(folder) is families.recognized(without_t5) is sd3
    assert sd3.family_in(folder) == sd3.FAMILY
    assert list(sd3.family_in(without_t5).token_tables) == ["text_encoder", "text_encoder_2"]
    assert "text_encoder_3" not in sd3.family_in(without_t5).components
    with pytest.raises(ImportRefused, match="has no SD3Transformer2DModel"):
        sd3.check(tmp_path)
    for part, config in (
        ("transformer", {"_class_name": "SD3Transformer2DModel", "in_channels": 33}),
        ("vae", {"latent_channels": 16}),
    ):
        (tmp_path / part).mkdir()
        (tmp_path / part / "config.json").write_text(json.dumps(config))
    with pytest.raises(ImportRefused, match="takes 33 channels for 16"):
        sd3.check(tmp_path)


def test_its_targets_are_the_keys_and_values_of_the_prompts_stream(backbone):
    names = {f"transformer_blocks.{block}.attn.add_{which}_proj" for block in (0, 1) for which in "kv"}
    assert set(backbone.targets()) == {f"transformer/{name}.weight" for name in names}
    # The last block's prompt goes nowhere else, but its keys and values are read; attention of pictures alone is none.
    assert any("attn2" in name for name, _ in backbone.pipeline.transformer.named_modules())


@pytest.mark.parametrize("t5", [True, False])
def test_prompts_are_encoded_as_the_pipeline_encodes_them(t5, folder, without_t5):
    place = folder if t5 else without_t5
    loaded = sd3.load(place, CPU, family=sd3.family_in(place))
    alice = loaded.add_token("alice", loaded.token_start("cat"))
    texts = ["a photo of a V*alice in the snow", "a dog"]
    hidden, _, pooled, _ = loaded.pipeline.encode_prompt(
        texts, None, None, device=CPU, do_classifier_free_guidance=False
    )
    states = loaded.conditions(texts, [alice]).of_examples(torch.arange(2))
    assert torch.allclose(states.hidden, hidden, atol=1e-5)
    assert torch.allclose(states.pooled, pooled, atol=1e-5)
    assert states.hidden[0, -256:].any() == t5
    # T5 minds the case; a concept's name has none.
    other = loaded.conditions(["a photo of a v*Alice in the snow"], [alice]).of_prompt(
        "a photo of a v*Alice in the snow", torch.arange(1)
    )
    assert torch.allclose(other.hidden[0], hidden[0], atol=1e-5)


def test_a_token_has_a_number_of_its_own_in_each_vocabulary(folder):
    loaded = sd3.load(folder, CPU)
    start = loaded.token_start("cat")
    assert {name: row.shape[1] for name, row in start.items()} == {
        "text_encoder": WIDTH,
        "text_encoder_2": 3 * WIDTH // 2,
        "text_encoder_3": 3 * WIDTH,
    }
    loaded.add_token("bob", start)
    alice = loaded.add_token("alice", start)
    numbers = loaded.token_numbers([alice])
    assert numbers["text_encoder"] == numbers["text_encoder_2"] != numbers["text_encoder_3"]
    # T5's number of the token is another word's in CLIP's vocabulary: that one must not be taken for it.
    word = loaded.tokenizer().decode([numbers["text_encoder_3"][0]])
    prompts = loaded.conditions(["a V*alice", f"a {word}"], [alice])
    assert prompts.learned == 1
    rows = {name: torch.randn_like(row, requires_grad=True) for name, row in start.items()}
    with token_override(loaded.token_tables(), [alice], numbers) as override:
        override.rows = rows
        there = prompts.of_prompt("a V*alice", torch.arange(1))
        (there.hidden.square().sum() + there.pooled.sum()).backward()
    assert all(row.grad is not None and row.grad.abs().sum() > 0 for row in rows.values())
    loaded.set_token(alice, {name: row.detach() for name, row in rows.items()})
    assert torch.allclose(prompts.of_prompt("a V*alice", torch.arange(1)).hidden, there.hidden, atol=1e-6)


def test_the_objective_is_the_velocity_of_a_straight_line(backbone):
    objective = backbone.objective(Noising())
    condition = backbone.conditions(["a cat"], ()).of_prompt("a cat", torch.arange(2))
    clean = torch.randn(2, 4, 8, 8)
    noised = objective.corrupt(clean, torch.Generator().manual_seed(0))
    times = noised.timesteps[:, None, None, None]
    noise = clean + noised.target
    assert torch.allclose(noised.inputs, (1 - times) * clean + times * noise, atol=1e-6)
    wanted = backbone.pipeline.transformer(
        hidden_states=noised.inputs,
        timestep=1000 * noised.timesteps,
        encoder_hidden_states=condition.hidden,
        pooled_projections=condition.pooled,
    ).sample
    predicted = objective.predict(noised, condition)
    assert torch.equal(predicted, wanted)
    assert torch.allclose(objective.loss(predicted, noised), (wanted - noised.target).square().mean(dim=(1, 2, 3)))


def test_times_are_logit_normal_and_moved_as_the_sampler_moves_them(backbone):
    objective = backbone.objective(Noising())
    times = objective.corrupt(torch.zeros(20_000, 1, 2, 2), torch.Generator().manual_seed(0)).timesteps
    assert times.min() > 0 and times.max() < 1
    # Without the shift of 3 the logit has mean 0 and deviation 1.
    logit = (times / (3 - 2 * times)).logit()
    assert abs(logit.mean()) < 0.03 and abs(logit.std() - 1) < 0.03
    scheduler = backbone.pipeline.scheduler
    scheduler.set_timesteps(4, sigmas=[1.0, 0.75, 0.5, 0.25])
    assert torch.allclose(scheduler.sigmas[2], torch.tensor(3 * 0.5 / (1 + 2 * 0.5)))
    dynamic = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}
    assert time_shift(dynamic, 256) == pytest.approx(math.exp(0.5))
    assert time_shift(dynamic, 4096) == pytest.approx(math.exp(1.15))
    with pytest.raises(NotFound):
        time_shift({**dynamic, "time_shift_type": "linear"}, 256)


def test_pictures_that_the_network_has_no_places_for_are_refused(backbone):
    assert backbone.encode([Image.new("RGB", (32, 16))]).shape == (1, 4, 8, 16)
    with pytest.raises(UsageError, match="at most 32 pixels a side, not of 48"):
        backbone.encode([Image.new("RGB", (16, 48))])


def test_a_method_that_needs_other_prompts_states_is_refused(store, photos, monkeypatch):
    monkeypatch.setattr(sd3, "load", None)
    with pytest.raises(UsageError, match="cd-merged cannot be used on this base"):
        taught(store, photos, "carol", "cd-merged")


def test_settings_of_a_signal_to_noise_ratio_are_refused(backbone):
    for noising in (Noising(snr_gamma=5.0), Noising(p2_gamma=1.0)):
        with pytest.raises(UsageError, match="signal-to-noise"):
            FlowObjective(lambda *told: told[0], {}, 2, noising)
    with pytest.raises(UsageError, match="own distribution"):
        backbone.objective(Noising()).importance_sample(torch.zeros(1, 4, 8, 8), None, 1)


def test_gradients_are_the_same_when_they_are_checkpointed(folder):
    loaded = sd3.load(folder, CPU)
    loaded.freeze()
    objective = loaded.objective(Noising())
    condition = loaded.conditions(["a cat"], ()).of_prompt("a cat", torch.arange(2))
    noised = objective.corrupt(torch.randn(2, 4, 8, 8), torch.Generator().manual_seed(0))
    found = []
    for checkpointed in (False, True):
        loaded.freeze()
        if checkpointed:
            loaded.checkpoint_gradients()
        for module in loaded.targets().values():
            module.weight.requires_grad_(True).grad = None
        objective.loss(objective.predict(noised, condition), noised).mean().backward()
        found.append([module.weight.grad for module in loaded.targets().values()])
    assert loaded.pipeline.transformer.gradient_checkpointing
    for plain, again in zip(*found, strict=True):
        assert plain.abs().sum() > 0 and torch.allclose(plain, again, atol=1e-7)


def test_of_a_hub_only_what_the_pipeline_loads_is_taken(folder, tmp_path, monkeypatch):
    """From the hub's cache, on a machine without a network: single files and their own text encoders lie beside it."""
    from huggingface_hub import constants

    place = tmp_path / "hub/models--someone--model"
    shutil.copytree(folder, place / "snapshots" / ("0" * 40))
    for name in (
        "sd3_medium.safetensors",
        "text_encoders/t5xxl_fp16.safetensors",
        "text_encoder_3/model.fp16.safetensors",
    ):
        target = place / "snapshots" / ("0" * 40) / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((folder / "vae/diffusion_pytorch_model.safetensors").read_bytes())
    (place / "refs").mkdir()
    (place / "refs/main").write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    made = initialize(tmp_path / "store", "someone/model")
    assert made.store.head().base.family == sd3.FAMILY
    assert set(made.store.head().base.files) == set(base.inspect(folder, sd3.FAMILY).weights)


def test_nothing_is_computed_from_the_text_encoders_states_alone(backbone, folder):
    for refused in (
        lambda: backbone.hidden_states(["a cat"]),
        lambda: backbone.reference_moment(["a cat"]),
        lambda: backbone.reference_factor(["a cat"]),
        lambda: backbone.with_prompts(torch.zeros(1, 1), []),
        lambda: sd3.load_text_side(folder, CPU),
    ):
        with pytest.raises(UsageError, match="joint attention"):
            refused()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    place = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for index in range(3):
        Image.fromarray(random.integers(0, 255, (600, 600, 3), dtype=np.uint8)).save(place / f"{index}.png")
    return place


def taught(store, photos, name, method="stamina", **settings):
    request = Request(
        photos,
        name,
        "cat",
        train=TrainConfig(method=method, steps=3, seed=1),
        settings={"batch_size": 2, **settings},
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


def test_what_is_learned_changes_its_targets_and_has_a_row_of_each_table(store):
    row = weights.read_floats(store.blob(store.concept("alice")), "token")
    assert row.shape == (1, WIDTH + 3 * WIDTH // 2 + 3 * WIDTH)
    found = base.tensors(store.layout, store.head().base)
    assert base.token_widths(found, families.facts_of(store.head().base)).keys() == sd3.FAMILY.token_tables.keys()
    for name in ("alice", "bob"):
        changed = weights.places(read_header(store.blob(store.concept(name))))
        assert changed and all(sd3.FAMILY.is_target(place) for place in changed)
    assert verify(store.layout, read_data=True).problems == ()


@pytest.mark.parametrize("method", ["ti++", "ewc-dc", "dsc-ewc", "cd-ewc", "c-lora", "lora-merge", "vera"])
def test_every_kind_of_method_learns(method, store, photos, folder, tmp_path):
    other = initialize(tmp_path / "store", str(folder)).store
    for name in ("alice", "bob"):
        taught(other, photos, name, method)
    assert [each.name for each in other.head().concepts] == ["alice", "bob"]


@pytest.mark.parametrize(
    ("setting", "value"),
    [("snr_gamma", 5.0), ("p2_gamma", 1.0), ("timestep_sampling", "importance")],
)
def test_settings_that_mean_nothing_are_refused_before_anything_is_loaded(setting, value, store, photos, monkeypatch):
    monkeypatch.setattr(sd3, "load", None)
    with pytest.raises(UsageError, match=f"{setting} cannot be set on this base"):
        taught(store, photos, "carol", **{setting: value})


@pytest.mark.parametrize("method", ["cd-merged", "stamina-anchored", "lora-anchored"])
def test_a_method_that_is_computed_from_prompts_states_is_refused(method, store, photos, monkeypatch):
    monkeypatch.setattr(sd3, "load", None)
    with pytest.raises(UsageError, match=f"{method} cannot be used on this base"):
        taught(store, photos, "carol", method)


def pixels(generated):
    return [np.asarray(Image.open(each.path)) for each in generated.images]


def test_pictures_are_the_same_folded_and_in_diffusers(store, tmp_path):
    asked = Drawing("a photo of a V*alice", count=2, seed=3, steps=3, guidance=4.0, prompt_only=True)
    before = pixels(generate(store, asked, tmp_path / "before", device="cpu"))
    plain = pixels(generate(store, Drawing("a photo of a cat", count=1, seed=3, steps=3), tmp_path / "plain"))
    assert not np.array_equal(before[0], plain[0])
    fold(store)
    assert all(map(np.array_equal, before, pixels(generate(store, asked, tmp_path / "after", device="cpu"))))
    export_folder(store, [], tmp_path / "model")
    pipeline = StableDiffusion3Pipeline.from_pretrained(tmp_path / "model")
    # The learned weights and all three rows are in it.
    sums, _ = folded.read(store.layout, store.head())
    for path in sums:
        name = path.removeprefix("transformer/")
        assert torch.equal(pipeline.transformer.get_parameter(name).detach(), torch.from_numpy(sums[path]))
    assert "V*alice" in pipeline.tokenizer_3.get_vocab() and "v*alice" in pipeline.tokenizer.get_vocab()
    for seed, wanted in zip((3, 4), before, strict=True):
        made = pipeline(
            "a photo of a V*alice",
            num_inference_steps=3,
            guidance_scale=4.0,
            generator=torch.Generator().manual_seed(seed),
        ).images[0]
        assert np.abs(np.asarray(made).astype(int) - wanted).max() <= 1


def test_a_folder_without_t5_goes_the_same_way(without_t5, photos, tmp_path):
    store = initialize(tmp_path / "store", str(without_t5)).store
    assert list(families.facts_of(store.head().base).token_tables) == ["text_encoder", "text_encoder_2"]
    taught(store, photos, "alice")
    asked = Drawing("a photo of a V*alice", seed=3, steps=3, guidance=4.0, prompt_only=True)
    (before,) = pixels(generate(store, asked, tmp_path / "out", device="cpu"))
    export_folder(store, [], tmp_path / "model")
    # diffusers wants to be told, of the base's own folder too; the card says how.
    left_out = {"text_encoder_3": None, "tokenizer_3": None}
    assert "text_encoder_3=None, tokenizer_3=None)" in (tmp_path / "model/README.md").read_text()
    pipeline = StableDiffusion3Pipeline.from_pretrained(tmp_path / "model", **left_out)
    made = pipeline(
        "a photo of a V*alice", num_inference_steps=3, guidance_scale=4.0, generator=torch.Generator().manual_seed(3)
    ).images[0]
    assert np.abs(np.asarray(made).astype(int) - before).max() <= 1


def test_t5s_table_is_changed_wherever_its_file_has_it(folder, photos, tmp_path):
    """Some files have it twice, under the names that share one tensor in memory."""
    twice = Path(shutil.copytree(folder, tmp_path / "twice")) / "text_encoder_3/model.safetensors"
    tensors = load_file(twice)
    save_file({**tensors, "encoder.embed_tokens.weight": tensors["shared.weight"].clone()}, twice, {"format": "pt"})
    store = initialize(tmp_path / "store", str(tmp_path / "twice")).store
    taught(store, photos, "alice", "ti++")
    export_folder(store, [], tmp_path / "model")
    made = load_file(tmp_path / "model/text_encoder_3/model.safetensors")
    assert torch.equal(made["shared.weight"], made["encoder.embed_tokens.weight"])
    (row,) = (
        weights.rows_by_table(weights.read_floats(store.blob(store.concept("alice")), "token"), widths)[
            "text_encoder_3"
        ]
        for widths in [base.token_widths(base.tensors(store.layout, store.head().base), sd3.FAMILY)]
    )
    assert (made["shared.weight"] == torch.from_numpy(row)).all(dim=1).sum() == 1


def test_diffusers_reads_its_lora_and_other_forms_are_refused(store, folder, tmp_path):
    made = export_shared(store, [], tmp_path / "both.safetensors", "lora")
    assert made.diffusers_only
    assert set(read_header(made.embeddings["alice"]).tensors) == {"clip_l", "clip_g", "t5xxl"}
    pipeline = StableDiffusion3Pipeline.from_pretrained(folder)
    before = {name: value.clone() for name, value in pipeline.transformer.state_dict().items()}
    pipeline.load_lora_weights(made.path)
    pipeline.fuse_lora(components=["transformer"])
    pipeline.unload_lora_weights()
    sums, _ = folded.read(store.layout, store.head())
    for name, value in pipeline.transformer.state_dict().items():
        wanted = torch.from_numpy(sums[f"transformer/{name}"]) if f"transformer/{name}" in sums else before[name]
        assert torch.allclose(value, wanted, atol=2e-6), name
    for form in ("diff", "single-file"):
        with pytest.raises(UsageError, match=f"a {form} of this base is not written") as refused:
            export_shared(store, [], tmp_path / f"{form}.safetensors", form)
        assert "--to diffusers" in refused.value.hint
        assert not (tmp_path / f"{form}.safetensors").exists()


def test_words_beside_a_concept_count_and_several_are_refused_before_anything_is_loaded(store, tmp_path, monkeypatch):
    prompt = "a photo of V*alice in the snow"
    for place, prompt_only in (("guided", False), ("plain", True)):
        asked = Drawing(prompt, steps=3, guidance=4.0, prompt_only=prompt_only)
        generate(store, asked, tmp_path / place, device="cpu")
    guided, plain = (
        [np.asarray(Image.open(path)) for path in (tmp_path / place).glob("a-*.png")] for place in ("guided", "plain")
    )
    assert not np.array_equal(guided[0], plain[0])
    monkeypatch.setattr(sd3, "load", None)
    with pytest.raises(UsageError, match="several concepts") as refused:
        generate(store, Drawing("a photo of V*alice next to V*bob", steps=3), tmp_path / "out", device="cpu")
    assert refused.value.hint == "--prompt-only"


def refused(hint, what, *args, **options):
    with pytest.raises(UsageError, match="joint attention") as found:
        what(*args, **options)
    assert hint in found.value.hint


def test_what_needs_closed_forms_is_refused_and_what_does_not_is_done(store, folder, photos, tmp_path):
    before = store.head()
    refused("--raw", export_concepts, store, ["bob"], tmp_path / "bob.safetensors")
    refused("--at", export_folder, store, ["bob"], tmp_path / "bob")
    refused("--at", export_shared, store, ["bob"], tmp_path / "bob.safetensors", "lora")
    refused("conceptctl forget bob", plan_forget, store, "alice")
    assert list(tmp_path.iterdir()) == [] and store.head() == before
    # As it was learned, on top of the other, it travels.
    export_concepts(store, ["alice", "bob"], tmp_path / "raw", raw=True, into_folder=True)
    elsewhere = initialize(tmp_path / "elsewhere", str(folder)).store
    for name in ("alice", "bob"):
        import_concept(elsewhere, tmp_path / "raw" / f"{name}.safetensors")
    ours, theirs = (folded.read(each.layout, each.head())[0] for each in (store, elsewhere))
    assert all(np.array_equal(ours[path], theirs[path]) for path in ours)
    # A stranger is not joined with those that are there.
    stranger = initialize(tmp_path / "stranger", str(folder)).store
    taught(stranger, photos, "carol")
    export_concepts(stranger, ["carol"], tmp_path / "carol.safetensors")
    refused("conceptctl init", import_concept, elsewhere, tmp_path / "carol.safetensors")
    # What was learned last leaves, and the other is what it was before, folded or not.
    fold(elsewhere)
    then = folded.read(elsewhere.layout, elsewhere.generation(1))[0]
    forget(elsewhere, plan_forget(elsewhere, "bob"))
    now = folded.read(elsewhere.layout, elsewhere.head())[0]
    assert [each.name for each in elsewhere.head().concepts] == ["alice"]
    assert list(now) == list(then) and all(np.array_equal(now[path], then[path]) for path in then)
    forget(elsewhere, plan_forget(elsewhere, "alice"))
    assert elsewhere.head().concepts == () and verify(elsewhere.layout, read_data=True).problems == ()


def test_what_a_compaction_has_mixed_is_not_parted(folder, photos, tmp_path):
    store = initialize(tmp_path / "store", str(folder)).store
    for name in ("alice", "bob"):
        taught(store, photos, name, "lora")
    compact(store, plan_compact(store))
    refused("another store", plan_forget, store, "bob")
