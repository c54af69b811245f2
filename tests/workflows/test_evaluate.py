"""`eval`: what is measured, what is kept of it, and what happens when something is missing."""

import dataclasses
import errno
import json
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conceptctl import presets
from conceptctl.cli.app import run
from conceptctl.config import Drawing
from conceptctl.errors import AlreadyExists, Busy, DeviceFailed, NotFound, PicturesRefused, UsageError
from conceptctl.metrics.features import load_extractor
from conceptctl.metrics.mmd import mmd
from conceptctl.store import base, manifest, tensorfile
from conceptctl.store.concept import METADATA_KEY
from conceptctl.store.repair import repair
from conceptctl.store.store import Store
from conceptctl.workflows import reference_samples
from conceptctl.workflows.evaluate import history
from conceptctl.workflows.evaluate.evaluation import Request, Watch
from conceptctl.workflows.evaluate.heldout import learned_from, read_pictures
from conceptctl.workflows.evaluate.report import comparable, make_report
from conceptctl.workflows.evaluate.run import evaluate
from conceptctl.workflows.fold import fold
from conceptctl.workflows.forget import forget, plan_forget
from conceptctl.workflows.undo import plan_undo, undo
from tests import evaluated, synthetic
from tests.evaluated import RECIPE, REFERENCE_SAMPLES, learn, settings_of, write_heldout
from tests.small_presets import shipped_but
from tests.tiny_clip import PROJECTION, write_tiny_clip
from tests.tiny_pipeline import key_value_shapes

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return write_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def extractor(clip_folder):
    return load_extractor(clip_folder, "local folder", CPU)


@pytest.fixture(scope="module")
def shapes(base_folder):
    return key_value_shapes(base_folder)


@pytest.fixture
def empty(base_folder, tmp_path):
    return synthetic.make_store(tmp_path / "store", base_folder)


@pytest.fixture
def alone(empty, shapes, extractor):
    """A store in which nothing was learned after alice."""
    learn(empty, "alice", 1, shapes, extractor)
    return empty


@pytest.fixture
def store(alone, shapes, extractor):
    learn(alone, "falls", 2, shapes, extractor)
    return alone


@pytest.fixture
def heldout(tmp_path):
    return write_heldout(write_heldout(tmp_path / "heldout", "alice"), "falls", inner="heldout")


@pytest.fixture
def measure(clip_folder):
    def measure_it(store, folder, watch=None, **options):
        request = Request(folder, feature_extractor=str(clip_folder), **options)
        return evaluate(store, request, device="cpu", watch=watch)

    return measure_it


def figures(found):
    return {each.name: each.kept.figures for each in found.measured}


def test_nothing_is_forgotten_when_nothing_came_after(alone, heldout, measure):
    (alice,) = measure(alone, heldout).measured
    assert alice.kept.after_learning == "reference samples"
    assert alice.kept.figures["F_mmd"] == 0
    assert alice.kept.figures["BwT_mmd"] == 0
    assert alice.kept.figures["A_mmd"] == alice.kept.figures["P_mmd"] > 0


def test_what_another_concept_changes_is_seen_as_forgetting(store, heldout, measure):
    found = measure(store, heldout)
    one, last = found.measured
    assert (one.name, last.name) == ("alice", "falls")
    assert one.kept.figures["F_mmd"] > 0
    assert one.kept.figures["A_mmd"] != one.kept.figures["P_mmd"]
    assert last.kept.figures["F_mmd"] == 0
    assert (one.kept.last, last.kept.last) == (False, True)
    # F and BwT are of those that something came after, A and P of all.
    assert found.averages["F_mmd"] == one.kept.figures["F_mmd"]
    assert found.averages["BwT_mmd"] == one.kept.figures["BwT_mmd"]
    assert found.averages["A_mmd"] == pytest.approx((one.kept.figures["A_mmd"] + last.kept.figures["A_mmd"]) / 2)
    assert found.rbf["F_mmd"] == one.kept.rbf["F_mmd"] > 0


def test_a_concept_that_changes_no_weight_makes_nothing_forgotten(alone, shapes, extractor, heldout, measure):
    learn(alone, "falls", 2, shapes, extractor, scale=0.0)
    assert figures(measure(alone, heldout))["alice"]["F_mmd"] == 0


