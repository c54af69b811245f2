"""What in prompts may be meant otherwise than it is read."""

import time

import pytest

from conceptctl.diffusion.prompt_warnings import prompt_warnings

KNOWN = ("al", "alice", "bob-2", "falls")


@pytest.mark.parametrize(
    "prompt",
    [
        r"a photo of V\*alice",
        "a photo of V* alice",
        "v *alice",
        "V\uff0aalice",
        "\uff36\uff0a\uff41\uff4c\uff49\uff43\uff45",
        "V\u2217alice",
        "V&ast;alice",
        "V**alice",
        "V*'alice'",
        "V*\u200balice",
        "V-alice",
        "V_alice",
        "<alice>",
        "*alice*",
        "a photo of alice",
        "Alice's hat",
        "V*falls behind alice",
        "V*alice and V* alice",
        "Valice",
        "a photo of Valice's hat",
        "V* alice:0.8",
        "V*\u0430lice",
    ],
)
def test_what_is_nearly_a_name_is_asked_about_once(prompt):
    (warning,) = prompt_warnings(prompt, KNOWN)
    assert "is V*alice meant?" in warning
    assert warning.isprintable()


def test_many_words_are_asked_about_in_one_line():
    (warning,) = prompt_warnings("alice, falls, al, bob-2", KNOWN)
    assert warning == '"al", "alice", "bob-2", ... are read as plain text; is V*al or V*alice or V*bob-2 meant?'


@pytest.mark.parametrize("prompt", ["V* bob", "V*\u0410\u043b\u0438\u0441\u0430", r"V\*person"])
def test_what_looks_like_a_concept_that_is_not_there_is_said(prompt):
    (warning,) = prompt_warnings(prompt, KNOWN)
    assert "a concept is written V*NAME" in warning


@pytest.mark.parametrize(
    "prompt",
    [
        "(V*alice:1.3)",
        "a (red hair:1.2) and V*alice",
        "[V*alice]",
        "{V*alice}",
        "((V*alice))",
        "[[sea]]",
        "V*alice++",
        "(red hair)+",
        "[cat:dog:0.5]",
        "<lora:style:0.8>",
        "(sea:2)",
    ],
)
def test_syntax_of_other_programs_is_said_to_be_words(prompt):
    (warning,) = prompt_warnings(prompt, KNOWN)
    assert "read as words" in warning


def test_who_weights_a_concept_is_pointed_to_its_strength():
    for prompt, strength in (
        ("(V*alice:1.3)", "1.3"),
        ("a (photo of V*alice:1)", "1"),
        ("(red hair:1.2) (V*alice:.9)", ".9"),
        (f"({'a ' * 60}V*alice:1.3)", "1.3"),
    ):
        (warning,) = prompt_warnings(prompt, KNOWN)
        assert f"V*alice:{strength} without brackets" in warning
    (warning,) = prompt_warnings("a photo of V*alice: 0.7, at night", KNOWN)
    assert "V*alice:0.7 draws it" in warning
    assert not prompt_warnings("V*alice: 2 cats and a dog", KNOWN)
    (warning,) = prompt_warnings("V*\u0430lice", KNOWN)
    assert "CYRILLIC SMALL LETTER A" in warning


def test_what_captions_say_is_no_prompt():
    (warning,) = prompt_warnings("a photo of {token}", KNOWN)
    assert "V*NAME" in warning


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "a photo of V*alice (a friend), smiling",
        "V*alice's hat & V*bob-2, 50% off!",
        "V*falls, where water falls",
        "v*ALICE",
        "a ratio (16:9) at (10:30)",
        "2 * 3 = 6, V * 4",
        "malice and waterfalls, Val and valice",
        "a photo of a cat [sic] {again}",
        "\u5199\u771f V*alice",
    ],
)
def test_ordinary_prompts_are_in_no_doubt(prompt):
    assert prompt_warnings(prompt, KNOWN) == ()


@pytest.mark.parametrize("piece", ["(", "(a", "[V*", "V ", "*", "v\\", "V*alice ", "<a:"])
def test_prompts_of_any_length_are_judged_at_once(piece):
    began = time.process_time()
    for warning in prompt_warnings(piece * (120_000 // len(piece)), KNOWN):
        assert len(warning) < 500
    assert time.process_time() - began < 5
