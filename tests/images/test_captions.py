"""Captions beside pictures."""

import os

import pytest

from conceptctl.errors import PicturesRefused
from conceptctl.images.gate import Rules, check_folder
from conceptctl.images.listing import list_folder
from tests.images.faulty import encoded, good_folder, picture

SMALL = Rules(side=64, min_side=64)


@pytest.fixture
def folder(tmp_path):
    return good_folder(tmp_path / "photos")


def caption(folder, data: bytes, name="good0.txt"):
    (folder / name).write_bytes(data)
    return check_folder(folder, SMALL).pictures[0].caption


def why(folder, rules=SMALL):
    with pytest.raises(PicturesRefused) as caught:
        check_folder(folder, rules)
    (line,) = str(caught.value).splitlines()[1:]
    path, _, reason = line.strip().partition(": ")
    assert path == str(folder / "good0.png")
    return reason


def test_used_when_present(folder):
    (folder / "good1.txt").write_text("a drawing of {token} at night\n", encoding="utf-8")
    captions = [one.caption for one in check_folder(folder, SMALL).pictures]
    assert captions == [None, "a drawing of {token} at night", None]


def test_read_as_utf_8(folder):
    assert caption(folder, "ein Bild von {token}, schön".encode()) == "ein Bild von {token}, schön"


def test_an_editors_signature_is_dropped(folder):
    assert caption(folder, b"\xef\xbb\xbfa {token}") == "a {token}"


def test_lines_become_one(folder):
    assert caption(folder, b"  a photo of {token}\r\n\tby the sea \n\n") == "a photo of {token} by the sea"


def test_other_braces_mean_nothing(folder):
    assert caption(folder, b"{token} and {others} {") == "{token} and {others} {"


def test_the_suffix_in_capitals(folder):
    assert caption(folder, b"a {token}", "good0.TXT") == "a {token}"


@pytest.mark.parametrize("text", ["a photo of sks person", "", "\n", "a {Token}"])
def test_without_token_is_refused(folder, text):
    (folder / "good0.txt").write_text(text)
    assert why(folder) == "its caption good0.txt: has no {token}, as in 'a photo of {token} on a beach'"


@pytest.mark.parametrize(
    "text", ["two {token}s", "{token} and {token}2", "x{token}", "{token}-like", "V*{token}", "{token}{token}"]
)
def test_a_token_that_is_no_word_of_its_own_is_refused(folder, text):
    (folder / "good0.txt").write_text(text)
    assert "a word of its own" in why(folder)


def test_a_token_beside_punctuation_is_a_word(folder):
    assert caption(folder, b"{token}'s hat, ({token})") == "{token}'s hat, ({token})"


def test_bytes_that_are_no_utf_8_are_refused(folder):
    (folder / "good0.txt").write_bytes("{token} schön".encode("latin-1"))
    assert why(folder) == "its caption good0.txt: not UTF-8 text"


def test_control_characters_are_refused(folder):
    (folder / "good0.txt").write_bytes(b"{token}\0")
    assert why(folder) == "its caption good0.txt: has control characters"


def test_letters_that_only_join_others_are_kept(folder):
    text = "{token} می\u200cخندد"
    assert caption(folder, text.encode()) == text


def test_far_too_long_is_refused(folder):
    (folder / "good0.txt").write_bytes(b"{token} " * 513)
    assert why(folder) == "its caption good0.txt: longer than 4096 bytes"


def test_a_pipe_is_refused_and_not_opened(folder):
    os.mkfifo(folder / "good0.txt")
    assert why(folder) == "its caption good0.txt: not a regular file but a named pipe"


def test_a_symlink_is_followed_when_asked(folder, tmp_path):
    (tmp_path / "elsewhere").write_text("a {token}")
    (folder / "good0.txt").symlink_to(tmp_path / "elsewhere")
    assert why(folder).startswith("its caption good0.txt: not a regular file but a symbolic link")
    followed = check_folder(folder, Rules(side=64, min_side=64, follow_symlinks=True))
    assert followed.pictures[0].caption == "a {token}"


