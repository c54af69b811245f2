"""Class-per-folder trees: what is listed, split and dealt out, and every fault with its name."""

import random
import shutil
import subprocess
import sys

import numpy as np
import pytest

from conceptctl.errors import PicturesRefused, UsageError
from conceptctl.images.class_folders import TRAIN, LabelledClass, class_folders, classes_in, read_pictures, tasks_of
from tests.images.faulty import encoded, good_folder, picture


@pytest.fixture
def tree(tmp_path):
    """Three classes, ten pictures each."""
    root = tmp_path / "pictures"
    root.mkdir()
    for number, name in enumerate(("cat", "dog", "duck")):
        folder = root / name
        folder.mkdir()
        for index in range(10):
            (folder / f"{index}.png").write_bytes(encoded(picture(10 * number + index, (12, 9))))
    return root


@pytest.fixture
def parted(tmp_path):
    """Two classes, with pictures to learn and to test."""
    root = tmp_path / "parted"
    for part in ("train", "test"):
        (root / part).mkdir(parents=True)
        for name in ("cat", "dog"):
            good_folder(root / part / name, 3 if part == "train" else 2)
    return root


def refusal(folder, **options):
    with pytest.raises(PicturesRefused) as caught:
        classes_in(folder, **options)
    assert caught.value.exit_code == 3
    assert caught.value.hint
    return str(caught.value)


def test_one_tree_is_split_the_same_way_every_time(tree):
    classes = classes_in(tree)
    assert [each.name for each in classes] == ["cat", "dog", "duck"]
    for each in classes:
        assert (len(each.train), len(each.test)) == (8, 2)
        assert sorted(each.train + each.test) == sorted((tree / each.name).iterdir())
    assert classes == classes_in(tree)
    assert classes != classes_in(tree, split_seed=1)
    assert len({tuple(path.name for path in each.test) for each in classes}) > 1


def test_train_and_test_are_taken_as_they_are(parted):
    classes = classes_in(parted)
    assert [(each.name, len(each.train), len(each.test)) for each in classes] == [("cat", 3, 2), ("dog", 3, 2)]
    assert all(path.parent == parted / "test" / each.name for each in classes for path in each.test)


def test_what_lies_about_is_passed_over(tree):
    wanted = classes_in(tree)
    (tree / ".git").mkdir()
    (tree / "__MACOSX").mkdir()
    (tree / "README.txt").write_text("two hundred classes")
    for name in (".DS_Store", "Thumbs.db", "labels.json", "note.txt"):
        (tree / "cat" / name).write_text("x")
    assert classes_in(tree) == wanted


def test_a_class_may_have_more_pictures_than_a_concept(tree):
    data = encoded(picture(0, (4, 4)))
    for index in range(1100):
        (tree / "cat" / f"more{index}.png").write_bytes(data)
    assert sum(len(part) for part in (classes_in(tree)[0].train, classes_in(tree)[0].test)) == 1110


def test_what_is_no_picture_is_named(tree):
    (tree / "cat" / "a.jpg").write_bytes(b"<html>404</html>")
    (tree / "cat" / "b.png").write_bytes(b"")
    text = refusal(tree)
    assert text.splitlines()[0] == f"2 of 12 files in {tree / 'cat'} refused:"
    assert f"{tree / 'cat' / 'a.jpg'}: not a picture but an HTML page" in text
    assert f"{tree / 'cat' / 'b.png'}: an empty file" in text


def test_many_bad_files_are_counted(tree):
    for index in range(30):
        (tree / "dog" / f"bad{index:02}.jpg").write_bytes(b"no picture")
    lines = refusal(tree).splitlines()
    assert len(lines) == 12
    assert lines[-1].strip() == "and 20 more"


def test_symbolic_links_are_refused_without_an_option_that_there_is_not(tree, tmp_path):
    (tree / "cat" / "link.png").symlink_to(tree / "dog" / "0.png")
    assert f"{tree / 'cat' / 'link.png'}: a symbolic link: only" in refusal(tree)
    assert "--follow" not in refusal(tree)
    (tree / "cat" / "link.png").unlink()
    good_folder(tmp_path / "elsewhere", 5)
    (tree / "owl").symlink_to(tmp_path / "elsewhere")
    assert f"{tree / 'owl'}: a symbolic link: only" in refusal(tree)


