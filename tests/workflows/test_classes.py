"""Classes in a store: learned, told apart, undone, measured, interrupted, damaged."""

import shutil
import subprocess
import sys
import time

import pytest
import torch

from conceptctl.errors import (
    AlreadyExists,
    Busy,
    DeviceFailed,
    NotFound,
    PicturesRefused,
    StoreDamaged,
    UsageError,
)  # fmt: skip
from conceptctl.families import family_of, vit
from conceptctl.learning import loop
from conceptctl.methods import CLASSIFIERS
from conceptctl.store import garbage, jobs, tensorfile, verify
from conceptctl.store.concept import read_record
from conceptctl.store.store import Store
from conceptctl.workflows.classification import classify as classifying
from conceptctl.workflows.classification import evaluate as evaluating
from conceptctl.workflows.classification import learn as learning
from conceptctl.workflows.classification.evaluate import evaluate
from conceptctl.workflows.classification.history import read_all
from conceptctl.workflows.classification.model import classifier, records_of
from conceptctl.workflows.classification.pictures import Rules
from conceptctl.workflows.compact import compact, plan_compact
from conceptctl.workflows.fold import fold
from conceptctl.workflows.undo import plan_undo, undo
from tests.small_classes import answers, copied, make, taught, write_task
from tests.tiny_vit import write_tiny_vit


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """An empty store, and two tasks."""
    root = tmp_path_factory.mktemp("classes")
    write_tiny_vit(root / "vit")
    write_task(root / "one", "cat", "dog")
    write_task(root / "two", "duck", "goose", "Mäuse")
    make(root / "empty", root / "vit")
    taught(copied(Store(root / "empty"), root / "begun"), root / "one")
    return root


@pytest.fixture
def store(home, tmp_path):
    return copied(Store(home / "empty"), tmp_path / "store")


@pytest.fixture
def begun(home, tmp_path):
    """A store with the first task, of LoRA."""
    return copied(Store(home / "begun"), tmp_path / "begun")


def test_a_store_on_a_vision_transformer_says_its_family_and_format(store):
    head = store.head()
    assert head.base.family == vit.FAMILY
    assert list(head.base.files) == ["vision/model.safetensors"]
    assert (store.layout.format_number(), head.least_format) == (5, 5)
    assert head.base.name == "local folder"


@pytest.mark.parametrize("method", CLASSIFIERS)
def test_what_is_undone_is_told_apart_as_before_to_the_bit(home, store, method):
    pictures = home / "one" / "cat"
    taught(store, home / "one", method)
    before = answers(store, pictures)
    assert {name for name, _ in before[0][1]} == {"cat", "dog"}
    learned = taught(store, home / "two", method)
    assert learned.record.classes == ("Mäuse", "duck", "goose")
    assert {name for name, _ in answers(store, pictures)[0][1]} == {"cat", "dog", "duck", "goose", "Mäuse"}
    both = answers(store, home / "two" / "duck")
    assert answers(store, pictures, at=1) == before
    undo(store, plan_undo(store))
    assert answers(store, pictures) == before
    undo(store, plan_undo(store, to=2))
    assert answers(store, home / "two" / "duck") == both
    fold(store)
    assert answers(store, home / "two" / "duck") == both
    compact(store, plan_compact(store))
    assert answers(store, home / "two" / "duck") == both
    assert not verify.verify(store.layout, read_data=True).problems


def test_the_file_of_a_task_has_a_row_a_class_and_no_picture(home, begun):
    (entry,) = begun.head().concepts
    path = begun.blob(entry, read=True)
    record = read_record(path)
    assert (record.classes, record.photos, record.method) == (("cat", "dog"), 8, "lora")
    assert record.settings["epochs"] == 2
    assert tensorfile.read_header(path).tensors["token"].shape == (2, 17)
    assert str(home) not in path.read_bytes().decode("latin-1")


def test_prompts_of_the_last_task_are_what_classifying_goes_on_with(home, store, monkeypatch):
    """A classifier that was read is the one that has just learned."""
    made = []
    real = learning.learner
    monkeypatch.setattr(learning, "learner", lambda *words, **options: made.append(real(*words, **options)) or made[-1])
    for task in ("one", "two"):
        taught(store, home / task, "dual-prompt")
    head = store.head()
    read = classifier(store, head, records_of(store, head), "cpu")
    pixels = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    assert torch.equal(read.classify(pixels), made[-1].classify(pixels))


