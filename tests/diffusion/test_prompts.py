"""Concepts in prompts: which are named, how they are tokenized, and what does not fit."""

import pytest
from transformers import CLIPTokenizer

from conceptctl.diffusion.prompts import add_token, cut_off, names_in
from conceptctl.errors import AlreadyExists, NotFound
from conceptctl.pocket.train.vocabulary import build_tokenizer


@pytest.fixture
def tokenizer(tmp_path):
    return build_tokenizer(tmp_path)


def test_the_longest_name_wins_and_case_is_ignored():
    known = ["al", "alice", "bob-2"]
    assert names_in("V*alice next to v*AL, and V*bob-2.", known) == ("alice", "al", "bob-2")
    assert names_in("V*alice V*alice", known) == ("alice",)
    assert names_in("a photo of a person", known) == ()


def test_an_unknown_name_comes_with_the_nearest_ones():
    with pytest.raises(NotFound) as error:
        names_in("a photo of V*alise", ["alice", "bob"])
    assert "V*alise" in str(error.value)
    assert "V*alice" in error.value.hint
    with pytest.raises(NotFound) as error:
        names_in("a photo of V*alicex", ["alice"])
    assert "V*alice" in error.value.hint


def test_a_concept_is_one_token_in_any_program(tokenizer, tmp_path):
    numbers = {name: add_token(tokenizer, name) for name in ("al", "alice", "al-b")}
    tokenizer.save_pretrained(tmp_path / "saved")
    for loaded in (tokenizer, CLIPTokenizer.from_pretrained(tmp_path / "saved")):
        spelled = loaded("a photo of V*alice next to v*AL and V*al-b, smiling").input_ids
        assert [number for number in spelled if number in numbers.values()] == [
            numbers["alice"],
            numbers["al"],
            numbers["al-b"],
        ]
    assert not set(numbers.values()) & set(tokenizer("V*alicex").input_ids)


def test_a_token_is_added_once(tokenizer):
    add_token(tokenizer, "alice")
    with pytest.raises(AlreadyExists):
        add_token(tokenizer, "alice")


def test_what_does_not_fit_is_shown(tokenizer):
    assert cut_off(tokenizer, "a photo of a person") == ""
    words = "a photo of a person with glasses " * 6
    lost = cut_off(tokenizer, words + "at night")
    assert lost.endswith("at night")
    kept = len(tokenizer.tokenize(words + "at night")) - len(tokenizer.tokenize(lost))
    assert kept == tokenizer.model_max_length - 2


@pytest.mark.parametrize("prompt", ["a photo of xV*alice", "V*aliceV*alice"])
def test_a_concept_that_is_no_word_of_its_own_is_refused(prompt):
    with pytest.raises(NotFound):
        names_in(prompt, ["alice"])
