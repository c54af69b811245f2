"""`learn` says of pictures that they show different things."""

from types import SimpleNamespace

import pytest

from conceptctl.cli.learn_text import ended_text
from conceptctl.config import TrainConfig
from conceptctl.presets import shipped
from conceptctl.store.concept import read_record
from conceptctl.workflows.export import export_concepts
from conceptctl.workflows.import_concept import import_concept
from conceptctl.workflows.learn import coherence, picture_texts
from conceptctl.workflows.learn.estimate import estimate
from conceptctl.workflows.learn.plan import plan
from conceptctl.workflows.learn.request import Watch
from tests import synthetic
from tests.pictures import write_pictures
from tests.small_learn import asked, base_folder, folder, small_pictures, store, teach  # noqa: F401 - fixtures
from tests.tiny_clip import write_tiny_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def drawn(clip):
    """What draws reference samples."""
    return {"reference_samples": 2, "feature_extractor": str(clip)}


def said_of(store, name):  # noqa: F811
    return read_record(store.blob(store.concept(name))).settings


def test_what_different_things_are_like_is_drawn_once_and_told_by_records(store, folder, drawn):  # noqa: F811
    stages, expected = [], []
    watch = Watch(stage=lambda name, count: stages.append(name), expected=expected.append)
    teach(store, folder, watch=watch, **drawn)
    assert stages.count(coherence.DRAWING) == 1
    assert [stage.units for stage in expected[0].stages if stage.name == coherence.DRAWING] == [8]
    teach(store, folder, "bob", watch=watch, **drawn)
    assert stages.count(coherence.DRAWING) == 1
    assert coherence.DRAWING not in [stage.name for stage in expected[1].stages]
    alice, bob = said_of(store, "alice"), said_of(store, "bob")
    assert (alice["coherence"], alice["similarity_of_different"]) == (bob["coherence"], bob["similarity_of_different"])
    assert -5 < alice["coherence"] <= 1 > alice["similarity_of_different"]


def test_another_image_tower_or_way_of_drawing_is_measured_anew(store, folder, drawn, tmp_path):  # noqa: F811
    teach(store, folder, **drawn)
    head = store.head()
    sha = said_of(store, "alice")["feature_extractor"]
    assert coherence.known(store, head) == coherence.known(store, head, sha) is not None
    assert coherence.known(store, head, "0" * 64) is None
    stages = []
    other = {**drawn, "feature_extractor": str(write_tiny_clip(tmp_path / "clip", seed=1))}
    teach(store, folder, "bob", watch=Watch(stage=lambda name, count: stages.append(name)), **other)
    assert coherence.DRAWING in stages


def test_a_run_that_goes_on_does_not_draw_them_again(store, folder, drawn):  # noqa: F811
    def interrupt(report):
        raise KeyboardInterrupt

    train = TrainConfig(steps=8, batch_size=2, rank=4, learning_rate=1e-2)
    with pytest.raises(KeyboardInterrupt):
        teach(store, folder, train=train, watch=Watch(report=interrupt), **drawn)
    stages = []
    record = teach(
        store, folder, train=train, watch=Watch(stage=lambda name, count: stages.append(name)), **drawn
    ).record
    assert any("going on" in name for name in stages)
    assert coherence.DRAWING not in stages
    assert {"coherence", "sample_similarity", coherence.KEPT} <= set(record.settings)


def test_what_somebody_else_measured_tells_nothing_here(store, base_folder, folder, drawn, tmp_path):  # noqa: F811
    teach(store, folder, **drawn)
    export_concepts(store, ["alice"], tmp_path / "alice.safetensors")
    other = synthetic.make_store(tmp_path / "other", base_folder)
    import_concept(other, tmp_path / "alice.safetensors")
    assert "coherence" in said_of(other, "alice")
    assert coherence.KEPT not in said_of(other, "alice")
    assert coherence.known(other, other.head()) is None


def test_one_that_is_replaced_still_tells(store, folder, drawn):  # noqa: F811
    teach(store, folder, **drawn)
    stages, expected = [], []
    watch = Watch(stage=lambda name, count: stages.append(name), expected=expected.append)
    teach(store, folder, watch=watch, replace=True, **drawn)
    assert coherence.DRAWING not in stages
    assert coherence.DRAWING not in [stage.name for stage in expected[0].stages]


@pytest.mark.parametrize("least", [9.0, -9.0])
def test_it_is_said_before_the_training_and_after_it(store, folder, drawn, monkeypatch, least):  # noqa: F811
    monkeypatch.setattr(picture_texts, "LEAST", least)
    heard = []
    watch = Watch(stage=lambda name, count: heard.append(name), warn=heard.append)
    record = teach(store, folder, watch=watch, **drawn).record
    said = picture_texts.differs_text(record.settings["coherence"])
    assert bool(said) == (least > 0)
    # Of pictures that show no one thing nothing is said of how like them samples are.
    assert ("sample_similarity" in record.settings) == (not said)
    assert ended_text(record) == said or "samples " in ended_text(record)
    if said:
        assert "pictures of different things" in said
        assert heard.index(said) < heard.index("learning")


def test_it_is_said_in_words(store, folder, drawn, monkeypatch):  # noqa: F811
    monkeypatch.setattr(picture_texts, "LEAST", -9.0)
    record = teach(store, folder, **drawn).record
    assert picture_texts.samples_text(record.settings["sample_similarity"]) in ended_text(record)
    assert (
        picture_texts.samples_text(0.95)
        == "samples are like its pictures (similarity 0.95; 1 is as alike as these are)"
    )
    assert picture_texts.samples_text(0.7).startswith("samples are partly like")
    assert picture_texts.samples_text(0.3).endswith("more steps may help (--steps)")
    # A training that ended by itself has said what may help.
    assert "help" not in picture_texts.samples_text(0.3, advise=False)


@pytest.mark.parametrize("value", [None, "alike", True, 1, float("nan"), float("inf"), float("-inf"), -1e300])
def test_a_record_of_somebody_elses_says_nothing(value):
    assert picture_texts.differs_text(value) == picture_texts.samples_text(value) == ""


def test_nothing_is_drawn_where_nothing_can_be_said(store, folder, drawn, tmp_path):  # noqa: F811
    few = write_pictures(tmp_path / "few", 2)
    assert plan(store, asked(few, **drawn), device="cpu").compared == 0
    assert plan(store, asked(folder, **drawn), device="cpu").compared == 8
    none = plan(store, asked(folder, reference_samples=0), device="cpu")
    assert none.compared == 0
    assert coherence.DRAWING not in [stage.name for stage in estimate(store, none).stages]
    stages = []
    record = teach(store, folder, watch=Watch(stage=lambda name, count: stages.append(name))).record
    assert coherence.DRAWING not in stages
    assert "coherence" not in record.settings


def test_a_tower_that_knows_drawings_is_not_asked_about_photographs():
    photographs = SimpleNamespace(pictures=range(4), photographic=True)
    assert coherence.pictures_compared(shipped()["sd"], photographs) == coherence.DIFFERENT
    assert coherence.pictures_compared(shipped()["pocket"], photographs) == 0
