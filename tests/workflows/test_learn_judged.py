"""What `learn` judges and says before it does anything that takes long, and what outlives a change of mind."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from conceptctl import presets
from conceptctl.cli.app import run
from conceptctl.config import TrainConfig
from conceptctl.errors import PicturesRefused, StoreDamaged, UsageError
from conceptctl.pocket.world.kinds import KINDS
from conceptctl.store.store import Store
from conceptctl.workflows.init import initialize
from conceptctl.workflows.learn import checkpoint, wording
from conceptctl.workflows.learn.plan import plan
from conceptctl.workflows.learn.request import Request, Watch
from conceptctl.workflows.learn.run import learn
from tests import synthetic
from tests.pictures import write_pictures
from tests.small_presets import shipped_but

TOO_LONG = "very " * 90 + "a photo of {token}"
TRAIN = TrainConfig(steps=14, batch_size=2, rank=4)
SMALL = shipped_but("sd", steps=2, smallest_side=0, auxiliary=9, reference_samples=0)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(presets, "shipped", SMALL)


@pytest.fixture
def store(base_folder, tmp_path):
    return synthetic.make_store(tmp_path / "store", base_folder)


@pytest.fixture
def folder(tmp_path):
    return write_pictures(tmp_path / "photos")


@pytest.fixture(scope="module")
def pocket_store(tmp_path_factory):
    return initialize(tmp_path_factory.mktemp("pocket") / "store", "pocket").store


def asked(folder, name="alice", **changes):
    facts = {"folder": folder, "name": name, "class_word": "cat", "train": TRAIN, "reference_samples": 0}
    return Request(**{**facts, **changes})


class Told:
    """Everything that a run says."""

    def __init__(self, stop=None):
        self.stages, self.warnings, self.steps, self.drawn = [], [], [], 0
        self.stop = stop

    def watch(self):
        return Watch(stage=self.stage, advance=self.advance, report=self.report, warn=self.warnings.append)

    def stage(self, what, total):
        self.stages.append(what)

    def advance(self, done):
        if "to learn beside" in self.stages[-1]:
            self.drawn += done
            if self.stop == "drawing" and self.drawn:
                raise KeyboardInterrupt

    def report(self, report):
        self.steps.append(report.step)
        if self.stop == "learning":
            raise KeyboardInterrupt


def teach(store, folder, name="alice", stop=None, **changes):
    told = Told(stop)
    try:
        learn(store, asked(folder, name, **changes), device="cpu", watch=told.watch())
    except KeyboardInterrupt:
        assert stop
    else:
        assert stop is None
    return told


def planned(store, folder, name="alice", **changes):
    told = Told()
    return plan(store, asked(folder, name, **changes), device="cpu", watch=told.watch()), told.warnings


# Captions that the text encoder does not see the concept in.


@pytest.mark.parametrize("more", [["--dry-run"], []])
def test_captions_that_are_cut_off_are_refused_by_name_with_all_other_files(store, folder, capsys, more):
    for name in ("0.txt", "1.txt"):
        (folder / name).write_text(TOO_LONG)
    (folder / "2.txt").write_text("no place")
    (folder / "empty.png").write_bytes(b"")
    command = ["learn", str(folder), "--token", "alice", "--class", "cat", "--store", str(store.layout.root)]
    assert run([*command, "--device", "cpu", *more]) == 3
    said = capsys.readouterr().err
    assert "4 of 5 files" in said
    for name in ("0.txt: too long", "1.txt: too long", "2.txt: has no", "empty.png: an empty file"):
        assert name in said
    assert "drawing" not in said
    assert list(store.layout.jobs.iterdir()) == []
    assert store.head().seq == 0


def test_a_picture_is_skipped_with_a_caption_that_is_cut_off(store, folder):
    for name in ("0.txt", "1.txt"):
        (folder / name).write_text(TOO_LONG)
    found, _ = planned(store, folder, skip_bad=True)
    assert (found.pictures, len(found.skipped)) == (2, 2)
    assert found.prompts == ("a photo of a V*alice",)


def test_what_is_not_seen_of_a_caption_is_said_of_it(store, folder):
    (folder / "0.txt").write_text("a photo of {token} " + "and a red hat " * 12)
    notes = planned(store, folder)[0].notes
    (note,) = [note for note in notes if "too long" in note]
    assert note.startswith("0.png: its caption is too long for this base, which does not see 'red hat and a")


def test_what_a_caption_says_of_other_concepts_is_counted_as_they_are_tokens(store, folder, tmp_path):
    teach(store, folder, "bobby_with_a_long_name", auxiliary=0)
    (folder / "0.txt").write_text("V*bobby_with_a_long_name " * 20 + "and {token}")
    assert len(planned(store, folder)[0].prompts) == 2
    (folder / "0.txt").write_text("V*bobby_with_a_long_name " * 30 + "and {token}")
    with pytest.raises(PicturesRefused, match=r"0\.txt: too long"):
        planned(store, folder)


def test_a_first_learn_makes_no_store_for_captions_that_are_cut_off(tmp_path, monkeypatch, capsys):
    root = tmp_path / "data"
    monkeypatch.setattr("conceptctl.store.layout.default_root", lambda: root)
    monkeypatch.delenv("CONCEPTCTL_STORE", raising=False)
    folder = write_pictures(tmp_path / "photos", side=64)
    (folder / "0.txt").write_text(TOO_LONG)
    assert run(["learn", str(folder), "--token", "alice", "--class", "cat"]) == 3
    assert "0.txt: too long" in capsys.readouterr().err
    assert not root.exists()


def test_a_damaged_concept_is_said_before_anything_is_drawn(store, folder):
    teach(store, folder, "bob", auxiliary=0)
    path = store.blob(store.concept("bob"))
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    told = Told()
    with pytest.raises(StoreDamaged, match="bob"):
        learn(store, asked(folder), device="cpu", watch=told.watch())
    assert told.drawn == 0


# What outlives a change of mind.


@pytest.mark.parametrize(
    ("stop", "change"),
    [
        ("learning", {}),
        ("learning", {"name": "bob", "flip": True}),
        ("drawing", {}),
        ("drawing", {"train": dataclasses.replace(TRAIN, steps=11)}),
    ],
)
def test_class_pictures_outlive_what_they_do_not_depend_on(store, folder, monkeypatch, stop, change):
    monkeypatch.setattr("conceptctl.workflows.learn.auxiliary.SAVE_SECONDS", 0.0)
    whole = teach(store, folder, stop=stop)
    assert whole.drawn == (9 if stop == "learning" else 8)
    if not change:
        (folder / "0.txt").write_text("{token} on a beach")
    told = teach(store, folder, **change)
    # What is taken over counts as done of the stage, which is not there at all where nothing is left to draw.
    assert told.drawn == (0 if stop == "learning" else 9)
    assert len(told.stages) == len(set(told.stages))
    assert [each.kind for each in store.head().attachments] == ["auxiliary latents"]


def test_class_pictures_of_another_kind_are_drawn(store, folder):
    teach(store, folder, stop="learning")
    assert teach(store, folder, class_word="dog").drawn == 9


def test_class_pictures_that_were_taken_over_are_those_that_would_be_drawn(base_folder, store, folder, tmp_path):
    other = synthetic.make_store(tmp_path / "other", base_folder)
    teach(store, folder, stop="drawing")
    (folder / "0.txt").write_text("{token} on a beach")
    # Interrupted once more, before anything was saved.
    teach(store, folder, stop="drawing")
    for each in (store, other):
        teach(each, folder)
    assert store.head().attachments == other.head().attachments


# Interrupted runs.


def test_a_plan_says_from_which_step_a_run_goes_on(store, folder):
    assert planned(store, folder)[0].resumes is None
    teach(store, folder, stop="learning")
    found, warnings = planned(store, folder)
    assert (found.resumes, found.notes[0]) == (10, "goes on with an interrupted run, from step 10")
    assert not any("interrupted" in text for text in warnings)
    assert teach(store, folder).steps == [14]
    assert list(store.layout.jobs.iterdir()) == []


OTHERWISE = [
    ({"train": dataclasses.replace(TRAIN, steps=20)}, "steps 14, now 20", "--steps 14"),
    ({"train": dataclasses.replace(TRAIN, learning_rate=1e-3)}, "learning rate 0.0005, now 0.001",
     "--learning-rate 0.0005"),
    ({"train": dataclasses.replace(TRAIN, method="lora")}, "method stamina, now lora", "--method stamina"),
    ({"train": dataclasses.replace(TRAIN, seed=3)}, "seed 0, now 3", "--seed 0"),
    ({"settings": {"temperature": 0.25}}, "temperature 0.5, now 0.25", "--set temperature=0.5"),
    ({"class_word": "big dog"}, "class cat, now big dog", "--class cat"),
    ({"class_word": "dog", "flip": True}, "class cat, now dog; flip no, now yes", "--class cat no --flip"),
    ({"auxiliary": 0}, "auxiliary 9, now 0", "--aux 9"),
]  # fmt: skip


def test_what_was_begun_otherwise_is_said_with_the_way_back(store, folder):
    teach(store, folder, stop="learning")
    for change, said, again in OTHERWISE:
        found, (text,) = planned(store, folder, **change)
        assert found.resumes is None
        assert text == (
            f"an interrupted run of V*alice, at step 10, was begun with other settings ({said}): this one begins anew. "
            f"That one is kept until V*alice is learned; to go on with it: the same command with {again}"
        )
    # The run says the same, and leaves the other until it is through.
    assert text in teach(store, folder, stop="learning", **change).warnings
    assert planned(store, folder)[0].resumes == 10
    teach(store, folder, **change)
    assert list(store.layout.jobs.iterdir()) == []


def test_other_pictures_or_captions_leave_the_run_that_was_interrupted(store, folder):
    teach(store, folder, stop="learning")
    (folder / "0.txt").write_text("{token} on a beach")
    (text,) = planned(store, folder)[1]
    assert text == (
        "an interrupted run of V*alice, at step 10, was begun with other pictures or captions: this one begins anew. "
        "That one is kept until V*alice is learned; to go on with it: the same command, over the pictures and captions "
        "as they were"
    )
    assert teach(store, folder, stop="learning").warnings.count(text) == 1
    (folder / "0.txt").unlink()
    assert planned(store, folder)[0].resumes == 10
    assert teach(store, folder).steps == [14]
    assert list(store.layout.jobs.iterdir()) == []


GONE = ". That one cannot go on, and is removed when V*alice is learned"


def test_what_no_option_gives_back_is_not_offered(store, folder, monkeypatch):
    teach(store, folder, stop="learning")
    with monkeypatch.context() as patched:
        patched.setattr("conceptctl.__version__", "99.0")
        (text,) = planned(store, folder)[1]
    assert text.endswith("was begun by another version of this program: this one begins anew" + GONE)
    teach(store, folder, "bob", auxiliary=0)
    (text,) = planned(store, folder)[1]
    assert text.endswith("was begun on other concepts: this one begins anew" + GONE)


@pytest.mark.parametrize("change", [{}, {"train": dataclasses.replace(TRAIN, method="lora")}])
@pytest.mark.parametrize("spoil", [lambda config: config.pop("mask_start"), lambda config: config.update(damping=1.0)])
def test_settings_that_a_method_has_no_more_are_not_offered(store, folder, change, spoil):
    """An earlier version began it, whose command line could say them."""
    teach(store, folder, stop="learning")
    (path,) = store.layout.jobs.glob("*/job.json")
    value = json.loads(path.read_text())
    spoil(value["settings"]["config"])
    path.write_text(json.dumps(value))
    (text,) = planned(store, folder, **change)[1]
    assert "with settings that its method does not have" in text
    assert text.endswith(GONE)
    teach(store, folder, **change)
    assert list(store.layout.jobs.iterdir()) == []


def test_a_plan_of_described_pictures_finds_its_run_without_a_clip_model(store, folder):
    settings = {"name": "alice", "class": "cat", "method": "m", "config": {}, "auxiliary": 0}
    assert checkpoint._differing({**settings, "described_by": "abc"}, {**settings, "described_by": None}) == {}
    assert checkpoint._differing(settings, {**settings, "described_by": None}) == {}
    assert checkpoint._differing({**settings, "described_by": "abc"}, {**settings, "described_by": "def"}) != {}


# Pictures that are few, or photographs.


@pytest.mark.parametrize(("count", "said"), [(1, "only one picture"), (2, "only 2 different pictures"), (3, "")])
def test_few_pictures_are_learned_from_with_a_warning(store, tmp_path, count, said):
    folder = write_pictures(tmp_path / "few", count)
    found, warnings = planned(store, folder)
    assert found.pictures == count
    assert [text for text in warnings if "only" in text] == [
        text for text in warnings if said and text.startswith(said)
    ]
    assert bool(said) == any("only" in text for text in warnings)
    if count == 1:
        assert any("only one picture" in text for text in teach(store, folder, auxiliary=0).warnings)
        assert store.concept("alice")


def grainy(folder, count=4, side=320):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        grain = rng.normal(0, 6, (side, side, 3)) + 40 * index + np.linspace(0, 120, side)[:, None]
        Image.fromarray(grain.clip(0, 255).astype(np.uint8)).save(folder / f"{index}.png")
    return folder


def test_photographs_are_not_described_on_a_base_of_drawings(pocket_store, tmp_path):
    found, warnings = planned(pocket_store, grainy(tmp_path / "photos"), class_word="person")
    assert any("look like photographs" in text for text in warnings)
    assert "photographs are not described: what this base's CLIP knows are drawings" in found.notes
    assert not any("by what CLIP sees" in note for note in found.notes)
    drawings = write_pictures(tmp_path / "drawings", side=64)
    assert any("by what CLIP sees" in note for note in planned(pocket_store, drawings, class_word="person")[0].notes)


def test_photographs_are_described_where_a_base_draws_them_and_it_is_asked_for(store, tmp_path):
    found, _ = planned(store, grainy(tmp_path / "photos"), settings={"prompts": "described"})
    assert any("described" in note for note in found.notes)


# Names and classes.


@pytest.mark.parametrize("name", ["V*alice", "v*alice", r"V\*alice", "V＊alice", "V* alice", "alice"])
def test_a_name_as_prompts_have_it(folder, name):
    assert asked(folder, name).name == "alice"


def test_the_command_takes_a_name_as_prompts_have_it(store, folder, capsys):
    command = ["learn", str(folder), "--token", "V*alice", "--dry-run", "--json", "--store", str(store.layout.root)]
    assert run(command) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["name"] == "alice"


@pytest.mark.parametrize("name", ["V*", "V*V*alice", "alice V*", "V*Alice"])
def test_what_is_no_name_stays_none(store, folder, name):
    with pytest.raises(UsageError):
        planned(store, folder, name)


def test_a_missing_class_is_said(store, folder):
    assert "no class word (--class person)" in planned(store, folder, class_word="")[1][0]
    assert not any("class" in text for text in planned(store, folder)[1])


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("zebra", "this base draws person, waterfall, mug, teapot, backpack, cat, dog and duck, and cannot know what a "
         "zebra is"),
        ("persn", "a persn is; did you mean person?"),
        ("dog house", "cannot know what a dog house is"),
        ("beach", "cannot know what a beach is"),
        ("person", ""),
        ("Dog", ""),
        ("brown dog", ""),
    ],
)  # fmt: skip
def test_a_class_that_the_bundled_base_cannot_know_is_said(pocket_store, tmp_path, word, said):
    head = pocket_store.head()
    takes = presets.preset_of(head.base).learn
    assert takes.classes == tuple(KINDS)
    warnings = wording.on_class(asked(tmp_path, class_word=word), takes, wording.tokenizer_of(pocket_store, head))
    assert [text.endswith(said) for text in warnings] == ([True] if said else [])


@pytest.mark.parametrize(("word", "spelled"), [("cat", False), ("xqzzy", True), ("猫", True), ("brown xqzzy", False)])
def test_a_class_that_another_base_spells_out_is_said(store, folder, word, spelled):
    tokenizer = wording.tokenizer_of(store, store.head())
    said = wording.on_class(asked(folder, class_word=word), presets.preset_of(store.head().base).learn, tokenizer)
    assert [text.startswith("this base has no word for") for text in said] == [True] * spelled


@pytest.mark.parametrize("word", ["x" * 65, "\x1b[31mcat", "cat\x07", "a\u202ecat", "cat " * 5000, "cat\u200b"])
def test_a_class_that_is_none_is_refused_in_a_short_line(store, folder, word):
    with pytest.raises(UsageError) as caught:
        planned(store, folder, class_word=word)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 120
    assert Store(store.layout.root).head().seq == 0
