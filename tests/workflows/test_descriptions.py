"""What is said of what is around a concept."""

import random
import statistics

import pytest
import torch

from conceptctl import pocket
from conceptctl.diffusion import models
from conceptctl.families.sd import FAMILY
from conceptctl.pocket.world.captions import compose
from conceptctl.pocket.world.concepts import concept
from conceptctl.pocket.world.render import render
from conceptctl.pocket.world.scenes import scene_of
from conceptctl.store import base
from conceptctl.store.store import Store
from conceptctl.workflows import usual_prompts
from conceptctl.workflows.extractor import open_extractor
from conceptctl.workflows.learn import descriptions

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    source = base.inspect(pocket.base_folder(), FAMILY)
    store = Store.create(tmp_path_factory.mktemp("stores") / "store", source, "pocket")
    return open_extractor(store.head().base, None, CPU)


@pytest.fixture(scope="module")
def tokenizer():
    return models.load_pipeline(pocket.base_folder(), CPU).tokenizer


@pytest.mark.parametrize("kind", ["person", "waterfall", "mug"])
def test_places_and_lights_are_seen(extractor, tokenizer, kind):
    right, wrong = [], []
    for seed in range(500, 510):
        subject = concept(kind, seed).subject
        scenes = [scene_of(random.Random(f"{seed}:{index}"), subject) for index in range(12)]
        pictures = [render(scene, random.Random(index)) for index, scene in enumerate(scenes)]
        said = descriptions.surroundings(extractor, tokenizer, pictures, kind)
        wanted = [compose(scene, [{}]).removeprefix(f"a photo of a {kind}").strip() for scene in scenes]
        right += [found == true for found, true in zip(said, wanted, strict=True)]
        wrong += [not set(found.split()) <= set(true.split()) for found, true in zip(said, wanted, strict=True)]
    assert statistics.mean(right) > 0.7
    # Briefly rather than wrongly.
    assert statistics.mean(wrong) < 0.16


def test_only_words_that_the_base_knows_are_said(tokenizer):
    assert usual_prompts.known_phrases(tokenizer, ["on a beach", "on a zeppelin"]) == ["on a beach"]


def test_a_described_picture_is_learned_alone_and_with_what_is_around_it():
    plain = "a photo of a V*alice"
    full = "a photo of a V*alice at night"
    assert descriptions.described(plain, "at night") == [plain, full, full, "V*alice at night"]
    assert descriptions.described(plain, "") == [plain, plain, plain, "V*alice"]


def test_half_of_what_earlier_concepts_are_kept_under_is_plain(tokenizer):
    found = usual_prompts.usual(tokenizer, "alice")
    assert 2 * found.count("a photo of a V*alice") == len(found)
    assert "a photo of a V*alice on a beach" in found