def test_folding_changes_no_figure_and_undoing_brings_them_back(store, heldout, measure):
    before = figures(measure(store, heldout))
    folded = fold(store).head
    assert figures(measure(store, heldout)) == before
    forget(store, plan_forget(store, "falls"))
    assert figures(measure(store, heldout)) != before
    undo(store, plan_undo(store, to=folded.seq))
    assert figures(measure(store, heldout)) == before


def test_a_concept_whose_other_is_forgotten_is_measured_with_the_weights_that_it_goes_on_with(
    store, heldout, measure, monkeypatch
):
    """It is not what it was just after learning, unless the weights are: it is held to what it draws now."""
    before = store.head().seq
    forget(store, plan_forget(store, "falls"))
    found = measure(store, heldout)
    assert figures(found)["alice"]["F_mmd"] > 0
    assert found.averages["F_mmd"] is None
    undo(store, plan_undo(store, to=before))
    monkeypatch.setattr("conceptctl.workflows.forget.hold_others", synthetic.hold_others)
    forget(store, plan_forget(store, "falls"))
    found = measure(store, heldout)
    assert figures(found)["alice"]["F_mmd"] == 0
    assert found.averages["F_mmd"] is None


def test_the_figures_are_those_of_the_pictures(store, heldout, measure, extractor):
    """The way from pictures to figures once more, by hand."""
    from conceptctl.workflows.drawing import draw_set
    from conceptctl.workflows.model import load

    found = measure(store, heldout)
    backbone = load(store, store.head(), "cpu")
    sample = backbone.sampler("a photo of a V*alice", Drawing(evaluated.STEPS, evaluated.GUIDANCE))
    present = extractor.images(list(draw_set(sample, REFERENCE_SAMPLES)))
    real = extractor.images(read_pictures(store, store.head(), {"alice": heldout / "alice"}).pictures["alice"])
    alice = found.measured[0].kept
    assert alice.figures["A_mmd"] == pytest.approx(mmd(real, present), rel=1e-6)
    assert alice.figures["clip_t2i"] == pytest.approx(
        float((present @ extractor.texts(["a photo of a person"]).T).mean()), abs=1e-5
    )
    assert alice.kernel == {"degree": 2, "gamma": 1 / PROJECTION, "offset": 1.0, "unit_norm": True, "biased": True}
    assert alice.extractor == {"name": "local folder", "sha256": extractor.sha256}
    assert (alice.drawn, alice.heldout) == (REFERENCE_SAMPLES, 4)


def test_without_features_the_past_is_drawn_again_and_is_the_same(empty, shapes, extractor, heldout, measure):
    learn(empty, "alice", 1, shapes)
    learn(empty, "falls", 2, shapes)
    again = measure(empty, heldout, count=REFERENCE_SAMPLES)
    assert {each.kept.after_learning for each in again.measured} == {"redrawn"}
    assert again.measured[1].kept.figures["F_mmd"] == 0
    assert again.measured[0].kept.figures["F_mmd"] > 0


def test_reference_samples_and_redrawn_pictures_give_equal_figures(store, heldout, measure, monkeypatch):
    kept = figures(measure(store, heldout))
    monkeypatch.setattr(reference_samples, "reference_features", lambda *_: None)
    again = measure(store, heldout, count=REFERENCE_SAMPLES)
    assert {each.kept.after_learning for each in again.measured} == {"redrawn"}
    assert figures(again) == kept


def test_the_reference_samples_of_learn_are_what_eval_draws_again(empty, heldout, measure, clip_folder, monkeypatch):
    from conceptctl.config import TrainConfig
    from conceptctl.workflows.learn import request as learning
    from conceptctl.workflows.learn.run import learn as learn_it

    monkeypatch.setattr(presets, "shipped", shipped_but("sd", steps=2))
    request = learning.Request(
        heldout / "alice",
        "alice",
        "person",
        train=TrainConfig(steps=3, batch_size=2),
        auxiliary=0,
        reference_samples=3,
        feature_extractor=str(clip_folder),
    )
    learn_it(empty, request, device="cpu")
    (alice,) = measure(empty, heldout).measured
    assert (alice.kept.after_learning, alice.kept.drawn, alice.kept.steps) == ("reference samples", 3, 2)
    assert alice.kept.figures["F_mmd"] == 0
    assert alice.parameters.trained_in_all > 0


def test_features_of_another_extractor_are_not_compared(store, heldout, tmp_path, extractor):
    other = write_tiny_clip(tmp_path / "other", seed=7)
    found = evaluate(store, Request(heldout, count=4, feature_extractor=str(other)), device="cpu")
    assert {each.kept.after_learning for each in found.measured} == {"redrawn"}
    assert found.measured[0].kept.extractor["sha256"] != extractor.sha256