def test_adapters_may_change_from_task_to_task_and_prompts_may_not(home, begun, store):
    taught(begun, home / "two", "c-lora")
    undo(begun, plan_undo(begun))
    with pytest.raises(UsageError, match=r"with lora, and l2p cannot go on"):
        taught(begun, home / "two", "l2p")
    taught(store, home / "one", "l2p")
    with pytest.raises(UsageError, match=r"with l2p, and lora cannot go on"):
        taught(store, home / "two", "lora")
    with pytest.raises(UsageError, match=r"whose pool_size is 4, not 5"):
        taught(store, home / "two", "l2p", settings={"pool_size": 5})
    assert store.head().seq == 1


def test_what_cannot_be_meant_is_refused_before_a_picture_is_read(home, begun, monkeypatch):
    monkeypatch.setattr(learning, "read_classes", None)
    for options, error, said in (
        ({"epochs": 0}, UsageError, "epochs"),
        ({"seed": -1}, UsageError, "seed"),
        ({"name": "A b"}, UsageError, "cannot be a task's name"),
        ({"name": ""}, UsageError, "'' cannot be a task's name"),
        ({"name": "one"}, AlreadyExists, "a task 'one' is there"),
        ({"settings": {"steps": 5}}, UsageError, "epochs, not in steps"),
        ({"settings": {"epochs": 5}}, UsageError, "epochs are no setting"),
        ({"settings": {"colour": 5}}, NotFound, "no setting 'colour'"),
        ({"settings": {"snr_gamma": 5.0}}, UsageError, "snr_gamma cannot be set"),
    ):
        with pytest.raises(error, match=said):
            taught(begun, home / "two", **options)
    with pytest.raises(NotFound, match="ti"):
        learning.learn(begun, learning.Request(home / "two", method="ti"), device="cpu")
    with pytest.raises(AlreadyExists, match="'cat' was learned with the task 'one'"):
        taught(begun, home / "one", name="again")
    assert begun.head().seq == 1


@pytest.mark.parametrize(
    ("method", "settings", "said"),
    [
        ("l2p", {"pool_size": 1, "chosen": 2}, "chosen is 2, of 1 prompts"),
        ("l2p", {"prompt_length": 0}, "prompt length must be more than 0"),
        ("dual-prompt", {"expert_length": 10**30}, "cannot be more than 1000"),
        ("coda-prompt", {"added": 0}, "added must be more than 0"),
    ],
)
def test_prompts_that_there_cannot_be_are_refused_before_a_picture_is_read(
    home, store, monkeypatch, method, settings, said
):
    monkeypatch.setattr(learning, "read_classes", None)
    with pytest.raises(UsageError, match=said):
        taught(store, home / "one", method, settings=settings)


def test_every_bad_picture_of_every_class_is_named_and_nothing_changes(home, store, tmp_path):
    folder = write_task(tmp_path / "task", "a", "b", "c", pictures=3)
    (folder / "a" / "0.png").write_text("no picture")
    (folder / "c" / "2.png").write_bytes((folder / "c" / "1.png").read_bytes()[:60])
    with pytest.raises(PicturesRefused) as refused:
        taught(store, folder)
    assert "a/0.png" in str(refused.value)
    assert "c/2.png" in str(refused.value)
    assert store.head().seq == 0
    learned = taught(store, folder, rules=Rules(skip_bad=True))
    assert dict(learned.plan.classes) == {"a": 2, "b": 3, "c": 2}
    assert len(learned.plan.skipped) == 2


def test_the_largest_seed_learns(home, store):
    assert taught(store, home / "one", seed=2**63 - 1).record.seed == 2**63 - 1


