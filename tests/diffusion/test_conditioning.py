"""Prompts to hidden states: as the pipeline does it, with a learned row in place of the table's, and their moments."""

import pytest
import torch

from conceptctl.diffusion.conditioning import PromptStates, reference_factor, with_prompts
from conceptctl.diffusion.networks import text_encoders_of
from conceptctl.families import sd
from conceptctl.learning.weights import token_override
from tests.tiny_pipeline import WIDTH, write_tiny_pipeline

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def backbone(request, tmp_path_factory):
    folder = write_tiny_pipeline(tmp_path_factory.mktemp("base"), prediction_type=request.param)
    loaded = sd.load(folder, CPU)
    loaded.alice = loaded.add_token("alice", loaded.token_start("cat"))
    return loaded


@pytest.fixture
def pipeline(backbone):
    return backbone.pipeline


def states_of(pipeline, texts, token_ids=()):
    return PromptStates(text_encoders_of(pipeline), texts, token_ids)


def override_of(backbone, *token_ids):
    return token_override(backbone.token_tables(), token_ids, backbone.token_numbers(token_ids))


def factor_of(pipeline, texts, **how):
    return reference_factor(text_encoders_of(pipeline), texts, **how)


def test_a_learned_row_stands_in_for_the_tables(backbone, pipeline):
    row = torch.randn(1, WIDTH, requires_grad=True)
    table = pipeline.text_encoder.get_input_embeddings().weight
    before = table.clone()
    prompts = states_of(pipeline, ["a V*alice", "a cat"], [backbone.alice])
    with override_of(backbone, backbone.alice) as override:
        override.rows = {"text_encoder": row}
        attached = prompts.of_examples(torch.tensor([0, 1, 0]))
        assert torch.equal(prompts.of_prompt("a V*alice", torch.arange(1))[0], attached[0])
        attached.sum().backward()
        override.rows = {"text_encoder": row.detach() + 1}
        # What names a learned token is encoded anew, and what does not is kept.
        assert not torch.equal(prompts.of_prompt("a V*alice", torch.arange(1))[0], attached[0])
        assert (
            prompts.of_prompt("a dog", torch.arange(1)).data_ptr()
            == prompts.of_prompt("a dog", torch.arange(1)).data_ptr()
        )
    assert row.grad is not None
    backbone.set_token(backbone.alice, {"text_encoder": row.detach()})
    assert torch.equal(prompts.of_examples(torch.tensor([0, 1, 0])), attached)
    others = torch.arange(len(table)) != backbone.alice
    assert torch.equal(table[others], before[others])


def test_rows_of_several_tokens_stand_in_each_for_its_own(backbone, pipeline):
    other = pipeline.tokenizer.convert_tokens_to_ids("dog</w>")
    rows = torch.randn(2, WIDTH)
    with override_of(backbone, backbone.alice, other) as override:
        override.rows = {"text_encoder": rows}
        table = pipeline.text_encoder.get_input_embeddings()
        found = table(torch.tensor([[other, backbone.alice, 5]]))[0]
    assert torch.equal(found[:2], rows.flip(0))
    assert torch.equal(found[2], table.weight[5])


def test_prompts_are_encoded_as_the_pipeline_does(backbone, pipeline):
    texts = ["a photo of a cat", "V*alice in the snow", "a photo of a V*alice", "a photo of a cat"]
    prompts = states_of(pipeline, texts, [backbone.alice])
    hidden = prompts.of_examples(torch.arange(4))
    for index, text in enumerate(texts):
        wanted, _ = pipeline.encode_prompt(text, CPU, 1, False)
        assert torch.allclose(hidden[index], wanted[0], atol=1e-6)
        assert torch.allclose(prompts.of_prompt(text, torch.arange(2))[1], wanted[0], atol=1e-6)
    assert prompts.learned == 2


@pytest.fixture(params=["<|endoftext|>", "!"])
def padded(request, pipeline):
    # Stable Diffusion 2 pads with "!".
    usual = pipeline.tokenizer.pad_token
    pipeline.tokenizer.pad_token = request.param
    yield pipeline
    pipeline.tokenizer.pad_token = usual


def test_the_factor_is_of_random_prompts_of_the_empty_one_and_of_what_is_named(padded):
    pipeline = padded

    def moment(texts):
        root = factor_of(pipeline, texts)
        return root @ root.T

    def states(text):
        hidden, _ = pipeline.encode_prompt(text, CPU, 1, False)
        return hidden[0].T @ hidden[0] / len(hidden[0])

    # 256 prompts of random words, and 32 times each that is named, the empty one being always named.
    few, more = 288 * moment([]), 320 * moment(["a photo of a V*alice"])
    named = (more - few) / 32
    assert (named - states("a photo of a V*alice")).norm() < 0.02 * named.norm()
    assert torch.equal(factor_of(pipeline, []), factor_of(pipeline, []))
    without_empty = few - 32 * states("")
    assert torch.linalg.eigvalsh(without_empty).min() > -0.01 * without_empty.trace()


def test_each_kept_concept_weighs_half_however_many_prompts_and_concepts_there_are(pipeline):
    usual = factor_of(pipeline, [])
    concepts = [["a photo of a cat", "cat"], ["a photo of a dog on a beach"], ["mug", "a mug", "the mug"]]
    root = with_prompts(text_encoders_of(pipeline), usual, concepts)
    wanted = usual @ usual.T
    for texts in concepts:
        for text in texts:
            hidden = pipeline.encode_prompt(text, CPU, 1, False)[0][0]
            wanted = wanted + 0.5 / len(texts) * hidden.T @ hidden / len(hidden)
    assert (root @ root.T - wanted).norm() < 1e-3 * wanted.norm()
    assert root.shape[1] <= usual.shape[0]


def test_the_factor_is_of_whole_words(pipeline, monkeypatch):
    tokenizer = pipeline.tokenizer
    asked = []
    monkeypatch.setattr(
        pipeline.text_encoder, "forward", lambda numbers: asked.append(numbers) or (torch.ones(*numbers.shape, 4),)
    )
    factor_of(pipeline, ["a cat"], without=[tokenizer.convert_tokens_to_ids("cat</w>")])
    usual = {*tokenizer.all_special_ids, *tokenizer("a photo of a").input_ids}
    random = {*torch.cat(asked)[:256].flatten().tolist()} - usual
    words = tokenizer.convert_ids_to_tokens(sorted(random))
    assert len(words) > 8
    assert all(word.endswith("</w>") and len(word) > len("x</w>") for word in words)
    assert all(word.removesuffix("</w>").isalpha() for word in words)
    assert "cat</w>" not in words
