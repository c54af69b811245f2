import pytest

from conceptctl.wording import article, count


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (count(0, "concept"), "0 concepts"),
        (count(1, "concept"), "1 concept"),
        (count(2, "concept"), "2 concepts"),
        (count(1, "matrix", "matrices"), "1 matrix"),
        (count(3, "matrix", "matrices"), "3 matrices"),
    ],
)
def test_one_is_one(said, expected):
    assert said == expected


@pytest.mark.parametrize("word", ["eval", "import", "undo", "'eval'", "hour", "umbrella", "8 GB card"])
def test_an_goes_before_what_sounds_like_a_vowel(word):
    assert article(word) == f"an {word}"


@pytest.mark.parametrize("word", ["V*alice", "waterfall", "unicorn", "user", "horse", "one-eyed cat"])
def test_a_goes_before_everything_else(word):
    assert article(word) == f"a {word}"