def test_what_helps_is_said_of_bad_pictures_and_of_too_few(store, tmp_path):
    folder = write_task(tmp_path / "few", "a", "b", pictures=1)
    with pytest.raises(PicturesRefused) as refused:
        taught(store, folder)
    assert refused.value.hint == "add pictures to a class, 2 or more in all, or take its folder out"
    (folder / "c").mkdir()
    (folder / "c" / "0.png").write_text("no picture")
    with pytest.raises(PicturesRefused) as refused:
        taught(store, folder)
    assert refused.value.hint.startswith("fix or remove the pictures named above, or pass --skip-bad; add pictures")


def test_no_picture_is_read_where_nothing_could_be_told_of_it(home, store, begun, monkeypatch):
    for module in (classifying, evaluating):
        for name in ("read_pictures", "read_classes"):
            monkeypatch.setattr(module, name, None, raising=False)
    for of, device, error in ((store, "cpu", NotFound), (begun, "nothing", DeviceFailed)):
        with pytest.raises(error):
            classifying.classify(of, [home / "one" / "cat"], device=device)
        with pytest.raises(error):
            evaluate(of, home / "one", device=device)


def test_memory_that_runs_out_is_said(home, begun, monkeypatch):
    def full(*words):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(vit.VitBackbone, "classify", full)
    with pytest.raises(DeviceFailed, match="out of GPU memory"):
        answers(begun, home / "one" / "cat")
    with pytest.raises(DeviceFailed, match="out of GPU memory"):
        evaluate(begun, home / "one", device="cpu")


def test_a_task_has_two_classes_and_a_class_two_pictures(home, store, tmp_path):
    with pytest.raises(PicturesRefused, match="one class"):
        taught(store, write_task(tmp_path / "single", "only"))
    with pytest.raises(PicturesRefused, match="1 different picture in"):
        taught(store, write_task(tmp_path / "few", "a", "b", pictures=1))
    with pytest.raises(PicturesRefused, match="no folder train"):
        write_task(tmp_path / "tested" / "test", "a", "b")
        taught(store, tmp_path / "tested")


def test_train_and_test_are_found_where_they_are(home, store, tmp_path):
    write_task(tmp_path / "both" / "train", "a", "b", pictures=3)
    write_task(tmp_path / "both" / "test", "a", "b", pictures=2)
    assert sum(taught(store, tmp_path / "both", name="x").plan.classes.values()) == 6
    assert sum(evaluate(store, tmp_path / "both", device="cpu").tasks[0].tested.pictures) == 4


def test_a_run_that_was_interrupted_changes_nothing_and_goes_on_to_the_same_bits(home, store, tmp_path, monkeypatch):
    whole = copied(store, tmp_path / "whole")
    taught(whole, home / "one", epochs=4)

    def stop(what):
        real = loop._take_step

        def take(run, losses, listener, began):
            real(run, losses, listener, began)
            if run.done == what:
                raise KeyboardInterrupt

        return take

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_take_step", stop(3))
        with pytest.raises(KeyboardInterrupt):
            taught(store, home / "one", epochs=4)
    assert store.head().seq == 0
    assert not verify.verify(store.layout, read_data=True).problems
    request = learning.Request(home / "one", method="lora", epochs=4, settings={"batch_size": 4, "rank": 2})
    assert learning.plan(store, request, device="cpu").resumes == 3
    steps = []
    watch = learning.Watch(done=steps.append)
    learning.learn(store, request, device="cpu", watch=watch)
    assert steps[-5:] == [4, 5, 6, 7, 8]
    assert answers(store, home / "one" / "cat") == answers(whole, home / "one" / "cat")
    assert not list(jobs.found(store.layout))


def test_pictures_that_have_changed_begin_anew(home, store, tmp_path, monkeypatch):
    folder = shutil.copytree(home / "one", tmp_path / "one")

    def stop(run, losses, listener, began):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_take_step", stop)
        with pytest.raises(KeyboardInterrupt):
            taught(store, folder)
    (folder / "cat" / "0.png").unlink()
    assert taught(store, folder).record.photos == 7


