"""The recipe: the loop resumes bit for bit, and every stage trains."""

import json
import math
import random
import shutil
from collections import Counter
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn

from conceptctl.pocket import bundle
from conceptctl.pocket.judge import labels_of
from conceptctl.pocket.train import clip, decoder, judge, loop, trained, unet, vae
from conceptctl.pocket.train.data import Batches, autoencoder_pictures, to_signed
from conceptctl.pocket.train.judge import judged_pictures
from conceptctl.pocket.train.loop import Recipe, Stage, Trainer
from conceptctl.pocket.train.trained import averaged_weights, text_tower, trained_clip, trained_vae
from conceptctl.pocket.train.vocabulary import LENGTH, build_tokenizer, tokenize
from conceptctl.pocket.world.captions import draw_mentions
from conceptctl.pocket.world.concepts import concept
from conceptctl.pocket.world.kinds import NONE
from conceptctl.pocket.world.labels import HEADS, UNKNOWN, encode
from conceptctl.pocket.world.scenes import draw_scene, scene_of

CPU = torch.device("cpu")


class Line(Stage):
    """Fits a line: small enough to train in a test."""

    name = "line"

    def __init__(self, stop_at=None):
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(1, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
        self.stop_at = stop_at

    def batch(self, step):
        if step == self.stop_at:
            raise KeyboardInterrupt
        return torch.rand(32, 1, generator=torch.Generator().manual_seed(step))

    def losses(self, batch):
        return {"loss": (self.network(batch) - 3 * batch).square().mean()}

    def measure(self, network):
        points = torch.rand(4, 1)
        return {"error": (network(points) - 3 * points).square().mean().item()}


RECIPE = Recipe(samples=1280, batch=32, learning_rate=0.05, warmup=5)


def train(stage, workspace, **options):
    Trainer(stage, RECIPE, workspace, CPU).run(save_every=0.0, **options)


def test_an_interrupted_training_ends_bit_identically(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    train(Line(), whole)
    with pytest.raises(KeyboardInterrupt):
        train(Line(stop_at=17), broken)
    train(Line(), broken)
    expected, found = averaged_weights(whole, "line"), averaged_weights(broken, "line")
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_training_lowers_the_loss_and_says_so(tmp_path):
    train(Line(), tmp_path, report_every=0.0)
    lines = [json.loads(line) for line in (tmp_path / "line.jsonl").read_text().splitlines()]
    assert [line["samples"] for line in lines] == list(range(32, 1312, 32))
    assert sum(line["losses"]["loss"] for line in lines[-5:]) < sum(line["losses"]["loss"] for line in lines[:5]) / 5


def test_a_finished_training_is_not_begun_again(tmp_path):
    train(Line(), tmp_path)
    before = (tmp_path / "line.safetensors").read_bytes()
    train(Line(stop_at=0), tmp_path)
    assert (tmp_path / "line.safetensors").read_bytes() == before


def test_the_average_begins_at_the_first_weights_and_follows_every_step(tmp_path):
    stage = Line()
    trainer = Trainer(stage, replace(RECIPE, average=0.4), tmp_path, CPU)
    expected = {name: value.clone() for name, value in stage.network.state_dict().items()}
    # Its decay rises until it is the recipe's.
    for decay in (2 / 11, 3 / 12, 4 / 13, 5 / 14, 6 / 15, 0.4, 0.4):
        trainer._step()
        for name, value in stage.network.state_dict().items():
            if value.is_floating_point():
                expected[name].lerp_(value, 1 - decay)
    found = trainer.averaged().state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert not torch.equal(found["0.weight"], stage.network[0].weight)


def test_measuring_changes_nothing_in_training(tmp_path):
    for name, seconds in (("often", 0.0), ("never", 60.0)):
        (tmp_path / name).mkdir()
        train(Line(), tmp_path / name, report_every=seconds)
    often, never = (averaged_weights(tmp_path / name, "line") for name in ("often", "never"))
    assert all(torch.equal(often[name], never[name]) for name in often)


def square(step):
    return step * step


def test_batches_are_the_same_with_and_without_workers():
    alone, helped = Batches(square, 0), Batches(square, 2)
    assert [alone(step) for step in range(5, 15)] == [helped(step) for step in range(5, 15)]


def test_the_tokenizer_knows_the_worlds_words_and_spells_the_rest(tmp_path):
    tokenizer = build_tokenizer(tmp_path)
    assert tokenizer.tokenize("a striped waterfall") == ["a</w>", "striped</w>", "waterfall</w>"]
    for text in ("xylophone", "naïve café", "日本 123!", "V*alice"):
        tokens = tokenizer(text).input_ids
        spelled = tokenizer.decode(tokens, skip_special_tokens=True).replace(" ", "")
        assert spelled == text.lower().replace(" ", "")
    assert tokenize(tokenizer, ["a " * 99, ""]).shape == (2, LENGTH)
    assert (tmp_path / "vocab.json").exists()
    assert (tmp_path / "merges.txt").exists()


def test_standardizing_latents_changes_no_reconstruction():
    torch.manual_seed(0)
    model = vae.build().eval()
    pictures = to_signed(autoencoder_pictures(8, "test"), CPU)
    with torch.no_grad():
        before = model.decode(model.encode(pictures).latent_dist.mode()).sample
        vae.standardize(model, pictures)
        latents = model.encode(pictures).latent_dist
        after = model.decode(latents.mode()).sample
    torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-3)
    assert latents.mean.mean(dim=(0, 2, 3)).abs().max() < 1e-4
    torch.testing.assert_close(latents.mean.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-3, rtol=1e-3)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """The checkpoints of all stages after two small steps each."""
    folder = tmp_path_factory.mktemp("workspace")
    sizes = pytest.MonkeyPatch()
    sizes.setattr(unet, "_CHUNK", 8)
    sizes.setitem(unet.CORPUS, "cpu", 16)
    # What is only looked at would take more than all else.
    sizes.setattr(decoder, "HELDOUT_SEEDS", decoder.HELDOUT_SEEDS[:2])
    sizes.setattr(trained, "autoencoder_pictures", lambda _, seed: autoencoder_pictures(16, seed))
    sizes.setattr(judge, "judged_pictures", lambda size, *rest, **more: judged_pictures(min(size, 16), *rest, **more))
    stages = {
        "vae": (lambda: vae.VaeStage(CPU, batch=2), vae.RECIPES),
        "decoder": (lambda: decoder.DecoderStage(CPU, folder, batch=2), decoder.RECIPES),
        "clip": (lambda: clip.ClipStage(CPU, folder, batch=4), clip.RECIPES),
        "judge": (lambda: judge.JudgeStage(CPU, folder, batch=4), judge.RECIPES),
        "unet": (lambda: unet.UnetStage(CPU, folder, batch=2), unet.RECIPES),
    }
    measured = {}
    for name, (make, recipes) in stages.items():
        recipe = recipes["cpu"]
        trainer = Trainer(make(), replace(recipe, samples=2 * recipe.batch), folder, CPU)
        trainer.run()
        measured[name] = json.loads((folder / f"{name}.jsonl").read_text().splitlines()[-1])
    sizes.undo()
    return folder, measured


def test_every_stage_trains_and_measures_itself(workspace):
    _, measured = workspace
    for name, line in measured.items():
        assert line["step"] == 2, name
        assert all(torch.isfinite(torch.tensor(value)) for value in line["losses"].values()), name
    assert {key for line in measured.values() for key in line["measures"]} == {
        "psnr",
        "unseen psnr",
        "retrieval",
        "right",
        "worst",
        "coded",
        "heldout",
    }


def test_half_of_what_the_judge_sees_went_through_the_autoencoder(workspace, tmp_path, monkeypatch):
    folder, _ = workspace
    seen = []
    monkeypatch.setattr(judge, "spoil", lambda pictures: seen.append(pictures) or pictures)
    ended = {}
    # An autoencoder that was hardly trained, and the one that ships where there is none.
    for root in (folder, tmp_path):
        stage = judge.JudgeStage(CPU, root, batch=8)
        batch = stage.batch(0)
        stage.losses(batch)
        rendered = to_signed(batch.pictures, CPU)
        changed = (seen.pop() - rendered).abs().mean(dim=(1, 2, 3))
        assert (changed[:4] == 0).all()
        assert (changed[4:] > 0).all()
        ended[root] = changed[4:].mean().item()
    assert ended[tmp_path] < 0.1 < ended[folder]


def test_some_of_what_the_judge_sees_lies_between_two_scenes():
    first, again = (judged_pictures(32, "between", between=1.0) for _ in range(2))
    assert torch.equal(first.pictures, again.pictures)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.pictures, judged_pictures(32, "between").pictures)
    doubtful = other = 0
    rng = random.Random(0)
    for _ in range(200):
        scene = draw_scene(rng, pairs=0, unseen=0.4, details=0.75)
        _, (labels, nobody) = judge._between(scene, rng, 0.4, 0.75)
        assert nobody == encode(None)
        whole = labels_of(scene.subjects)[0]
        changed = [(one, two) for one, two in zip(labels, whole, strict=True) if one != two]
        # An attribute, what needs it, and what it covers.
        assert len(changed) <= 3
        assert labels[0] == encode(scene.subjects[0])[0]
        doubtful += any(one == UNKNOWN for one, _ in changed)
        other += any(one != UNKNOWN for one, _ in changed)
    assert doubtful > 20
    assert other > 20