def test_skip_bad_skips_the_picture_of_a_bad_caption(folder):
    (folder / "more.png").write_bytes(encoded(picture(7)))
    (folder / "good0.txt").write_text("no place")
    checked = check_folder(folder, Rules(side=64, min_side=64, skip_bad=True))
    assert [one.path.name for one in checked.pictures] == ["good1.png", "good2.png", "more.png"]


def test_a_text_without_a_picture_is_named_and_not_read(folder):
    for name in ("god0.txt", "README.txt", "LICENSE", "notes.caption"):
        (folder / name).write_text("a {token}")
    checked = check_folder(folder, SMALL)
    assert [one.caption for one in checked.pictures] == [None] * 3
    said = "no picture has the name of a text, so it is not read: LICENSE, README.txt, god0.txt and 1 more"
    assert (checked.notes, checked.ignored) == ((said,), 4)


@pytest.mark.parametrize(
    ("photo", "text"),
    [
        ("x.png", "x.png.txt"),
        ("x.png", "x.caption"),
        ("x.png", "x.CAPTION"),
        ("x.png", "x.png.caption"),
        ("X.PNG", "x.txt"),
        ("x.PNG", "x.png.txt"),
        ("x.y.png", "x.y.txt"),
        ("\u00e9.png", "e\u0301.txt"),
    ],
)
def test_captions_as_other_trainers_name_them(folder, photo, text):
    (folder / photo).write_bytes(encoded(picture(9)))
    (folder / text).write_text("a {token} by the sea")
    found = list_folder(folder, follow=False)
    assert found.captions == {folder / photo: [folder / text]}
    assert (len(found.candidates), found.notes) == (4, [])


def test_of_two_names_that_differ_in_case_alone_each_has_its_own(folder):
    for name in ("x", "X"):
        (folder / f"{name}.png").write_bytes(encoded(picture(ord(name))))
        (folder / f"{name}.txt").write_text(f"{{token}} and {name}")
    captions = {one.path.name: one.caption for one in check_folder(folder, SMALL).pictures}
    assert (captions["x.png"], captions["X.png"]) == ("{token} and x", "{token} and X")


@pytest.mark.parametrize("other", ["good0.TXT", "good0.caption", "good0.png.txt"])
def test_a_second_caption_is_named(folder, other):
    (folder / "good0.txt").write_text("one {token}")
    (folder / other).write_text("two {token}")
    names = " and ".join(sorted(["good0.txt", other]))
    assert why(folder) == f"it has 2 captions that differ, {names}: keep one of them"
    (folder / other).write_text("one\n{token}\n")
    assert check_folder(folder, SMALL).pictures[0].caption == "one {token}"


def test_a_base_may_ask_more_of_captions(folder):
    def judge(caption):
        if "sea" in caption:
            raise PicturesRefused("no seas")
        return "is long" if len(caption) > 12 else ""

    rules = Rules(side=64, min_side=64, judge_caption=judge)
    (folder / "good0.txt").write_text("{token} by the sea")
    assert why(folder, rules) == "its caption good0.txt: no seas"
    (folder / "good0.txt").write_text("{token} in the snow")
    assert check_folder(folder, rules).notes == ("good0.png: its caption is long",)


def test_of_the_same_picture_the_one_with_a_caption_counts(folder):
    (folder / "z.png").write_bytes((folder / "good0.png").read_bytes())
    (folder / "z.txt").write_text("{token} again")
    checked = check_folder(folder, SMALL)
    assert (checked.pictures[0].path.name, checked.pictures[0].caption) == ("z.png", "{token} again")
    assert checked.notes == (f"{folder / 'good0.png'}: the same pixels as z.png, counted once",)
    (folder / "good0.txt").write_text("{token} before")
    checked = check_folder(folder, SMALL)
    assert checked.pictures[0].caption == "{token} before"
    assert checked.notes[0].endswith("the same pixels as good0.png, counted once, its caption not used")


def test_a_bad_picture_hides_nothing_of_its_caption(folder):
    (folder / "good0.png").write_bytes(b"")
    (folder / "good0.txt").write_text("no place")
    assert why(folder) == "an empty file"
