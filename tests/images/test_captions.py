"""Captions beside pictures."""

import os

import pytest

from conceptctl.errors import PicturesRefused
from conceptctl.images.gate import Rules, check_folder
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


@pytest.mark.parametrize("text", ["two {token}s", "{token} and {token}2", "x{token}", "{token}-like", "V*{token}"])
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


def test_a_text_without_a_picture_is_no_caption(folder):
    (folder / "god0.txt").write_text("a {token}")
    with pytest.raises(PicturesRefused, match=r"god0\.txt: not a picture but text"):
        check_folder(folder, SMALL)


def test_a_bad_picture_hides_nothing_of_its_caption(folder):
    (folder / "good0.png").write_bytes(b"")
    (folder / "good0.txt").write_text("no place")
    assert why(folder) == "an empty file"