def test_more_pictures_than_there_are_reference_samples_are_drawn_on_both_sides(store, heldout, measure):
    few, many = measure(store, heldout, count=3), measure(store, heldout, count=REFERENCE_SAMPLES + 2)
    assert {each.kept.after_learning for each in few.measured} == {"reference samples"}
    assert {each.kept.after_learning for each in many.measured} == {"redrawn"}
    assert {each.kept.drawn for each in many.measured} == {REFERENCE_SAMPLES + 2}
    assert few.measured[1].kept.figures["F_mmd"] == many.measured[1].kept.figures["F_mmd"] == 0


def test_a_lost_manifest_leaves_out_forgetting_and_nothing_else(store, heldout, measure, monkeypatch):
    monkeypatch.setattr(reference_samples, "reference_features", lambda *_: None)
    monkeypatch.setattr(reference_samples, "introduced_in", lambda _: {store.head().concepts[1].uid: 2})
    said = []
    found = measure(store, heldout, count=4, watch=Watch(warn=said.append))
    assert found.measured[0].kept.figures["F_mmd"] is None
    assert found.measured[0].kept.figures["A_mmd"] > 0
    assert any("alice" in text and "forgetting" in text for text in said)


def test_every_run_is_kept_as_one_generation(store, heldout, measure):
    before = store.head().seq
    first = measure(store, heldout)
    second = measure(store, heldout, count=3)
    assert (first.committed, second.committed) == (before + 1, before + 2)
    assert [(row.verb, row.subject) for row in store.log()[-2:]] == [("eval", "alice falls")] * 2
    kept = history.read_all(store.layout, store.head())
    assert [each for _, each in kept] == [each.kept for found in (first, second) for each in found.measured]
    assert len({each.run for _, each in kept}) == 2
    alice = store.concept("alice").uid
    assert [uid for uid, _ in history.read_all(store.layout, store.head(), alice)] == [alice] * 2
    undo(store, plan_undo(store))
    assert len(history.read_all(store.layout, store.head())) == 2