def test_how_much_is_left_of_a_change_decides_what_it_is():
    before, after = Image.new("RGB", (64, 64)), Image.new("RGB", (64, 64))
    after.paste((255, 255, 255), (0, 0, 8, 8))
    mask = Image.new("L", (64, 64))
    assert judge._share(before, after, mask) == 0
    mask.paste(255, (0, 0, 4, 64))
    assert judge._share(before, after, mask) == 0.5
    # However little of the picture it lets through.
    mask.paste(255, (0, 0, 8, 8))
    assert judge._share(before, after, mask) == 1
    assert math.isnan(judge._share(before, before, mask))


HAT, HAT_COLOUR, HAIR, BEARD = (
    next(index for index, head in enumerate(HEADS) if head.name == name)
    for name in ("hat", "hat_colour", "hair", "beard")
)


def test_hats_that_leaked_have_an_answer_where_a_hat_has_that_colour():
    person = concept("person", 1).subject.replaced(hat="cap", hat_colour="green", hair="long", hair_colour="brown")
    rng = random.Random(0)
    hats = Counter(judge._leaked(person, rng)["hat_colour"] for _ in range(1000))
    assert 600 < hats.pop("green") < 800
    assert hats["brown"] > max(hats[colour] for colour in hats if colour != "brown")
    labels = {colour: labels_of([person.replaced(hat_colour=colour)])[0][HAT_COLOUR] for colour in ("green", *hats)}
    assert labels.pop("green") != UNKNOWN
    assert set(labels.values()) == {UNKNOWN}
    cat = concept("cat", 1).subject
    assert all(judge._leaked(cat, rng) == cat for _ in range(20))


