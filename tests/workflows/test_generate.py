"""`generate`: what is drawn, from what, under which names, and what is said of it."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import conceptctl
from conceptctl.cli.app import run
from conceptctl.config import Drawing
from conceptctl.diffusion.composition.guidance import GuidedPrompt
from conceptctl.diffusion.composition.regions import Composition
from conceptctl.errors import NotFound, StoreDamaged, UsageError
from conceptctl.images.contact_sheet import contact_sheet
from conceptctl.store.store import Store
from conceptctl.workflows.drawing import draw
from conceptctl.workflows.fold import fold
from conceptctl.workflows.generate.compose import compose
from conceptctl.workflows.generate.request import Request
from conceptctl.workflows.generate.run import generate
from conceptctl.workflows.model import load
from conceptctl.workflows.reference_samples import recipe_of, word_of
from tests import synthetic
from tests.tiny_pipeline import PREDICTING_BOTH, WIDTH, key_value_shapes


@pytest.fixture
def store(base_folder, tmp_path):
    made = synthetic.make_store(tmp_path / "store", base_folder)
    for seed, name in enumerate(("alice", "falls")):
        synthetic.learn(made, name, seed + 1, shapes=key_value_shapes(base_folder), width=WIDTH)
    return made


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture).copy()


def drawn(store, folder, prompt="a photo of V*alice next to V*falls", **changes):
    made = generate(store, Request(prompt, steps=2, **changes), folder, device="cpu")
    return [pixels(image.path) for image in made.images]


@PREDICTING_BOTH
def test_a_picture_is_the_same_before_and_after_folding(store, tmp_path):
    (before,) = drawn(store, tmp_path / "before")
    fold(store)
    (after,) = drawn(store, tmp_path / "after")
    assert np.array_equal(before, after)


def spoil(path):
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def test_what_is_folded_is_drawn_from_the_stored_weights(store, tmp_path):
    (before,) = drawn(store, tmp_path / "before", "a photo of a cat")
    fold(store)
    for concept in store.head().concepts:
        spoil(store.blob(concept))
    (after,) = drawn(store, tmp_path / "after", "a photo of a cat")
    assert np.array_equal(before, after)


def test_what_is_learned_after_a_fold_is_added_to_the_stored_weights(store, base_folder, tmp_path):
    parts = key_value_shapes(base_folder)
    pictures = []
    for folding in (True, False):
        made = synthetic.make_store(tmp_path / str(folding), base_folder)
        synthetic.learn(made, "alice", 1, shapes=parts, width=WIDTH)
        if folding:
            fold(made)
            spoil(made.blob(made.concept("alice")))
        # It changes one weight that the first one changes as well, and one that it does not.
        synthetic.learn(made, "falls", 2, shapes=dict(list(parts.items())[:1]), width=WIDTH)
        pictures += drawn(made, tmp_path / f"out-{folding}", "a photo of V*falls")
    assert np.array_equal(*pictures)


def test_what_is_folded_is_drawn_under_its_name_too(store, tmp_path):
    (before,) = drawn(store, tmp_path / "before", prompt_only=True)
    fold(store)
    for concept in store.head().concepts:
        spoil(store.blob(concept))
    (after,) = drawn(store, tmp_path / "after", prompt_only=True)
    assert np.array_equal(before, after)


@pytest.mark.parametrize("harm", [spoil, lambda path: path.unlink()])
def test_stored_weights_that_are_lost_are_made_again(store, tmp_path, harm):
    (before,) = drawn(store, tmp_path / "before")
    harm(store.layout.blob(fold(store).head.folded.sha256))
    (after,) = drawn(store, tmp_path / "after")
    assert np.array_equal(before, after)


def test_a_damaged_concept_is_named_and_the_others_are_drawn_without_it(store, base_folder, tmp_path):
    alone = synthetic.make_store(tmp_path / "alone", base_folder)
    synthetic.learn(alone, "falls", 2, shapes=key_value_shapes(base_folder), width=WIDTH)
    (wanted,) = drawn(alone, tmp_path / "wanted", "a photo of V*falls")
    spoil(store.blob(store.concept("alice")))
    for prompt in ("V*alice", "V*alice next to V*falls"):
        with pytest.raises(StoreDamaged, match="alice"):
            generate(store, Request(prompt, steps=1), tmp_path / "none", device="cpu")
    with pytest.raises(StoreDamaged, match="alice"):
        generate(store, Request("a cat", negative="V*alice", steps=1), tmp_path / "none", device="cpu")
    assert not (tmp_path / "none").exists()
    said = []
    made = generate(store, Request("a photo of V*falls", steps=2), tmp_path / "out", device="cpu", warn=said.append)
    assert np.array_equal(pixels(made.images[0].path), wanted)
    assert ["alice" in each and "without it" in each for each in said] == [True]
    with Image.open(made.images[0].path) as picture:
        assert json.loads(picture.text["conceptctl"])["without"] == ["alice"]


@pytest.mark.parametrize("negative", [False, True])
def test_a_damaged_concept_that_another_goes_on_from_is_missed(store, tmp_path, base_folder, negative):
    shapes = key_value_shapes(base_folder)
    synthetic.learn(store, "owl", 3, shapes=shapes, width=WIDTH, contains=(store.concept("alice").uid,))
    spoil(store.blob(store.concept("alice")))
    asked = Request("a cat", negative="V*owl", steps=1) if negative else Request("V*owl", steps=1)
    with pytest.raises(StoreDamaged, match="alice"):
        generate(store, asked, tmp_path / "none", device="cpu")
    assert not (tmp_path / "none").exists()
    # The other one is whole without it.
    assert len(drawn(store, tmp_path / "out", "V*falls")) == 1


def test_a_concept_changes_the_picture(store, tmp_path):
    (with_concepts,) = drawn(store, tmp_path / "a", "a photo of a cat")
    (without,) = drawn(store, tmp_path / "b", "a photo of a cat", at=0)
    assert not np.array_equal(with_concepts, without)


@PREDICTING_BOTH
def test_several_concepts_have_a_region_each(store, tmp_path):
    (together,) = drawn(store, tmp_path / "a")
    (swapped,) = drawn(store, tmp_path / "b", "a photo of V*falls next to V*alice")
    (anywhere,) = drawn(store, tmp_path / "c", prompt_only=True)
    assert not np.array_equal(together, swapped)
    assert not np.array_equal(together, anywhere)
    composed = Composition("a photo of a person next to a person", ("a photo of a V*alice", "a photo of a V*falls"))
    how = {"steps": 2, "guidance": 7.5}
    ((wanted,), (plain,)) = (
        list(draw(load(store, store.head(), "cpu").sampler(prompt, Drawing(**how)), [0]))
        for prompt in (composed, "a photo of V*alice next to V*falls")
    )
    assert np.array_equal(together, np.asarray(wanted))
    assert np.array_equal(anywhere, np.asarray(plain))
    # One concept, however often it is named, has the picture for itself.
    assert isinstance(compose(store, store.head(), "V*alice and V*alice", ["alice"]), GuidedPrompt)


def test_what_is_said_beside_a_concept_counts(store, tmp_path):
    (snow,) = drawn(store, tmp_path / "a", "a photo of a V*alice in the snow")
    (alone,) = drawn(store, tmp_path / "b", "a photo of a V*alice in the snow", prompt_only=True)
    assert not np.array_equal(snow, alone)
    guided = GuidedPrompt("a photo of a V*alice in the snow", "a photo of a person in the snow", "a photo of a person")
    assert compose(store, store.head(), guided.prompt, ["alice"]) == guided
    (wanted,) = draw(load(store, store.head(), "cpu").sampler(guided, Drawing(2, 7.5)), [0])
    assert np.array_equal(snow, np.asarray(wanted))
    # Nothing is said in these, and nothing of a concept in the last.
    nothing = ["a photo of V*alice", "A photo of a V*alice", "a photo of a V*alice person", "V*alice", "a V*alice"]
    for prompt in (*nothing, "my V*alice", "a picture of the  V*Alice."):
        assert compose(store, store.head(), prompt, ["alice"]) == prompt
    assert compose(store, store.head(), "a cat in the snow", []) == "a cat in the snow"


@PREDICTING_BOTH
def test_a_concept_is_drawn_in_its_region_as_its_reference_samples_are(store):
    prompt = "V*falls in front of a V*alice, at night"
    composed = compose(store, store.head(), prompt, ["falls", "alice"])
    assert composed == Composition(
        "a person in front of a person, at night",
        tuple(
            GuidedPrompt(f"a photo of a V*{name} at night", "a photo of a person at night", "a photo of a person")
            for name in ("falls", "alice")
        ),
    )
    painted = compose(store, store.head(), "An oil painting of a V*falls and V*alice", ["falls", "alice"])
    assert [region.prompt for region in painted.regions] == [
        "An oil painting of a V*falls",
        "An oil painting of a V*alice",
    ]
    assert {(region.with_words, region.without_words) for region in painted.regions} == {
        ("An oil painting of a person", "a photo of a person")
    }
    # A concept may come from a file of somebody else's.
    words = ("owl", "big owl", "V*alice", "ow\nl", "", "  ", "owl " * 300)
    plain = [word_of(synthetic.record(store, "bob", class_word=word)) for word in words]
    assert plain == ["owl", "big owl", "", "", "", "", ""]


def test_a_concept_without_reference_samples_is_drawn_as_its_method_learned_it(store):
    prompts = {
        method: recipe_of(synthetic.record(store, "bob", method=method), store.head().base).prompt
        for method in ("stamina", "lora", "ti++", "another")
    }
    assert prompts == {
        "stamina": "a photo of a V*{}",
        "lora": "a photo of a V*{} person",
        "ti++": "a photo of a V*{} person",
        "another": "a photo of a V*{}",
    }


@PREDICTING_BOTH
def test_a_picture_depends_on_its_seed_and_not_on_how_many_are_drawn(store, tmp_path):
    three = drawn(store, tmp_path / "three", count=3, seed=5)
    (last,) = drawn(store, tmp_path / "one", seed=7)
    assert np.array_equal(three[2], last)
    assert not np.array_equal(three[0], three[1])


def test_loading_changes_the_learned_weights_and_rows_and_nothing_else(store, base_folder):
    from diffusers import StableDiffusionPipeline

    plain = StableDiffusionPipeline.from_pretrained(base_folder)
    loaded = load(store, store.head(), "cpu").pipeline
    changed = key_value_shapes(base_folder)
    for name, weight in plain.unet.named_parameters():
        same = torch.equal(weight, loaded.unet.get_parameter(name))
        assert same == (name not in changed), name
    rows = plain.text_encoder.get_input_embeddings().weight
    table = loaded.text_encoder.get_input_embeddings().weight
    assert len(table) == len(rows) + 2
    assert torch.equal(table[: len(rows)], rows)
    assert loaded.tokenizer.tokenize("V*alice and v*FALLS") == ["v*alice", "and</w>", "v*falls"]


def test_an_earlier_generation_knows_what_it_knew(store, tmp_path):
    with pytest.raises(NotFound, match=r"V\*falls"):
        drawn(store, tmp_path / "out", "V*falls", at=1)
    with pytest.raises(NotFound, match="generation 9"):
        drawn(store, tmp_path / "out", at=9)
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(store, tmp_path):
    first, second = (generate(store, Request("a cat", steps=1), tmp_path, device="cpu") for _ in range(2))
    assert [image.path.name for image in (*first.images, *second.images)] == ["a-cat-0.png", "a-cat-0-2.png"]
    assert second.contact_sheet.name == "contact-sheet-2.png"


def test_the_recipe_stands_in_the_file_unless_it_is_not_wanted(store, tmp_path):
    made = generate(store, Request("a cat", steps=2, seed=3, guidance=4.0, negative="a dog"), tmp_path, device="cpu")
    with Image.open(made.images[0].path) as picture:
        text = picture.text
    assert text["parameters"].startswith("a cat\nNegative prompt: a dog\nSteps: 2, ")
    assert "Seed: 3, Size: 16x16" in text["parameters"]
    recipe = json.loads(text["conceptctl"])
    assert (recipe["prompt"], recipe["guidance"], recipe["generation"]) == ("a cat", 4.0, 2)
    assert "trainedAlgorithmicMedia" in text["XML:com.adobe.xmp"]
    with Image.open(made.contact_sheet) as sheet:
        assert "trainedAlgorithmicMedia" in sheet.text["XML:com.adobe.xmp"]
    assert recipe["drawn_from"] == {"prompt": "a cat"}
    assert (recipe["generation_id"], recipe["program"]) == (store.head().identity, conceptctl.__version__)
    both = generate(store, Request("V*alice and V*falls", steps=1), tmp_path, device="cpu")
    with Image.open(both.images[0].path) as picture:
        recipe = json.loads(picture.text["conceptctl"])
    assert recipe["prompt"] == "V*alice and V*falls"
    assert recipe["drawn_from"] == {
        "whole": "a person and a person",
        "regions": ["a photo of a V*alice", "a photo of a V*falls"],
    }
    snow = generate(store, Request("V*alice in the snow", steps=1), tmp_path, device="cpu")
    with Image.open(snow.images[0].path) as picture:
        recipe = json.loads(picture.text["conceptctl"])
    assert recipe["drawn_from"] == {
        "prompt": "V*alice in the snow",
        "with_words": "a person in the snow",
        "without_words": "a photo of a person",
    }
    bare = generate(store, Request("a cat", steps=1, metadata=False), tmp_path, device="cpu")
    with Image.open(bare.images[0].path) as picture:
        assert picture.text == {}


def test_a_prompt_that_is_too_long_is_warned_of(store, tmp_path):
    said = []
    generate(store, Request("a cat " * 40 + "asleep", steps=1), tmp_path, device="cpu", warn=said.append)
    assert len(said) == 1
    assert "asleep" in said[0]
    request = Request("a cat", steps=1, negative="a dog " * 40 + "awake")
    generate(store, request, tmp_path, device="cpu", warn=said.append)
    assert "negative" in said[1]
    assert "awake" in said[1]
    # Its region sees a concept wherever the prompt names it.
    generate(store, Request("V*alice" + " a cat" * 40 + " V*falls", steps=1), tmp_path, device="cpu", warn=said.append)
    assert said[2].endswith("a cat person'")


def test_the_contact_sheet_holds_every_picture_enlarged_with_its_seed(store, tmp_path):
    made = generate(store, Request("a cat", count=3, steps=1), tmp_path, grid=tmp_path / "sheets/g.png", device="cpu")
    sheet = pixels(made.contact_sheet)
    assert made.contact_sheet == tmp_path / "sheets/g.png"
    wanted = contact_sheet([Image.open(image.path) for image in made.images], "a cat", ["seed 0", "seed 1", "seed 2"])
    assert np.array_equal(sheet, np.asarray(wanted))
    assert sheet.shape[1] == 512
    assert any(np.array_equal(row[256::16], line) for row in sheet for line in pixels(made.images[1].path)[:1])


def test_a_contact_sheet_of_another_kind_says_that_a_model_made_it(store, tmp_path):
    made = generate(store, Request("a cat", steps=1), tmp_path, grid=tmp_path / "g.jpg", device="cpu")
    assert b"trainedAlgorithmicMedia" in made.contact_sheet.read_bytes()
    bare = generate(store, Request("a cat", steps=1, metadata=False), tmp_path, grid=tmp_path / "b.jpg", device="cpu")
    assert b"trainedAlgorithmicMedia" not in bare.contact_sheet.read_bytes()


@pytest.mark.parametrize(
    "bad",
    [
        {"count": 0},
        {"steps": -1},
        {"steps": 1001},
        {"seed": -1},
        {"seed": 2**63},
        {"guidance": float("nan")},
        {"guidance": float("inf")},
    ],
)
def test_numbers_that_cannot_be_meant(store, tmp_path, bad):
    with pytest.raises(UsageError):
        generate(store, Request("a cat", **bad), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_places_that_pictures_cannot_go_to(store, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="not a folder"):
        generate(store, Request("a cat"), tmp_path / "file")
    for name in ("g.sheet", "g.psd", "g"):
        with pytest.raises(UsageError, match=r"'.sheet'|'.psd'|no ending") as caught:
            generate(store, Request("a cat"), tmp_path / "out", grid=tmp_path / name)
        assert ".webp" in caught.value.hint
    (tmp_path / "g.png").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        generate(store, Request("a cat"), tmp_path / "out", grid=tmp_path / "g.png")
    for place in (tmp_path / "file" / "out", tmp_path / ("a" * 300), tmp_path / "new" / ("a" * 300) / "deep"):
        with pytest.raises(UsageError, match=r"not a folder|Not a directory|too long"):
            generate(store, Request("a cat"), place)
        with pytest.raises(UsageError, match=r"not a folder|Not a directory|too long"):
            generate(store, Request("a cat"), tmp_path / "out", grid=place / "g.png")
    with pytest.raises(UsageError, match="too long"):
        generate(store, Request("a cat"), tmp_path / "out", grid=tmp_path / f"{'a' * 300}.png")
    assert not (tmp_path / "out").exists()


def test_a_folder_is_tried_out_before_the_model_is_loaded(store, tmp_path, monkeypatch):
    monkeypatch.setattr("conceptctl.workflows.generate.prepared.load", None)
    (tmp_path / "file").touch()
    for place in (tmp_path / ("a" * 300), tmp_path / "file" / "x"):
        with pytest.raises((UsageError, OSError)):
            generate(store, Request("a cat"), place)
        with pytest.raises((UsageError, OSError)):
            generate(store, Request("a cat"), tmp_path / "out", grid=place / "g.png")
    assert not (tmp_path / "out").exists()


def test_denoising_steps_of_all_pictures_are_counted(store, tmp_path):
    told = []

    def stage(text):
        return lambda done, total: told.append((text, done, total))

    generate(store, Request("V*alice", count=2, steps=3), tmp_path, device="cpu", progress=stage)
    assert told[0] == ("loading the model", 0, 0)
    assert told[1:] == [("denoising steps", done, 6) for done in range(1, 7)]
    told.clear()
    generate(store, Request("V*alice and V*falls", steps=4), tmp_path, device="cpu", progress=stage)
    counts = [done for text, done, total in told if total]
    assert counts == sorted(counts)
    assert counts[-1] == 4
    assert len(counts) > 8


@pytest.mark.parametrize(("prompt", "negative"), [("\udcff", ""), ("V*alice", "\udcc3")])
def test_text_that_is_no_utf8_is_refused(store, tmp_path, prompt, negative):
    with pytest.raises(UsageError, match="UTF-8"):
        generate(store, Request(prompt, negative=negative), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_may_be_meant_otherwise_is_asked_before_the_model_is_loaded(store, tmp_path, monkeypatch):
    monkeypatch.setattr("conceptctl.workflows.generate.prepared.load", None)
    said = []
    with pytest.raises(TypeError):
        generate(store, Request(r"V\*alice", negative="falls"), tmp_path / "out", warn=said.append)
    assert ["V*alice meant?" in said[0], "V*falls meant?" in said[1]] == [True, True]
    with pytest.raises(TypeError):
        generate(store, Request(" "), tmp_path / "out", warn=said.append)
    assert "empty" in said[2]
    for prompt, negative in (("V*alice\u00e9", ""), ("a cat", "V*alice\u306e")):
        with pytest.raises(NotFound):
            generate(store, Request(prompt, negative=negative), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_drawn_before_a_failure_stays_and_is_named(store, tmp_path, monkeypatch, capsys):
    real, calls = Image.Image.save, []

    def save(picture, *arguments, **options):
        calls.append(picture)
        if len(calls) == 3:
            raise OSError(27, "File too large")
        return real(picture, *arguments, **options)

    monkeypatch.setattr(Image.Image, "save", save)
    out = tmp_path / "out"
    options = ["--store", str(store.layout.root), "-o", str(out), "--steps", "1", "--device", "cpu"]
    assert run(["generate", "a cat", "-n", "4", "--json", *options]) == 7
    said = capsys.readouterr()
    assert json.loads(said.out)["error"]["message"] == "File too large"
    assert f"kept: {out / 'a-cat-0.png'} {out / 'a-cat-1.png'}" in said.err
    assert pixels(out / "a-cat-1.png").shape == (16, 16, 3)


def test_who_names_no_concept_is_told_of_those_that_there_are(store, base_folder, tmp_path, capsys):
    options = ["-o", str(tmp_path / "out"), "--steps", "1", "--device", "cpu", "--store"]
    assert run(["generate", "a cat", *options, str(store.layout.root)]) == 0
    said = capsys.readouterr().err
    assert "there are V*alice, V*falls" in said
    assert f"side by side: {tmp_path / 'out' / 'contact-sheet.png'}" in said
    assert run(["generate", "V*alice", *options, str(store.layout.root)]) == 0
    assert "names no concept" not in capsys.readouterr().err
    synthetic.make_store(tmp_path / "empty", base_folder)
    assert run(["generate", "a cat", *options, str(tmp_path / "empty")]) == 0
    assert "next: conceptctl learn" in capsys.readouterr().err


def test_memory_that_runs_out_is_no_bug(store, tmp_path, monkeypatch, capsys):
    def out_of_memory(*args, **kwargs):
        raise torch.OutOfMemoryError

    monkeypatch.setattr("conceptctl.workflows.model.apply_concepts", out_of_memory)
    options = ["--store", str(store.layout.root), "-o", str(tmp_path / "out"), "--device", "cpu"]
    assert run(["generate", "a cat", *options]) == 9
    assert "out of GPU memory" in capsys.readouterr().err


def test_the_command(store, tmp_path, capsys):
    options = ["--store", str(store.layout.root), "-o", str(tmp_path / "out"), "--steps", "1", "--device", "cpu"]
    assert run(["generate", "V*alice", "-n", "2", "--seed", "4", "--json", *options]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [image["seed"] for image in answer["images"]] == [4, 5]
    assert answer["generation"] == 2
    assert answer["regions"] == []
    assert pixels(answer["contact_sheet"]).shape[1] == 512
    assert "warnings" not in answer
    assert run(["generate", "V*alice " + "a cat " * 40, "--json", *options]) == 0
    assert "too long" in json.loads(capsys.readouterr().out)["warnings"][0]
    assert run(["generate", "V*falls and V*alice", "--json", *options]) == 0
    assert json.loads(capsys.readouterr().out)["regions"] == ["a photo of a V*falls", "a photo of a V*alice"]
    assert run(["generate", "V*falls and V*alice", "--prompt-only", "--json", *options]) == 0
    assert json.loads(capsys.readouterr().out)["regions"] == []
    assert run(["generate", "V*falls and V*alice", *options]) == 0
    assert "'a photo of a V*falls', 'a photo of a V*alice'; --prompt-only" in capsys.readouterr().err
    assert run(["generate", "V*falls", *options]) == 0
    assert "--prompt-only" not in capsys.readouterr().err
    assert run(["generate", "V*alcie", "--json", *options]) == 5
    assert "V*alice" in json.loads(capsys.readouterr().out)["error"]["hint"]


def test_no_steps_at_all_are_refused_and_not_taken_for_the_default(store, tmp_path):
    assert (
        run(["generate", "a cat", "--steps", "0", "--store", str(store.layout.root), "-o", str(tmp_path / "out")]) == 2
    )
    assert not (tmp_path / "out").exists()


def test_it_works_while_something_is_learned(store, tmp_path):
    with Store(store.layout.root).writing("learn"):
        assert len(drawn(store, tmp_path)) == 1
