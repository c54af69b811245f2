"""Columns: what each of them sees, and that a U-Net is as it was afterwards."""

import numpy as np
import pytest
import torch

from conceptctl.diffusion import models
from conceptctl.diffusion.conditioning import Prompts
from conceptctl.diffusion.regions import Composition, Regions, regions
from conceptctl.diffusion.sampling import draw, draw_set
from conceptctl.errors import UsageError
from tests.tiny_pipeline import write_tiny_pipeline

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return models.load_pipeline(write_tiny_pipeline(tmp_path_factory.mktemp("base")), CPU)


@pytest.fixture(scope="module")
def attention(pipeline):
    return next((name, module) for name, module in pipeline.unet.named_modules() if name.endswith("attn2"))[1]


def pixels(pictures):
    return np.stack([np.asarray(picture) for picture in pictures]).astype(int)


@pytest.mark.parametrize("columns", [1, 2, 3, 5])
def test_every_place_sees_the_whole_prompt_and_its_own_columns(columns):
    shared = Regions(columns, CPU)
    composed = shared.seen(64, 4 * (columns + 1)).unflatten(1, (columns + 1, 4))
    assert composed[:, 0].all()
    own = composed[:, 1:].all(dim=2)
    assert torch.equal(own, composed[:, 1:].any(dim=2))
    seen = own.T.view(columns, 8, 8)
    # In every row alike.
    assert torch.equal(seen, seen[:, :1].expand(-1, 8, -1))
    assert seen[0, 0, 0]
    assert seen[-1, 0, -1]
    for index, row in enumerate(seen[:, 0]):
        places = row.nonzero().flatten()
        assert torch.equal(places, torch.arange(places[0], places[-1] + 1))
        # Its column, and an eighth of its width more on either side: what is there by the middle of a place.
        wanted = [i for i in range(8) if (index - 1 / 8) * 8 <= (i + 0.5) * columns <= (index + 9 / 8) * 8]
        assert places.tolist() == wanted
    assert own.any(dim=1).all()


@pytest.mark.parametrize("columns", [4, 6, 7, 10, 40])
def test_every_column_is_seen_somewhere_however_many_there_are(columns):
    shared = Regions(columns, CPU)
    own = shared.seen(16, columns + 1)[:, 1:]
    assert own.any(dim=0).all()
    assert own.any(dim=1).all()


def test_pictures_that_are_not_square_have_no_columns():
    shared = Regions(2, CPU)
    with pytest.raises(UsageError, match="not square"):
        shared.seen(32, 6)


@torch.no_grad()
def test_what_is_said_of_a_column_stays_in_it(pipeline, attention):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 64, attention.to_q.in_features, generator=generator)
    states = torch.randn(2, 12, attention.to_k.in_features, generator=generator)
    with regions(pipeline.unet, 2) as shared:
        shared.compose(torch.tensor([True, False]))
        before = attention(features, states).view(2, 8, 8, -1)
        for block, side in ((1, slice(0, 5)), (2, slice(3, 8)), (0, slice(0, 8))):
            other = states.clone()
            other[:, 4 * block : 4 * block + 4] += 1
            changed = (attention(features, other).view(2, 8, 8, -1) - before).abs().amax(dim=-1) > 1e-4
            wanted = torch.zeros(8, 8, dtype=torch.bool)
            wanted[:, side] = True
            assert torch.equal(changed[0], wanted)
            assert torch.equal(changed[1], torch.full((8, 8), block == 0))
    plain = attention(features[1:], states[1:, :4])
    torch.testing.assert_close(before[1].flatten(0, 1), plain[0])


@torch.no_grad()
def test_without_columns_attention_is_that_of_diffusers(pipeline, attention):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 64, attention.to_q.in_features, generator=generator)
    states = torch.randn(2, 12, attention.to_k.in_features, generator=generator)
    wanted = attention(features, states)
    with regions(pipeline.unet, 2) as shared:
        assert torch.equal(attention(features, states), wanted)
        shared.compose(torch.tensor([False, True]))
        other = torch.randn(2, 24, attention.to_k.in_features, generator=generator)
        found = attention(features, torch.cat([states, other], dim=1))
        assert torch.equal(found[0], attention.processor.processor(attention, features[:1], states[:1])[0])
        assert not torch.allclose(found[1], wanted[1], atol=1e-3)
        shared.compose(torch.tensor([False, False]))
        assert torch.equal(attention(features, states), wanted)


def test_a_unet_is_as_it_was(pipeline):
    before = [module.processor for name, module in pipeline.unet.named_modules() if name.endswith("attn2")]
    assert before

    def now():
        return [module.processor for name, module in pipeline.unet.named_modules() if name.endswith("attn2")]

    with pytest.raises(KeyboardInterrupt), regions(pipeline.unet, 2):
        assert not set(map(id, now())) & set(map(id, before))
        raise KeyboardInterrupt
    assert all(one is other for one, other in zip(now(), before, strict=True))
    with regions(pipeline.unet, 0):
        assert all(one is other for one, other in zip(now(), before, strict=True))


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("columns", [1, 2, 3])
def test_columns_that_say_what_the_whole_says_change_nothing(pipeline, guidance, columns):
    how = {"steps": 3, "guidance": guidance}
    composed = Composition("a cat", ("a cat",) * columns)
    assert (
        np.abs(pixels(draw(pipeline, composed, [0, 1], **how)) - pixels(draw(pipeline, "a cat", [0, 1], **how))).max()
        <= 1
    )
    assert (
        np.abs(pixels(draw_set(pipeline, composed, 3, **how)) - pixels(draw_set(pipeline, "a cat", 3, **how))).max()
        <= 1
    )


def test_a_column_changes_the_picture(pipeline):
    def drawn(*columns, negative=""):
        return pixels(draw(pipeline, Composition("a cat", columns), [0], steps=3, guidance=4.0, negative=negative))

    different = [drawn("a dog", "a cat"), drawn("a cat", "a dog"), drawn("a cat", "a cat")]
    different.append(drawn("a dog", "a cat", negative="a cat"))
    assert all((one != other).any() for i, one in enumerate(different) for other in different[:i])


def test_prompts_of_examples_have_their_columns_behind_them(pipeline):
    texts = ["a cat", Composition("a dog", ("a cat", "two cats")), "a cat", Composition("a cat", ("a dog", "a cat"))]
    prompts = Prompts(pipeline, texts, number=-1)
    plain = {
        text: Prompts(pipeline, [text], number=-1).hidden(torch.tensor([0]))[0]
        for text in ("a cat", "a dog", "two cats")
    }
    assert prompts.columns == 2
    torch.testing.assert_close(prompts.hidden(torch.tensor([0, 2])), torch.stack([plain["a cat"]] * 2))
    chosen = torch.tensor([3, 0, 1])
    assert prompts.composed[chosen].tolist() == [True, False, True]
    found = prompts.hidden(chosen).unflatten(1, (3, -1))
    for place, said in ((0, ("a cat", "a dog", "a cat")), (2, ("a dog", "a cat", "two cats"))):
        torch.testing.assert_close(found[place], torch.stack([plain[text] for text in said]))
    torch.testing.assert_close(found[1, 0], plain["a cat"])
    assert Prompts(pipeline, ["a cat"], number=-1).columns == 0
