"""The base's tokenizer: a small byte-pair vocabulary in CLIP's format that still spells any text."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPTokenizer

from conceptctl.pocket.world.captions import caption
from conceptctl.pocket.world.scenes import draw_scene

LENGTH = 32
"""Tokens of a prompt, the first and the last of which mark its ends."""

_SIZE = 1400
_COMMON = """
the of and to in is you that it he was for on are as with his they at be this have from or one had by word but not
what all were we when your can said there use an each which she do how their if will up other about out many then
them these so some her would make like him into time has look two more write go see number no way could people my
than first water been call who oil its now find long down day did get come made may part wearing standing sitting
posing holding walking running playing smiling front background portrait painting drawing sketch colour color style
bright soft light girl boy woman man child baby friend family house home tree river mountain sea sky sun moon star
flower garden street
"""


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Learn the vocabulary from captions and common English words, and save it.

    Every word of the world's captions becomes one token; anything else is spelled in smaller pieces, down to bytes.

    Args:
        folder: Where the tokenizer's files are written.

    Returns:
        The tokenizer, padded and cut to `LENGTH` tokens.
    """
    rng = random.Random("vocabulary")
    texts = [caption(draw_scene(rng), rng) for _ in range(4000)] + _COMMON.split() * 3
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    learner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=_SIZE, end_of_word_suffix="</w>", initial_alphabet=sorted(alphabet), show_progress=False
        ),
    )
    merges = [tuple(merge) for merge in json.loads(learner.to_str())["model"]["merges"]]
    # Every byte stands in the vocabulary twice, within a word and at its end, so that nothing is ever unknown.
    pieces = [*sorted(alphabet), *(f"{letter}</w>" for letter in sorted(alphabet))]
    pieces += [first + last for first, last in merges]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH)
    tokenizer.save_pretrained(folder)
    # The two files of the original format, which many programs read instead of tokenizer.json.
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False) + "\n", encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tokenizer


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Turn texts into tokens (B, LENGTH), cut or padded with the end token."""
    tokens: Tensor = tokenizer(
        texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
    ).input_ids
    return tokens