@pytest.mark.parametrize(("share", "beard"), [(0.1, "none"), (0.2, "none"), (0.3, None), (0.45, None), (0.6, "beard")])
def test_a_beard_that_is_paler_everywhere_is_there_from_a_half_on(share, beard, monkeypatch):
    person = concept("person", 1).subject.replaced(beard="none", hair="long", hat="none")
    monkeypatch.setattr(judge, "_changed", lambda *_: ("beard", person.replaced(beard="beard")))
    monkeypatch.setattr(judge, "_share", lambda *_: share)
    pieces = []
    for name in ("_patches", "_slope"):
        monkeypatch.setattr(judge, name, lambda before, *_: pieces.append(before) or Image.new("L", before.size))
    scene = scene_of(random.Random(0), person)
    seen = set()
    for seed in range(20):
        pieces.clear()
        _, (labels, _) = judge._between(scene, random.Random(seed), 0.0, 0.0)
        if not pieces:
            seen.add(labels[BEARD])
    assert seen == {UNKNOWN if beard is None else HEADS[BEARD].values.index(beard)}


def test_a_piece_of_a_hat_does_not_make_a_bald_head_short(monkeypatch):
    person = concept("person", 1).subject.replaced(hair="bald", beard="none", hat="none")
    capped = person.replaced(hat="cap", hat_colour="red")
    monkeypatch.setattr(judge, "_changed", lambda *_: ("hat", capped))
    scene = scene_of(random.Random(0), person)
    seen = {}
    for share in (0.0, 0.5, 0.9):
        monkeypatch.setattr(judge, "_share", lambda *_, share=share: share)
        _, (labels, _) = judge._between(scene, random.Random(0), 0.0, 0.0)
        seen[share] = labels[HAIR], labels[HAT] != HEADS[HAT].values.index("none")
    bald, short = (HEADS[HAIR].values.index(value) for value in ("bald", "short"))
    assert seen == {0.0: (bald, False), 0.5: (UNKNOWN, True), 0.9: (short, True)}


def test_a_slope_goes_over_from_one_picture_to_the_other_within_what_differs():
    before, after = Image.new("RGB", (64, 64)), Image.new("RGB", (64, 64))
    after.paste((255, 255, 255), (10, 20, 40, 60))
    shares = []
    for seed in range(100):
        mask = judge._slope(before, after, random.Random(seed))
        left, top, right, bottom = mask.getbbox() or (10, 20, 40, 60)
        assert left >= 10 and top >= 20 and right <= 40 and bottom <= 60
        shares.append(judge._share(before, after, mask))
    assert all(0 <= share <= 1 for share in shares)
    assert sum(0.1 < share < 0.9 for share in shares) > 60
    assert judge._slope(before, before, random.Random(0)).getbbox() is None


