"""`generate`: sizes, samplers, strengths, batches, little memory, files of prompts."""

import io
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from conceptctl.cli.app import run
from conceptctl.config import Drawing
from conceptctl.diffusion.composition.regions import Composition
from conceptctl.diffusion.prompts import with_strengths
from conceptctl.diffusion.samplers import SAMPLERS, check_sampler, make_scheduler, title_of
from conceptctl.errors import NotFound, StoreDamaged, UsageError
from conceptctl.store import weights
from conceptctl.workflows.compact import compact, plan_compact
from conceptctl.workflows.fold import fold
from conceptctl.workflows.generate.prompt_file import Line, read_prompts
from conceptctl.workflows.generate.request import Request, check_size, parse_size
from conceptctl.workflows.generate.run import generate, generate_all
from conceptctl.workflows.generate.strength import Strengths
from conceptctl.workflows.init import initialize
from conceptctl.workflows.learn.samples import check_prompts
from conceptctl.workflows.model import load
from tests import synthetic
from tests.tiny_pipeline import WIDTH, key_value_shapes, write_tiny_pipeline, write_tiny_sd3, write_tiny_sdxl

BOTH = "V*alice with glasses next to V*falls"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store that is only read."""
    folder = tmp_path_factory.mktemp("how")
    base = write_tiny_pipeline(folder / "base")
    made = synthetic.make_store(folder / "store", base)
    for seed, name in enumerate(("alice", "falls")):
        synthetic.learn(made, name, seed + 1, shapes=key_value_shapes(base), width=WIDTH)
    return made


@pytest.fixture(scope="module")
def backbone(store):
    """Its model; whoever changes it puts it right."""
    return load(store, store.head(), "cpu")


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture).astype(int)


def recipe(path):
    with Image.open(path) as picture:
        return json.loads(picture.text["conceptctl"])


def drawn(store, folder, prompt="a cat", *, warn=lambda text: None, **how):
    made = generate(store, Request(prompt, **{"steps": 2, **how}), folder, device="cpu", warn=warn)
    return [image.path for image in made.images]


@pytest.mark.parametrize("prompt", ["a photo of a V*alice in the snow", BOTH])
def test_a_picture_has_the_size_that_was_asked_for(store, tmp_path, prompt):
    (path,) = drawn(store, tmp_path, prompt, size=(24, 16))
    assert pixels(path).shape == (16, 24, 3)
    assert recipe(path)["size"] == "24x16"
    with Image.open(path) as picture:
        assert "Size: 24x16" in picture.text["parameters"]
    # Regions are columns of the picture that is drawn: the concepts' order counts there as elsewhere.
    if prompt == BOTH:
        (swapped,) = drawn(store, tmp_path, "V*falls next to V*alice with glasses", size=(24, 16))
        assert not np.array_equal(pixels(path), pixels(swapped))


def test_the_own_size_said_is_the_own_size(store, tmp_path):
    (plain,), (said,) = drawn(store, tmp_path / "a", BOTH), drawn(store, tmp_path / "b", BOTH, size=(16, 16))
    assert np.array_equal(pixels(plain), pixels(said))


@pytest.mark.parametrize("size", [(4, 16), (16, 20), (72, 16), (0, 8)])
def test_sizes_that_cannot_be_drawn_are_refused_before_the_model_is_loaded(store, tmp_path, monkeypatch, size):
    monkeypatch.setattr("conceptctl.workflows.generate.prepared.load", None)
    with pytest.raises(UsageError, match="multiples of 8 from 8 to 64") as caught:
        drawn(store, tmp_path / "out", size=size)
    near = parse_size(caught.value.hint.removeprefix("--size "))
    assert check_size(near, 16, 8) is not None
    assert not (tmp_path / "out").exists()


def test_sizes_as_they_are_written():
    assert parse_size("768x512") == parse_size(" 768 X 512") == parse_size("768\u00d7512") == (768, 512)
    for text in ("768", "768x", "x512", "768*512", "-8x8", "8.0x8", "", "8x8x8", "9999999x8"):
        with pytest.raises(UsageError, match="a size cannot be"):
            parse_size(text)
    with pytest.raises(UsageError) as caught:
        parse_size("768")
    assert parse_size(caught.value.hint.split()[1].rstrip(":")) == (768, 768)
    # Three to two is usual, four times the area is not.
    assert check_size((768, 512), 512, 8) == ""
    assert "512x512" in check_size((1024, 1024), 512, 8)
    assert "doubled or lost" in check_size((256, 256), 512, 8)


def test_sdxl_is_told_the_size_that_it_draws(tmp_path):
    from conceptctl.families import sdxl

    backbone = sdxl.load(write_tiny_sdxl(tmp_path), torch.device("cpu"))
    told = []
    backbone.pipeline.unet.register_forward_pre_hook(
        lambda module, args, kwargs: told.append((kwargs["added_cond_kwargs"]["time_ids"], args[0].shape)),
        with_kwargs=True,
    )
    (picture,) = backbone.sampler("a cat", Drawing(2, 5.0, size=(32, 16)))([0])
    assert picture.size == (32, 16)
    for ids, latents in told:
        assert ids.tolist() == [[16, 32, 0, 0, 16, 32]] * 2
        assert tuple(latents[-2:]) == (8, 16)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_draws_the_same_again(backbone, name):
    prompt = Composition("a person", ("a V*alice", "a V*falls"))
    sample = backbone.sampler(prompt, Drawing(3, 2.0, sampler=name))
    (first,), (again,) = sample([0]), sample([0])
    assert np.array_equal(np.asarray(first), np.asarray(again))
    assert check_sampler(SAMPLERS[name].title) == name
    assert title_of(make_scheduler(backbone.pipeline.scheduler, name, 3)) == SAMPLERS[name].title


def test_samplers_draw_different_pictures_and_the_own_one_said_draws_the_own(backbone):
    names = ("", "ddim", "euler-a", "dpm++-2m-karras", "lcm")
    samplers = [backbone.sampler("a cat", Drawing(4, 2.0, sampler=name)) for name in names]
    pictures = [np.asarray(sample([0])[0]) for sample in samplers]
    assert np.array_equal(pictures[0], pictures[1])
    for index, picture in enumerate(pictures[1:], start=1):
        assert not any(np.array_equal(picture, other) for other in pictures[index + 1 :])


def test_a_sampler_is_recorded_as_a1111_calls_it(store, tmp_path):
    (path,) = drawn(store, tmp_path, sampler="DPM++ 2M Karras")
    assert recipe(path)["sampler"] == "DPM++ 2M Karras"
    with Image.open(path) as picture:
        assert "Sampler: DPM++ 2M Karras, " in picture.text["parameters"]


def test_samplers_leave_the_models_own_scheduler_alone(backbone):
    own = backbone.pipeline.scheduler
    backbone.sampler("a cat", Drawing(2, 2.0, sampler="euler-a"))([0])
    assert backbone.pipeline.scheduler is own
    assert backbone.scheduler_name() == "DDIM"


def test_samplers_that_cannot_be_meant(store, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="no sampler 'eular'") as caught:
        drawn(store, tmp_path / "out", sampler="eular")
    assert "did you mean euler" in caught.value.hint
    with pytest.raises(UsageError, match="lcm cannot draw in 60 steps"):
        drawn(store, tmp_path / "out", sampler="lcm", steps=60)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="its own sampler only"):
        make_scheduler(SimpleNamespace(config={"shift": 3.0}), "euler", 4)


def test_a_strength_moves_weights_and_token_along_a_line(store, backbone):
    concept = store.concept("alice")
    path = store.blob(concept)
    full = {place: module.weight.clone() for place, module in backbone.targets().items()}
    word = backbone.token_start(concept.class_word)["text_encoder"]
    token_id = backbone.tokenizer().convert_tokens_to_ids("v*alice")
    table = backbone.token_tables()["text_encoder"].weight
    row, others = table[token_id].clone(), table[:token_id].clone()
    strengths = Strengths(store, store.head(), backbone)
    shapes = {place: tuple(weight.shape) for place, weight in full.items()}
    deltas = dict(weights.read_deltas(path, shapes))
    for strength in (0.0, 0.5, 1.5):
        strengths.set({"alice": strength})
        for place, module in backbone.targets().items():
            change = np.zeros(shapes[place], np.float32)
            if place in deltas:
                deltas[place].add_to(change)
            wanted = full[place] + (strength - 1) * torch.from_numpy(change)
            assert torch.allclose(module.weight, wanted, atol=1e-6)
        assert torch.allclose(table[token_id], word[0] + strength * (row - word[0]), atol=1e-6)
    strengths.set({"falls": 0.5})
    strengths.set({})
    assert all(torch.equal(module.weight, full[place]) for place, module in backbone.targets().items())
    assert torch.equal(table[token_id], row) and torch.equal(table[:token_id], others)


@pytest.mark.parametrize("prompt", ["a photo of a V*alice{} in the snow", "V*alice{} next to V*falls"])
def test_strengths_in_prompts_draw_other_pictures_and_one_is_none(store, tmp_path, prompt):
    plain, one, half, much = (pixels(drawn(store, tmp_path, prompt.format(s))[0]) for s in ("", ":1", ":0.5", ":1.5"))
    assert np.array_equal(plain, one)
    assert not np.array_equal(plain, half) and not np.array_equal(plain, much) and not np.array_equal(half, much)
    (path,) = drawn(store, tmp_path, prompt.format(":0.5"))
    assert np.array_equal(pixels(path), half)
    said = recipe(path)
    assert said["strengths"] == {"alice": 0.5}
    assert said["prompt"] == prompt.format(":0.5")
    assert ":0.5" not in json.dumps(said["drawn_from"])


def test_a_strength_is_the_same_before_and_after_folding(tmp_path):
    base = write_tiny_pipeline(tmp_path / "base")
    made = synthetic.make_store(tmp_path / "store", base)
    for seed, name in enumerate(("alice", "falls")):
        synthetic.learn(made, name, seed + 1, shapes=key_value_shapes(base), width=WIDTH)
    (before,) = drawn(made, tmp_path / "before", "V*alice:0.5")
    fold(made)
    (after,) = drawn(made, tmp_path / "after", "V*alice:0.5")
    assert np.array_equal(pixels(before), pixels(after))
    blob = made.blob(made.concept("alice"))
    whole = blob.read_bytes()
    blob.chmod(0o600)
    blob.write_bytes(whole[:-1] + b"?")
    with pytest.raises(StoreDamaged, match="alice"):
        drawn(made, tmp_path / "out", "V*alice:0.5")
    blob.write_bytes(whole)
    compact(made, plan_compact(made))
    assert len(drawn(made, tmp_path / "out", "V*alice and V*falls:1")) == 1
    with pytest.raises(UsageError, match=r"V\*alice has no strength"):
        drawn(made, tmp_path / "none", "V*alice:0.5")


@pytest.mark.parametrize(
    ("prompt", "negative", "error"),
    [
        ("V*alice:3", "", UsageError),
        ("V*alice:-0.5", "", UsageError),
        ("V*alice:0,8", "", UsageError),
        ("V*alice:80%", "", UsageError),
        ("V*alice:0.8 and V*alice:0.9", "", UsageError),
        ("V*alice:0.8", "V*alice:0.9", UsageError),
        ("V*alise:0.8", "", NotFound),
    ],
)
def test_strengths_that_cannot_be_meant(store, tmp_path, monkeypatch, prompt, negative, error):
    monkeypatch.setattr("conceptctl.workflows.generate.prepared.load", None)
    with pytest.raises(error):
        drawn(store, tmp_path / "out", prompt, negative=negative)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("prompt", ["V*alice:0.5 in the snow", BOTH])
def test_a_batch_draws_the_same_pictures_but_for_rounding(store, tmp_path, prompt):
    alone = drawn(store, tmp_path / "a", prompt, count=3)
    together = drawn(store, tmp_path / "b", prompt, count=3, batch_size=2)
    assert [path.name for path in alone] == [path.name for path in together]
    for one, other in zip(alone, together, strict=True):
        assert np.abs(pixels(one) - pixels(other)).max() <= 2
    assert recipe(together[0])["batch_size"] == 2
    assert "batch_size" not in recipe(alone[0])
    with pytest.raises(UsageError, match="batch"):
        drawn(store, tmp_path / "c", batch_size=0)


def test_steps_of_batches_are_counted(store, tmp_path):
    told = []

    def stage(text):
        return lambda done, total: told.append((done, total)) if total else None

    request = Request("a cat", count=3, steps=2, batch_size=2)
    generate(store, request, tmp_path, device="cpu", progress=stage)
    assert told == [(2, 6), (4, 6), (5, 6), (6, 6)]


@pytest.mark.parametrize("prompt", ["V*alice in the snow", BOTH])
def test_little_memory_draws_the_same(store, tmp_path, prompt):
    (plain,), (low,) = drawn(store, tmp_path / "a", prompt), drawn(store, tmp_path / "b", prompt, low_vram=True)
    assert np.array_equal(pixels(plain), pixels(low))
    assert recipe(low)["low_vram"] is True


def test_on_little_memory_the_text_encoders_are_gone_and_large_pictures_are_decoded_in_tiles(tmp_path):
    from conceptctl.families import sdxl

    backbone = sdxl.load(write_tiny_sdxl(tmp_path), torch.device("cpu"))
    pipeline, tiles = backbone.pipeline, []
    sample = backbone.sampler("a cat", Drawing(1, 5.0, size=(16, 16), low_vram=True))
    encoder = pipeline.text_encoder
    assert encoder is not None
    encoder.forward = pipeline.text_encoder_2.forward = None
    sample([0])
    pipeline.vae.decoder.register_forward_hook(lambda module, args, output: tiles.append(args[0].shape[-2:]))
    latents = torch.zeros(2, 4, 300, 256)
    pipeline.vae.decode(latents)
    assert max(max(each) for each in tiles) == 512 // pipeline.vae_scale_factor
    assert len(tiles) == 2 * 4


def test_prompts_of_a_file(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffa cat\r\n\n# a note\n  V*alice \u2028here  \n".encode())
    assert read_prompts(str(path)) == (Line("a cat", f"{path}:1"), Line("V*alice \u2028here", f"{path}:4"))


@pytest.mark.parametrize("raw", [b"", b"# only notes\n\n", b"a cat\n\xff\xfe\n", b"a\0b", b"a" * (5 << 20)])
def test_files_that_are_no_prompts(tmp_path, raw):
    path = tmp_path / "prompts.txt"
    path.write_bytes(raw)
    with pytest.raises(UsageError, match=r"prompts\.txt"):
        read_prompts(str(path))
    with pytest.raises(NotFound):
        read_prompts(str(tmp_path / "none.txt"))
    with pytest.raises(UsageError):
        read_prompts(str(tmp_path))


def test_a_file_of_prompts_is_drawn_and_what_is_there_is_not_drawn_again(store, tmp_path, monkeypatch):
    lines = [Line("a photo of a V*alice:0.5", "p:1"), Line("a V*falls", "p:2"), Line("a V*alice", "p:3")]
    request = Request("", count=2, steps=1)
    real, saved = Image.Image.save, []

    def save(picture, *arguments, **options):
        if len(saved) == 3:
            raise OSError(28, "No space left on device")
        saved.append(picture)
        return real(picture, *arguments, **options)

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(OSError, match="space"):
        generate_all(store, request, lines, tmp_path, device="cpu")
    monkeypatch.undo()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(before) == 3
    made = generate_all(store, request, lines, tmp_path, device="cpu")
    assert [image.new for image in made.images] == [False, False, False, True, True, True]
    assert [image.seed for image in made.images] == [0, 1] * 3
    assert [image.prompt for image in made.images] == [line.prompt for line in lines for _ in range(2)]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert made.contact_sheet is None and made.named == ("alice", "falls")
    # Each line is as it would be alone: no strength is left of the one before.
    for index, line in ((0, lines[0]), (4, lines[2])):
        (alone,) = drawn(store, tmp_path / "alone", line.prompt, steps=1)
        assert np.array_equal(pixels(alone), pixels(made.images[index].path))
    # Another picture of that name, or half of one, is not taken for it.
    path = made.images[0].path
    path.write_bytes(path.read_bytes()[:-40])
    again = generate_all(store, request, lines[:1], tmp_path, device="cpu")
    assert [image.new for image in again.images] == [True, False]
    assert again.images[0].path.name == f"{path.stem}-2.png"
    other = generate_all(store, Request("", count=1, steps=2), lines[:1], tmp_path, device="cpu")
    assert [image.new for image in other.images] == [True]


def test_what_is_wrong_with_a_line_names_it_before_the_model_is_loaded(store, tmp_path, monkeypatch):
    monkeypatch.setattr("conceptctl.workflows.generate.prepared.load", None)
    for prompt, kind in (("V*nobody", NotFound), ("V*alice:9", UsageError), ("\udcff", UsageError)):
        with pytest.raises(kind, match=r"^p:7: "):
            generate_all(store, Request(""), [Line("a cat", "p:6"), Line(prompt, "p:7")], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_line(store, tmp_path, capsys, monkeypatch):
    options = ["--store", str(store.layout.root), "--device", "cpu", "--steps", "1", "--json"]

    def told(*arguments, code=0):
        assert run(["generate", *arguments, *options]) == code
        return json.loads(capsys.readouterr().out)

    out = str(tmp_path / "out")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"a cat\nV*alice:0.5\n")))
    made = told("--prompt-file", "-", "-o", out, "--size", "24x16", "--sampler", "Euler a", "--low-vram")
    assert [(each["prompt"], each["new"]) for each in made["images"]] == [("a cat", True), ("V*alice:0.5", True)]
    assert made["contact_sheet"] is None
    assert pixels(made["images"][0]["path"]).shape == (16, 24, 3)
    for arguments in (
        [],
        ["a cat", "--prompt-file", "p.txt"],
        ["--prompt-file", "p.txt", "--grid", "g.png"],
        ["a cat", "-o", ""],
        ["a cat", "--grid", ""],
        ["--prompt-file", ""],
        ["a cat", "--size", "big"],
        ["a cat", "--sampler", "magic"],
    ):
        error = told(*arguments, code=2)["error"]
        assert error["message"] and error["hint"]
    assert told("--prompt-file", str(tmp_path / "none.txt"), code=5)["error"]["kind"] == "NotFound"


def test_models_with_joint_attention_draw_other_sizes_on_little_memory_and_have_their_own_sampler(tmp_path):
    from conceptctl.families import sd3

    backbone = sd3.load(write_tiny_sd3(tmp_path), torch.device("cpu"))
    how = {"steps": 1, "guidance": 2.0}
    (plain,) = backbone.sampler("a cat", Drawing(**how, size=(32, 16)))([0])
    (low,) = backbone.sampler("a cat", Drawing(**how, size=(32, 16), low_vram=True))([0])
    assert plain.size == (32, 16) and np.array_equal(np.asarray(plain), np.asarray(low))
    with pytest.raises(UsageError, match="its own sampler only"):
        backbone.sampler("a cat", Drawing(**how, sampler="euler"))
    assert backbone.pipeline.text_encoder is not None


def test_samples_of_a_training_have_no_strengths():
    asked = SimpleNamespace(sample_prompts=("a V*bob", "a V*bob:0.5"), name="bob")
    with pytest.raises(UsageError, match="full strength"):
        check_prompts(asked, ())


@pytest.mark.parametrize("word", ["nan", "inf", "-Infinity", "NaN"])
def test_a_strength_that_is_no_number(store, tmp_path, word):
    with pytest.raises(UsageError, match="a strength is a number from 0 to 2"):
        drawn(store, tmp_path, f"a V*alice:{word} here")
    assert with_strengths("V*alice:nancy") == ("V*alice:nancy", {})


def test_prompts_from_nowhere(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="standard input is closed") as caught:
        read_prompts("-")
    assert caught.value.hint
    with pytest.raises(UsageError, match="Is a directory") as caught:
        read_prompts(str(tmp_path))
    assert caught.value.hint


def test_joint_attention_refuses_sizes_and_samplers_before_it_is_loaded(tmp_path, monkeypatch):
    store = initialize(tmp_path / "store", str(write_tiny_sd3(tmp_path / "sd3"))).store
    monkeypatch.setattr("conceptctl.workflows.generate.prepared.load", None)
    monkeypatch.setattr("conceptctl.workflows.generate.request.RANGE", 8)
    # Its table has 8 x 8 places, of 2 x 2 latents of 2 pixels each.
    with pytest.raises(UsageError, match="multiples of 16 from 16 to 32"):
        drawn(store, tmp_path, size=(48, 16))
    with pytest.raises(UsageError, match="its own sampler only"):
        drawn(store, tmp_path, sampler="euler")