def test_links_are_followed_where_that_is_asked_and_one_to_nothing_is_no_class(tree, tmp_path):
    (tmp_path / "link").symlink_to(next(path for path in tree.iterdir() if path.is_dir()))
    shutil.copytree(tmp_path / "link", tmp_path / "linked" / "own")
    (tmp_path / "linked" / "other").symlink_to(tmp_path / "link")
    with pytest.raises(PicturesRefused, match="--follow-symlinks reads what it points to"):
        class_folders(tmp_path / "linked", TRAIN)
    assert list(class_folders(tmp_path / "linked", TRAIN, follow=True)) == ["other", "own"]
    (tmp_path / "linked" / "gone").symlink_to(tmp_path / "nothing")
    with pytest.raises(PicturesRefused, match=r"gone: a symbolic link: .*No such file"):
        class_folders(tmp_path / "linked", TRAIN, follow=True)


def test_faults_of_the_tree_are_said(tree, parted, tmp_path):
    assert "no folder" in refusal(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty").startswith("no class in")
    assert "is not a folder" in refusal(tree / "cat" / "0.png")
    assert "in no class's folder" in refusal(tree / "cat")
    (tree / "owl").mkdir()
    assert refusal(tree) == f"no picture in {tree / 'owl'}"
    good_folder(tree / "owl", 1)
    assert refusal(tree).startswith(f"one picture in {tree / 'owl'}")
    good_folder(tree / "owl", 2)
    (tree / "owl" / "young").mkdir()
    assert refusal(tree) == f"{tree / 'owl'} is a class, and holds folders: young"
    good_folder(parted / "train" / "owl")
    assert refusal(parted) == "test has no folder for the class owl"
    (parted / "test").rename(parted / "held")
    assert refusal(parted) == f"{parted} has no folder test"


def test_one_class_cannot_be_told_apart(tmp_path):
    good_folder(tmp_path / "cat")
    assert "holds one class" in refusal(tmp_path)


def named(count):
    return [LabelledClass(f"n{number:03}", (), ()) for number in range(count)]


def test_classes_are_shuffled_as_coda_prompt_does_it():
    """Its trainer seeds Python's own generator, shuffles the numbers of the classes, and cuts them up; not for 0."""
    order = list(range(200))
    random.seed(3)
    random.shuffle(order)
    wanted = [[f"n{number:03}" for number in order[start : start + 10]] for start in range(0, 200, 10)]
    assert [[each.name for each in task] for task in tasks_of(named(200), 20, 3)] == wanted
    assert [each.name for task in tasks_of(named(200), 20, 0) for each in task] == [each.name for each in named(200)]
    assert tasks_of(named(200)[::-1], 20, 3) == tasks_of(named(200), 20, 3)


def test_classes_that_do_not_go_evenly_are_all_learned():
    tasks = tasks_of(named(11), 4, 1)
    assert [len(task) for task in tasks] == [3, 3, 3, 2]
    assert {each.name for task in tasks for each in task} == {each.name for each in named(11)}


@pytest.mark.parametrize("count", [0, 4])
def test_tasks_without_a_class_are_refused(count):
    with pytest.raises(UsageError, match="3 classes make 1 to 3 tasks"):
        tasks_of(named(3), count, 0)


def test_pictures_are_read_as_the_middle_square(tree):
    paths = classes_in(tree)[0].test
    read = read_pictures(paths, 8)
    assert read.shape == (2, 8, 8, 3)
    assert read.dtype == np.uint8
    assert not np.array_equal(read[0], read[1])
    wide = picture(5, (30, 10))
    (tree / "wide.png").write_bytes(encoded(wide))
    assert np.array_equal(read_pictures([tree / "wide.png"], 10)[0], np.asarray(wide)[:, 10:20])


def test_pictures_that_cannot_be_decoded_are_all_named(tree):
    good = tree / "cat" / "0.png"
    cut = tree / "cat" / "cut.png"
    cut.write_bytes(good.read_bytes()[:60])
    with pytest.raises(PicturesRefused) as caught:
        read_pictures([good, cut], 8)
    assert str(caught.value).startswith("1 of 2 pictures refused:")
    assert str(cut) in str(caught.value)


def test_trees_are_listed_without_torch_and_numpy():
    code = "import sys, conceptctl.images.class_folders; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