def test_a_near_twin_differs_and_names_only_what_it_has():
    rng = random.Random(0)
    gone = 0
    for _ in range(300):
        scene = draw_scene(rng)
        mentions = [draw_mentions(subject, rng, least=1, most=4) for subject in scene.subjects]
        twin, said = clip.near_twin(scene, mentions, rng)
        gone += sum(map(len, said)) < sum(map(len, mentions))
        for subject, names in zip(twin.subjects, said, strict=True):
            for name, value in names.items():
                assert value != NONE
                assert subject.shown()[name] == value or (name, value) == ("hat", "hat")
        assert (twin, said) == (scene, mentions) or twin != scene
    assert gone > 10


def test_steps_without_pictures_teach_the_text_tower_alone(tmp_path):
    stage = clip.ClipStage(CPU, tmp_path, batch=4)
    with_pictures, without = stage.batch(0), stage.batch(1)
    assert len(with_pictures.pictures) == 4
    assert len(without.pictures) == 0
    assert torch.equal(clip.picture_pairs(stage.tokenizer, 4, "clip:1").tokens, without.tokens)
    assert torch.equal(clip.picture_pairs(stage.tokenizer, 4, "clip:1").said, without.said)
    stage.losses(without)["loss"].backward()
    model = stage.network.model
    assert all(each.grad is None for each in model.vision_model.parameters())
    assert all(each.grad is not None for each in model.text_model.parameters())


def test_the_text_tower_is_clips_own(workspace):
    folder, _ = workspace
    model, tokenizer = trained_clip(folder)
    tokens = tokenize(tokenizer, ["a photo of a person"])
    with torch.no_grad():
        expected = model.text_model(tokens).last_hidden_state
        assert torch.equal(text_tower(model)(tokens).last_hidden_state, expected)


def test_the_base_is_written_in_the_real_format(workspace, tmp_path):
    from diffusers import StableDiffusionPipeline

    from conceptctl.pocket.train.base import write_base

    folder, _ = workspace
    write_base(folder, tmp_path / "weights")
    assert sum(path.stat().st_size for path in (tmp_path / "weights").rglob("*") if path.is_file()) <= 64e6
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "weights" / "base", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pictures = pipeline("a photo of a cat", num_inference_steps=2, output_type="pt").images
    assert pictures.shape == (1, 3, 64, 64)
    assert trained_vae(folder).config.scaling_factor == pipeline.vae.config.scaling_factor == 1.0
    names = ("attn2.to_k.weight", "attn2.to_v.weight")
    keys_and_values = [p.numel() for name, p in pipeline.unet.named_parameters() if name.endswith(names)]
    assert sum(keys_and_values) >= 1_000_000


def test_the_decoder_is_trained_alone(workspace):
    folder, _ = workspace
    whole, before = averaged_weights(folder, "decoder"), averaged_weights(folder, "vae")
    same = {name for name, value in before.items() if torch.equal(whole[name], value)}
    assert {name for name in before if name.startswith("encoder.")} <= same
    assert not {name for name in before if name.startswith("decoder.conv")} & same


def test_a_decoder_of_another_encoder_is_refused(workspace, tmp_path):
    folder, _ = workspace
    shutil.copy(folder / "decoder.safetensors", tmp_path)
    with pytest.raises(ValueError, match="the encoder was trained on: delete"):
        trained_vae(tmp_path)


def test_what_was_not_trained_is_written_as_it_ships(workspace, tmp_path):
    from conceptctl.pocket.train.base import write_base

    folder, _ = workspace
    shutil.copy(folder / "unet.safetensors", tmp_path)
    target = tmp_path / "weights"
    shutil.copytree(bundle.WEIGHTS, target)
    write_base(tmp_path, target)
    files = {path.relative_to(target).as_posix() for path in target.rglob("*.safetensors")}
    changed = {name for name in files if (target / name).read_bytes() != (bundle.WEIGHTS / name).read_bytes()}
    assert changed == {"base/unet/diffusion_pytorch_model.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == {"unet.safetensors", "weights"}


@pytest.mark.parametrize("fast", [True, False])
def test_the_unet_trains_in_either_precision(workspace, monkeypatch, fast):
    folder, _ = workspace
    for module in (loop, unet):
        monkeypatch.setattr(module, "has_fast_bf16", lambda device: fast)
    monkeypatch.setattr(unet, "_CHUNK", 8)
    monkeypatch.setitem(unet.CORPUS, "cpu", 16)
    stage = unet.UnetStage(CPU, folder, batch=2)
    seen = []
    stage.network.conv_in.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    trainer = Trainer(stage, unet.RECIPES["cpu"], folder / "elsewhere", CPU)
    assert torch.isfinite(trainer._step()["loss"])
    assert seen == [torch.bfloat16 if fast else torch.float32]
