"""Whether pictures show one thing."""

import pytest
import torch

from conceptctl import pocket
from conceptctl.metrics.coherence import coherence, sample_similarity, similarity
from conceptctl.metrics.features import load_extractor
from conceptctl.pocket.world.concepts import concept
from conceptctl.presets import shipped
from conceptctl.workflows.learn.picture_texts import LEAST


def test_the_similarity_is_the_mean_cosine_of_all_pairs_whatever_the_lengths():
    features = torch.tensor([[3.0, 0.0], [0.0, 0.1], [5.0, 5.0]])
    assert similarity(features) == pytest.approx((0 + 2 * 0.5**0.5) / 3)
    assert similarity(torch.ones(4, 7)) == pytest.approx(1)


def test_the_scale_goes_from_different_things_to_one_picture():
    features = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    assert coherence(torch.ones(4, 7), 0.3) == pytest.approx(1)
    assert coherence(features, similarity(features)) == pytest.approx(0)
    assert coherence(torch.eye(3), 0.5) == pytest.approx(-1)


def test_samples_are_measured_against_how_alike_the_pictures_are():
    pictures = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    # Cosines of 0.6 between the two, of 0.8 and 0.96 with the first sample, of 0 and 0.8 with the second.
    assert sample_similarity(torch.tensor([[8.0, 6.0]]), pictures, 0.2) == pytest.approx((0.88 - 0.2) / 0.4)
    assert sample_similarity(torch.tensor([[0.0, 3.0]]), pictures, 0.2) == pytest.approx((0.4 - 0.2) / 0.4)
    assert sample_similarity(torch.tensor([[8.0, 6.0], [0.0, 3.0]]), pictures, 0.2) == pytest.approx((0.64 - 0.2) / 0.4)


def test_on_the_bundled_base_concepts_are_on_one_side_and_different_things_on_the_other():
    extractor = load_extractor(pocket.clip_folder(), "pocket", torch.device("cpu"))
    kinds = shipped()["pocket"].learn.classes
    first, second = (
        extractor.images([concept(kinds[at % 8], seed + at).training_view(0) for at in range(24)])
        for seed in (555_000, 556_000)
    )
    different = similarity(first)
    assert coherence(second, different) < LEAST - 0.1
    for kind, seed in (("person", 81), ("waterfall", 82), ("teapot", 83), ("cat", 84)):
        shown = concept(kind, seed)
        assert coherence(extractor.images([shown.training_view(at) for at in range(6)]), different) > LEAST