@pytest.mark.parametrize(
    ("then", "source"), [("remembered", "reference samples"), ("redrawn", "redrawn"), ("", "")]
)  # fmt: skip
def test_an_evaluation_of_an_earlier_version_is_read(store, heldout, measure, then, source, capsys, tmp_path):
    alice = measure(store, heldout).measured[0]
    undo(store, plan_undo(store))
    entry = dataclasses.asdict(alice.kept)
    assert entry.pop("after_learning") == "reference samples"
    assert entry.pop("verdict")["text"]
    for name in ("closeness", "closeness_learned", "nearest_heldout", "nearest_class"):
        del entry["figures"][name]
    entry["then"] = then
    with store.writing("eval") as writer:
        blob = writer.add_tensors({}, {METADATA_KEY: manifest.canonical({"evaluation": entry}).decode()})
        attached = manifest.Attachment("evaluation", alice.uid, blob)
        writer.commit(writer.head.after(manifest.Action("eval", ("alice",)), attachments=(attached,)))
    said = []
    found = history.read_all(store.layout, store.head(), warn=said.append)
    earlier = dataclasses.replace(alice.kept, after_learning=source, verdict={}, figures=entry["figures"])
    assert found == [(alice.uid, earlier)]
    assert said == []
    root = str(store.layout.root)
    assert run(["show", "alice", "--store", root, "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)["evaluations"]
    assert shown["A_mmd"] == alice.kept.figures["A_mmd"]
    # It stands beside those of now, in the report too.
    again = measure(store, heldout, report=tmp_path / "report.html")
    assert [each for _, each in history.read_all(store.layout, store.head(), alice.uid)] == [
        found[0][1],
        again.measured[0].kept,
    ]
    runs = comparable(again, history.read_all(store.layout, store.head()))
    assert list(runs) == [alice.kept.generation, again.head.seq]


def test_since_when_a_concept_drifts_is_found_in_earlier_runs(alone, shapes, extractor, heldout, measure, monkeypatch):
    for module in ("run", "verdict"):
        monkeypatch.setattr(f"conceptctl.workflows.evaluate.{module}.is_kept", lambda kept: kept.figures["F_mmd"] == 0)
    since = []
    for seed, name in enumerate(("falls", "tom"), 2):
        since.append(measure(alone, heldout, count=4).measured[0].kept.verdict["since"])
        learn(alone, name, seed, shapes, extractor)
    since += [measure(alone, heldout, count=count).measured[0].kept.verdict["since"] for count in (4, 3)]
    # Of three pictures there is no earlier run, so that it is only known now.
    assert since == [None, 2, 2, 3]


def test_what_was_measured_otherwise_is_joined_by_no_curve(store, heldout, measure, tmp_path):
    measure(store, heldout, count=3)
    same = measure(store, heldout, count=4)
    write_heldout(heldout, "alice", count=5)
    now = measure(store, heldout, count=4)
    assert not now.alike
    alice, falls = (each.uid for each in now.measured)
    runs = comparable(now, history.read_all(store.layout, store.head()))
    # Falls was measured like this once before; alice with one held-out picture less.
    assert {seq: set(run) for seq, run in runs.items()} == {
        same.head.seq: {falls},
        now.head.seq: {alice, falls},
    }
    report = make_report(now, history.read_all(store.layout, store.head()))
    quality = next(chart for chart in report.charts if chart.title == "Quality")
    assert {series.label: len(series.points) for series in quality.series} == {"alice": 1, "falls": 2}
    assert all(table.caption != "Averages over concepts" for table in report.tables)
    assert any("different numbers of pictures" in note for note in report.notes)


def test_pictures_that_were_learned_from_are_warned_of_where_it_can_be_known(store, heldout, tmp_path, measure):
    said = []
    lesson = write_heldout(tmp_path / "data/alice", "train") / "train"
    measure(store, None, images={"alice": lesson}, watch=Watch(warn=said.append))
    assert any("alice" in text and "learned from measures nothing" in text for text in said)
    held = write_heldout(tmp_path / "data/alice", "heldout") / "heldout"
    assert learned_from(held) == ""
    (held / "copy.png").write_bytes(next(lesson.iterdir()).read_bytes())
    assert "1 of 5 held-out pictures, copy.png among them" in learned_from(held)
    assert learned_from(heldout / "alice") == ""


def test_a_damaged_evaluation_stops_nothing(store, heldout, measure):
    measure(store, heldout)
    path = store.layout.blob(store.head().attachments[0].blob.sha256)
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    said = []
    assert len(history.read_all(store.layout, store.head(), warn=said.append)) == 1
    assert "evaluation" in said[0]
    # Neither does one that the recommended repair took away.
    assert any("evaluation" in line for line in repair(store.layout))
    assert not path.exists()
    assert fold(store).head.seq == store.head().seq
    measure(store, heldout)
    assert len(history.read_all(store.layout, store.head())) == 3


def test_a_purge_takes_the_evaluations_with_it(store, heldout, measure):
    found = measure(store, heldout)
    alice = found.measured[0]
    blob = next(each.blob for each in store.head().attachments if each.concept == alice.uid)
    assert store.layout.blob(blob.sha256).is_file()
    forget(store, plan_forget(store, "alice", purge_it=True))
    assert not store.layout.blob(blob.sha256).exists()
    assert [uid for uid, _ in history.read_all(store.layout, store.head())] == [found.measured[1].uid]
    for path in store.layout.root.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert b"alice" not in data, path
            assert alice.uid.encode() not in data, path
            assert str(alice.kept.figures["A_mmd"]).encode() not in data, path


def test_no_name_stands_in_what_is_kept(store, heldout, measure):
    measure(store, heldout)
    for attachment in store.head().attachments:
        data = store.layout.blob(attachment.blob.sha256).read_bytes()
        assert b"alice" not in data
        assert b"falls" not in data
        assert attachment.concept.encode() not in data


def test_concepts_without_pictures_are_named_and_left_out(store, tmp_path, measure):
    folder = write_heldout(tmp_path / "some", "alice")
    write_heldout(folder, "bob")
    said = []
    found = measure(store, folder, watch=Watch(warn=said.append))
    assert [each.name for each in found.measured] == ["alice"]
    assert found.left_out == ("falls",)
    assert any("left out" in text and "falls" in text for text in said)
    assert any("no concept" in text and "bob" in text for text in said)
    # Something was learned after alice, whether or not it is measured.
    assert found.averages["F_mmd"] > 0


def test_a_folder_named_for_a_concept_wins(store, heldout, tmp_path, measure):
    other = write_heldout(tmp_path / "elsewhere", "pictures", count=7) / "pictures"
    found = measure(store, heldout, images={"falls": other})
    assert [each.kept.heldout for each in found.measured] == [4, 7]
    only = measure(store, None, images={"falls": other})
    assert [each.name for each in only.measured] == ["falls"]


def _denied():
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def test_where_nothing_fits_the_step_that_helps_is_named(store, empty, heldout, tmp_path, measure, monkeypatch):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(PicturesRefused, match="no concept has") as caught:
        measure(store, tmp_path / "nothing")
    assert "alice/*.png" in caught.value.hint
    with pytest.raises(PicturesRefused, match="no folder"):
        measure(store, tmp_path / "none")
    with pytest.raises(PicturesRefused, match="no folder"):
        measure(store, None, images={"alice": tmp_path / "none"})
    (tmp_path / "file").touch()
    with pytest.raises(PicturesRefused, match="not a folder"):
        measure(store, tmp_path / "file")
    listed = Path.iterdir
    with monkeypatch.context() as patched, pytest.raises(PicturesRefused, match="cannot be read: Permission denied"):
        patched.setattr(Path, "iterdir", lambda path: _denied() if path == heldout else listed(path))
        measure(store, heldout)
    with pytest.raises(NotFound, match="carol"):
        measure(store, None, images={"carol": tmp_path})
    with pytest.raises(UsageError, match="at least 2"):
        measure(store, tmp_path, count=1)


def test_a_store_without_concepts(empty, heldout, measure):
    with pytest.raises(NotFound, match="no concepts"):
        measure(empty, heldout)


def test_pictures_are_refused_as_learn_refuses_them_all_at_once(store, heldout, measure):
    (heldout / "alice/notes.html").write_text("<html>")
    Image.new("RGB", (300, 300), "red").save(heldout / "falls/heldout/plain.png")
    with pytest.raises(PicturesRefused) as caught:
        measure(store, heldout)
    assert "notes.html" in str(caught.value)
    assert "plain.png" in str(caught.value)
    said = []
    found = measure(store, heldout, skip_bad=True, watch=Watch(warn=said.append))
    assert [each.kept.heldout for each in found.measured] == [4, 4]
    assert any("notes.html" in text for text in said)


def test_texts_beside_held_out_pictures_are_passed_over(store, heldout, measure):
    picture = next((heldout / "alice").glob("*.png"))
    picture.with_suffix(".txt").write_text("{token} next to V*nobody")
    (heldout / "falls/heldout/link.png").symlink_to(picture)
    with pytest.raises(PicturesRefused, match="link"):
        measure(store, heldout)
    found = measure(store, heldout, follow_symlinks=True)
    assert [each.kept.heldout for each in found.measured] == [4, 5]


def test_memory_that_runs_out_is_no_bug(store, heldout, measure, monkeypatch):
    def out_of_memory(*args, **kwargs):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("conceptctl.workflows.model.apply_concepts", out_of_memory)
    with pytest.raises(DeviceFailed, match="out of memory"):
        measure(store, heldout)


def test_one_picture_is_too_few(alone, tmp_path, measure):
    with pytest.raises(PicturesRefused, match="at least 2"):
        measure(alone, write_heldout(tmp_path / "one", "alice", count=1))


def test_a_store_that_somebody_changes(store, heldout, measure):
    began = time.monotonic()
    with Store(store.layout.root).writing("learn"), pytest.raises(Busy):
        measure(store, heldout)
    assert time.monotonic() - began < 60
    assert store.head().seq == 2


def test_what_changes_meanwhile_is_respected(store, heldout, measure):
    """Somebody forgets alice while pictures are drawn."""
    done = []

    def change(_):
        if not done:
            done.append(True)
            forget(store, plan_forget(store, "alice"))

    found = measure(
        store, heldout, watch=Watch(stage=lambda what, _: change(what) if what.startswith("drawing V*") else None)
    )
    assert [each.name for each in found.measured] == ["alice", "falls"]
    assert store.log()[-1].subject == "falls"
    assert len(store.head().attachments) == 1
    assert found.head.seq == 2
    assert found.committed == 4


@pytest.mark.parametrize("said", ["reference", "remembered"])
@pytest.mark.parametrize(
    "changed",
    [
        {"prompt": "V*{} and v*bob"},
        {"prompt": "V*{} \ud800"},
        {"prompt": "V*{}" + 1000 * " cat"},
        {"prompt": "V*{} and V*bob"},
        {"prompt": "a photo of a V*{}ice"},
        {"prompt": "a photo of a V*{}-2"},
        {"prompt": "a photo of a xV*{}"},
        {"steps": 10**9},
        {"steps": True},
        {"prompt": "no concept"},
        {"guidance": float("nan")},
        {"prompt": None, "steps": None, "guidance": None},
    ],
)
def test_a_record_of_somebody_elses_is_not_believed_everything(empty, said, changed):
    recipe = {"prompt": "a photo of a V*{}", "steps": 2, "guidance": 3.0, **changed}
    settings = settings_of({name: value for name, value in recipe.items() if value is not None}, said)
    found = reference_samples.recipe_of(synthetic.record(empty, "x", settings=settings), empty.head().base)
    assert (found.prompt, found.recorded) == ("a photo of a V*{}", False)


@pytest.mark.parametrize("said", ["reference", "remembered"])
def test_a_prompt_of_a_record_is_no_format_to_fill_in(empty, said):
    settings = settings_of({**RECIPE, "prompt": "{0.__class__} V*{}"}, said)
    found = reference_samples.recipe_of(synthetic.record(empty, "x", settings=settings), empty.head().base)
    assert found.prompt_for("x") == "{0.__class__} V*x"
    assert (found.steps, found.guidance, found.recorded) == (evaluated.STEPS, evaluated.GUIDANCE, True)


def test_what_a_record_of_an_earlier_version_says_counts(
    store, base_folder, tmp_path, shapes, extractor, heldout, measure
):
    now = measure(store, heldout)
    earlier = synthetic.make_store(tmp_path / "earlier/store", base_folder)
    learn(earlier, "alice", 1, shapes, extractor, said="remembered")
    learn(earlier, "falls", 2, shapes, extractor, said="remembered", remembered_device="cuda")
    then = measure(earlier, heldout, count=REFERENCE_SAMPLES)
    assert [each.kept.after_learning for each in now.measured] == ["reference samples"] * 2
    # What another kind of device drew is not compared.
    assert [each.kept.after_learning for each in then.measured] == ["reference samples", "redrawn"]
    how = (evaluated.STEPS, evaluated.GUIDANCE)
    assert [(each.kept.steps, each.kept.guidance) for each in then.measured] == [how, how]
    assert figures(then) == figures(now)


def _changed(store, name):
    """How many weights a concept's delta changes, counted one by one."""
    path = store.blob(store.concept(name))
    masks = [info for key, info in tensorfile.read_tensors(path)[0].items() if key.endswith("/mask")]
    return sum(int(np.unpackbits(np.frombuffer(bytes(info.data), np.uint8)).sum()) for info in masks)


def test_how_much_was_trained_and_is_kept(empty, shapes, extractor, heldout, measure):
    learn(empty, "alice", 1, shapes, extractor, trained_parameters=500, trained_in_unet=300)
    learn(empty, "falls", 2, shapes, extractor)
    found = measure(empty, heldout)
    unet = sum(
        int(np.prod(info.shape))
        for place, (_, _, info) in base.tensors(empty.layout, empty.head().base).items()
        if place.startswith("unet/")
    )
    one, other = found.measured
    assert one.parameters.trained == pytest.approx(100 * 300 / unet)
    assert one.parameters.trained_in_all == pytest.approx(100 * 500 / unet)
    assert other.parameters.trained is None
    assert found.parameters.trained == pytest.approx(100 * 300 / unet)
    assert one.parameters.stored == pytest.approx(100 * _changed(empty, "alice") / unet)
    assert found.parameters.stored == pytest.approx(one.parameters.stored + other.parameters.stored)
    first, second = (step.drift for step in found.steps)
    assert first.first_time == 1
    assert 0.6 < second.first_time < 0.8
    assert second.distance > first.distance > 0


def test_what_was_consolidated_is_counted_together(store, shapes, extractor, heldout, measure, tmp_path):
    """What a concept alone changed is not known any more where a forget put weights in the place of deltas."""
    forget(store, plan_forget(store, "falls"))
    learn(store, "tom", 3, shapes, extractor)
    write_heldout(heldout, "tom")
    found = measure(store, heldout, report=tmp_path / "report.html")
    parts = base.tensors(store.layout, store.head().base)
    unet = sum(int(np.prod(info.shape)) for place, (_, _, info) in parts.items() if place.startswith("unet/"))
    everything = sum(int(np.prod(shape)) for shape in shapes.values())
    together, alice, tom = found.steps
    assert (together.uid, alice.name, tom.name) == ("", "alice", "tom")
    assert alice.drift is None
    assert together.drift.first_time == 1
    assert together.drift.changed > 0.99 * everything
    assert tom.drift.changed == _changed(store, "tom")
    assert tom.drift.first_time < 0.01
    shares = {each.name: each.parameters.stored for each in found.measured}
    assert shares == {"alice": None, "tom": pytest.approx(100 * _changed(store, "tom") / unet)}
    assert found.parameters.stored == pytest.approx(100 * (together.drift.changed + tom.drift.changed) / unet)
    assert "V*alice" in (tmp_path / "report.html").read_text()


@pytest.fixture
def command(store, heldout, clip_folder):
    options = ["--store", str(store.layout.root), "--device", "cpu", "--feature-extractor", str(clip_folder)]
    return lambda *more: run(["eval", str(heldout), *options, *more])


def test_the_command(command, capsys):
    assert command("-n", "4", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["generation"] == 2
    assert answer["committed"] == 3
    assert set(answer["kernel"]) == {"degree", "gamma", "offset", "unit_norm", "biased"}
    for name in ("A_mmd", "F_mmd", "P_mmd", "BwT_mmd", "kid", "clip_i2i", "clip_t2i", "noise_floor", "diversity"):
        assert isinstance(answer[name], float), name
    assert set(answer["n_param"]) == {"trained", "trained_in_all", "stored"}
    assert set(answer["rbf"]) == {"sigma", "A_mmd", "F_mmd", "P_mmd", "BwT_mmd"}
    assert [each["name"] for each in answer["concepts"]] == ["alice", "falls"]
    assert answer["concepts"][0]["changed_first"] == 1
    verdict = answer["concepts"][0]["verdict"]
    assert {"code", "text", "sentence", "pictures", "like", "like_after_learning", "thresholds"} <= set(verdict)
    assert verdict["pictures"] == 4
    assert verdict["seen"] is None
    assert any("KID" in warning for warning in answer["warnings"])
    assert set(answer["concepts"][0]["n_param"]) == {"trained", "trained_in_all", "stored"}


def test_the_command_after_a_forget(command, store, capsys):
    forget(store, plan_forget(store, "falls"))
    assert command("-n", "4", "--json") == 0
    (alice,) = json.loads(capsys.readouterr().out)["concepts"]
    assert (alice["n_param"]["stored"], alice["changed_first"], alice["distance"]) == (None, None, None)


def test_one_folder_a_concept(command, tmp_path, capsys):
    assert command("--images", f"alice={tmp_path}", "--images", f"alice={tmp_path}") == 2
    assert "alice twice" in capsys.readouterr().err


def test_help(capsys):
    assert run(["eval", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "EXAMPLES" in shown
    assert "EXIT STATUS" in shown


def test_the_command_for_people(command, capsys):
    assert command("-n", "4") == 0
    said = capsys.readouterr()
    lines = [line.split("\t") for line in said.out.splitlines()]
    assert lines[0] == ["concept", "pictures", "quality", "kept", "verdict"]
    assert [line[0] for line in lines[1:]] == ["alice", "falls"]
    assert all(line[1] == "4/4" for line in lines[1:])
    assert lines[2][3] == "yes"
    assert "KID" not in said.err
    assert command("-n", "4", "--full") == 0
    said = capsys.readouterr()
    assert [line.split("\t")[0] for line in said.out.splitlines()] == ["concept", "alice", "falls", "average"]
    for words in ("degree 2", "gamma", "offset 1", "unit-norm", "biased", "sha256", "KID is of as few as 4"):
        assert words in said.err
    assert command("-n", "4", "--quiet") == 0
    said = capsys.readouterr()
    assert said.out == "alice\nfalls\n"
    assert said.err == ""


def test_the_table_fits_a_narrow_terminal(command, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("conceptctl.workflows.evaluate.verdict.ALIKE", 100.0)
    monkeypatch.setattr("conceptctl.metrics.closeness.Scale.tells_apart", True)
    monkeypatch.setattr("conceptctl.metrics.closeness.LIKE", -100.0)
    assert command("-n", "4") == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= 80
    words = " ".join(" ".join(lines).split())
    assert lines[0].split() == ["concept", "pictures", "quality", "kept", "verdict"]
    assert "4/4 alike" in words
    assert "learned in part" in words


def test_what_is_drawn_is_named_with_its_count(store, heldout, measure, tmp_path):
    told = []
    watch = Watch(lambda what, total: told.append([what, total, 0]), lambda done: _count(told[-1], done))
    measure(store, heldout, watch=watch, count=4, report=tmp_path / "r.html")
    stages = {what: (total, done) for what, total, done in told}
    assert stages["drawing V*alice (1 of 2)"] == stages["drawing V*falls (2 of 2)"] == (4, 4)
    assert stages["drawing 'a photo of a person' with the base alone"] == (8, 8)
    assert stages["drawing prompts beside the concepts"] == (3, 3)


def _count(stage, done):
    stage[2] += done


def test_show_and_log_tell_how_it_fared(command, store, capsys):
    assert command("-n", "4") == command("-n", "5") == 0
    capsys.readouterr()
    assert run(["show", "alice", "--store", str(store.layout.root), "--json"]) == 0
    evaluations_of_it = json.loads(capsys.readouterr().out)["evaluations"]
    assert [each["generation"] for each in evaluations_of_it] == [2, 3]
    assert evaluations_of_it[0]["F_mmd"] > 0
    assert [each["drawn"] for each in evaluations_of_it] == [4, 5]
    assert all(len(each["kernel"]) == 5 and each["extractor"]["sha256"] for each in evaluations_of_it)
    assert run(["show", "alice", "--store", str(store.layout.root)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "A_mmd" in line]
    # Figures of four pictures and of five are not to be compared.
    assert ["another number of pictures" in line for line in lines] == [True, False]
    assert run(["log", "--store", str(store.layout.root)]) == 0
    assert capsys.readouterr().out.count("\teval alice and falls\t") == 2
    assert run(["log", "alice", "--store", str(store.layout.root), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["generations"]
    assert [each["verb"] for each in told] == ["eval", "eval", "learn"]
    assert [each["figures"] and each["figures"]["A_mmd"] for each in told] == [
        evaluations_of_it[1]["A_mmd"],
        evaluations_of_it[0]["A_mmd"],
        None,
    ]
    assert run(["log", "alice", "--store", str(store.layout.root)]) == 0
    assert capsys.readouterr().out.count("A_mmd") == 2
    assert run(["log", "nobody", "--store", str(store.layout.root)]) == 5
    assert run(["forget", "alice", "--yes", "--store", str(store.layout.root)]) == 0
    capsys.readouterr()
    assert run(["log", "alice", "--store", str(store.layout.root), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["generations"]
    assert [(each["verb"], each["figures"]) for each in told[:2]] == [("forget", None), ("eval", None)]


def test_an_evaluation_that_was_undone_leaves_its_generation_without_figures(command, store, capsys):
    learned = str(store.head().seq)
    assert command("-n", "4") == 0
    assert run(["undo", "--to", learned, "--yes", "--store", str(store.layout.root)]) == 0
    assert command("-n", "4") == 0
    capsys.readouterr()
    assert run(["log", "alice", "--store", str(store.layout.root), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["generations"]
    assert [(each["verb"], each["figures"] is None) for each in told if each["verb"] == "eval"] == [
        ("eval", False),
        ("eval", True),
    ]


@pytest.mark.parametrize("bad", ["alice", "alice=", "=x"])
def test_images_is_a_name_and_a_folder(command, bad, capsys):
    assert command("--images", bad) == 2
    assert "NAME=DIR" in capsys.readouterr().err


def test_nothing_to_compare_with(store):
    assert run(["eval", "--store", str(store.layout.root)]) == 2


def test_a_report_is_written_and_never_over_another(store, heldout, measure, tmp_path):
    path = tmp_path / "report.html"
    measure(store, heldout, report=path)
    text = path.read_text()
    assert "V*alice" in text
    # Of both: four held out, and six of then and of now; two prompts beside them and one pair, three pictures each.
    assert text.count('src="data:image/') == 2 * (4 + 6 + 6) + 3 * 3
    assert "“a photo of V*alice next to V*falls”" in text
    before = store.head().seq
    with pytest.raises(AlreadyExists):
        measure(store, heldout, report=path)
    with pytest.raises(NotFound, match="no folder"):
        measure(store, heldout, report=tmp_path / "none/report.html")
    with pytest.raises(UsageError, match="too long"):
        measure(store, heldout, report=tmp_path / f"{'a' * 300}.html")
    assert store.head().seq == before
    assert path.read_text() == text


def test_the_manifest_reads_back(store, heldout, measure):
    measure(store, heldout)
    head = store.head()
    assert manifest.decode(head.encoded, head.identity) == head