def test_a_process_that_is_killed_changes_nothing(home, store):
    """Whatever it was doing: learning takes until it is killed, and the same command works afterwards."""
    words = ["learn", str(home / "one"), "--method", "lora", "--rank", "2", "--epochs", "100000", "--device", "cpu"]
    with subprocess.Popen(
        [sys.executable, "-m", "conceptctl", *words, "--store", str(store.layout.root)], stderr=subprocess.DEVNULL
    ) as process:
        begins = time.monotonic()
        while not list(store.layout.jobs.iterdir()) and time.monotonic() < begins + 120:
            time.sleep(0.05)
        # Somewhere between beginning a job and training.
        time.sleep(1)
        assert process.poll() is None
        process.kill()
    assert store.head().seq == 0
    assert not verify.verify(store.layout, read_data=True).problems
    assert taught(store, home / "one").generation.seq == 1


def test_a_second_writer_waits_or_is_told(home, store):
    with store.writing("learn"), pytest.raises(Busy):
        taught(store, home / "one")


def test_a_flipped_byte_of_a_task_is_found_and_named(home, begun):
    (entry,) = begun.head().concepts
    path = begun.blob(entry)
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    (problem,) = verify.verify(begun.layout, read_data=True).problems
    assert "one" in str(problem)
    with pytest.raises(StoreDamaged, match="one"):
        answers(begun, home / "one" / "cat")


def test_accuracies_are_kept_and_forgetting_is_the_best_less_that_of_now(home, begun, tmp_path):
    first = evaluate(begun, home / "one", device="cpu")
    assert (first.committed, first.seen, first.without) == (2, 2, ())
    assert first.forgetting is None
    taught(begun, home / "two")
    shutil.copytree(home / "one", tmp_path / "all")
    shutil.copytree(home / "two", tmp_path / "all", dirs_exist_ok=True)
    write_task(tmp_path / "all", "whale")
    found = evaluate(begun, tmp_path / "all", device="cpu")
    one, two = found.tasks
    assert one.best == first.tasks[0].tested.accuracy
    assert found.forgetting == one.best - one.tested.accuracy
    assert two.forgetting is None
    assert found.average_accuracy == (one.tested.accuracy + two.tested.accuracy) / 2
    assert found.strange == ("whale",)
    right = {
        name: sum(classes[0][0] == name for _, classes in answers(begun, tmp_path / "all" / name))
        for name in one.record.classes
    }
    assert dict(zip(one.record.classes, one.tested.correct, strict=True)) == right
    (tmp_path / "all" / "cat" / "0.png").unlink()
    assert evaluate(begun, tmp_path / "all", device="cpu").tasks[0].best is None
    uid = begun.head().concepts[0].uid
    assert len(read_all(begun.layout, begun.head(), uid)) == 3
    undo(begun, plan_undo(begun))
    assert [each.name for each in begun.head().concepts] == ["one"]
    assert len(read_all(begun.layout, begun.head())) == 3


def test_what_nothing_needs_goes_and_answers_stay(home, begun):
    before = answers(begun, home / "one" / "cat")
    taught(begun, home / "two")
    undo(begun, plan_undo(begun))
    for _ in range(2):
        garbage.collect(begun.layout)
    assert answers(begun, home / "one" / "cat") == before


def test_nothing_is_told_of_a_store_without_classes_or_of_no_picture(home, store, begun, tmp_path):
    with pytest.raises(NotFound, match="no classes yet"):
        answers(store, home / "one" / "cat")
    with pytest.raises(NotFound, match="no classes yet"):
        evaluate(store, home / "one", device="cpu")
    with pytest.raises(PicturesRefused, match="holds folders: cat, dog"):
        answers(begun, home / "one")
    with pytest.raises(PicturesRefused, match="absent"):
        answers(begun, tmp_path / "absent.png")
    with pytest.raises(PicturesRefused, match="called like a class"):
        evaluate(begun, home / "two", device="cpu")


def test_a_workflow_that_draws_is_refused_where_classes_are_told_apart(begun):
    with pytest.raises(UsageError, match="tells classes apart"):
        family_of(begun.head().base)


def test_a_task_is_called_as_its_folder_is(tmp_path):
    assert learning.name_of(tmp_path / "My Birds (2)") == "my-birds-2"
    assert learning.name_of(tmp_path / "Vögel") == "vogel"
    with pytest.raises(UsageError, match="no task can be called"):
        learning.name_of(tmp_path / "鳥")
