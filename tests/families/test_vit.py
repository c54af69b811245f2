"""Vision transformers: features as transformers has them, prompts, a head that grows, refusals."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from conceptctl.errors import AlreadyExists, NotFound
from conceptctl.families import vit
from conceptctl.learning.backbone import Noising
from conceptctl.learning.prompts import Prompts
from tests.tiny_vit import SIDE, write_tiny_vit

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_vit(tmp_path_factory.mktemp("vit"))


@pytest.fixture
def backbone(folder):
    found = vit.load(str(folder), CPU)
    found.freeze()
    return found


def pixels(count=3, side=SIDE):
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, (count, 3, side, side), dtype=np.uint8))


def row(value, width=16):
    return {vit.HEAD: torch.full((1, width + 1), float(value))}


def test_features_are_those_of_transformers(folder, backbone):
    from transformers import ViTModel

    plain = ViTModel.from_pretrained(folder, add_pooling_layer=False).eval()
    mean, deviation = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    with torch.no_grad():
        expected = plain((pixels() / 255 - mean) / deviation).last_hidden_state[:, 0]
        assert torch.allclose(backbone.features(pixels()), expected, atol=1e-5)


def test_the_bundled_towers_features_are_those_of_clip():
    from transformers import CLIPVisionModel

    from conceptctl import pocket

    plain = CLIPVisionModel.from_pretrained(pocket.clip_folder(), dtype=torch.float32).eval()
    given = pixels(2, 64)
    with torch.no_grad():
        expected = plain(given / 127.5 - 1).pooler_output
        assert torch.allclose(vit.load(vit.BUNDLED, CPU).features(given), expected, atol=1e-4)


def test_targets_are_queries_keys_and_values_of_every_layer(backbone):
    assert len(backbone.targets()) == 3 * backbone.layers
    assert all(module.weight.shape == (16, 16) for module in backbone.targets().values())


def test_a_prefix_is_attended_to_in_its_layer_alone(backbone):
    layer = 1
    keys, values = torch.randn(3, 4, 16), torch.randn(3, 4, 16)
    seen = []
    names = list(backbone.targets())
    query, key, value, after = (backbone.targets()[name] for name in (*names[3:6], names[0]))
    inputs = {}
    for name, module in (("q", query), ("k", key), ("v", value), ("first", after)):
        module.register_forward_hook(lambda module, given, output, name=name: inputs.update({name: output}))
    out = backbone._model.get_submodule(names[3].removeprefix("vision/").rpartition(".")[0].rpartition(".")[0])
    out.o_proj.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    source = lambda query: Prompts(prefixes={layer: (keys, values)})  # noqa: E731
    with torch.no_grad(), backbone.prompted(source):
        backbone.features(pixels())

    def heads(states):
        return states.unflatten(2, (2, 8)).transpose(1, 2)

    all_keys, all_values = torch.cat([keys, inputs["k"]], 1), torch.cat([values, inputs["v"]], 1)
    weights = (heads(inputs["q"]) @ heads(all_keys).transpose(2, 3) / 8**0.5).softmax(-1)
    expected = (weights @ heads(all_values)).transpose(1, 2).flatten(2)
    assert torch.allclose(seen[-1], expected, atol=1e-5)


def test_prepended_tokens_are_classified_and_the_query_is_without_them(backbone):
    asked = []

    def source(query):
        asked.append(query)
        return Prompts(prepended=torch.zeros(3, 2, 16))

    with torch.no_grad():
        plain = backbone.features(pixels())
        with backbone.prompted(source):
            prompted = backbone.features(pixels())
        again = backbone.features(pixels())
    assert torch.equal(asked[0], plain)
    assert not torch.allclose(prompted, plain)
    assert torch.equal(again, plain)


def test_the_loss_is_cross_entropy_over_the_classes_of_the_task(backbone):
    generator = torch.Generator().manual_seed(0)
    for name in ("cat", "dog", "duck"):
        backbone.add_token(name, {vit.HEAD: torch.randn(1, 17, generator=generator)})
    objective = backbone.objective(Noising())
    # Only two of the three are of the task.
    conditions = backbone.conditions(["duck", "dog", "duck"], [1, 2])
    noised = objective.corrupt(pixels(), torch.Generator().manual_seed(3))
    with torch.no_grad():
        losses = objective.loss(objective.predict(noised, conditions.of_examples(torch.arange(3))), noised)
        head = backbone.token_tables()[vit.HEAD].weight[1:]
        logits = backbone.features(noised.inputs) @ head[:, :-1].T + head[:, -1]
        expected = functional.cross_entropy(logits, torch.tensor([1, 0, 1]), reduction="none")
        other = objective.predict(noised, conditions.of_prompt("dog", torch.arange(3)))
    assert torch.allclose(losses, expected, atol=1e-5)
    assert torch.allclose(other[:, 0], logits.log_softmax(1)[:, 0], atol=1e-5)


def test_some_pictures_are_mirrored_and_none_is_changed_otherwise(backbone):
    clean = pixels(32)
    given = backbone.objective(Noising()).corrupt(clean, torch.Generator().manual_seed(0)).inputs
    mirrored = [torch.equal(one, other.flip(-1)) for one, other in zip(given, clean, strict=True)]
    kept = [torch.equal(one, other) for one, other in zip(given, clean, strict=True)]
    assert all(one != other for one, other in zip(mirrored, kept, strict=True))
    assert 0 < sum(mirrored) < 32


def test_a_class_is_there_once(backbone):
    assert backbone.add_token("cat", row(0)) == 0
    assert backbone.add_token("dog", row(1)) == 1
    with pytest.raises(AlreadyExists, match="'cat'"):
        backbone.add_token("cat", row(0))
    assert backbone.classify(pixels()).shape == (3, 2)


@pytest.mark.parametrize("spoil", ["config", "nested", "weights", "kind"])
def test_what_is_no_vision_transformer_is_refused(tmp_path, spoil):
    folder = write_tiny_vit(tmp_path / "model")
    if spoil == "config":
        (folder / "config.json").write_text("{")
    elif spoil == "nested":
        (folder / "config.json").write_text("[" * 100_000)
    elif spoil == "weights":
        (folder / "model.safetensors").unlink()
    else:
        (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(NotFound) as caught:
        vit.load(str(folder), CPU)
    assert "ViT" in caught.value.hint


@pytest.mark.parametrize(
    ("file", "change"),
    [
        *(
            ("config.json", {name: value})
            for name, value in [
                ("image_size", [16, 16]), ("image_size", None), ("image_size", -16), ("hidden_size", "x"),
                ("num_attention_heads", 0), ("num_hidden_layers", 0), ("num_hidden_layers", 99),
                ("model_type", [1]), ("hidden_act", "none"),
            ]
        ),
        *(
            ("preprocessor_config.json", {name: value})
            for name, value in [
                ("image_mean", None), ("image_mean", "x"), ("image_mean", [1, 2]), ("image_std", [0, 0, 0]),
            ]
        ),
        ("model.safetensors", b""),
        ("model.safetensors", b"\xff" * 500),
    ],
)  # fmt: skip
def test_numbers_that_cannot_be_meant_and_damaged_files_are_refused(tmp_path, file, change):
    path = write_tiny_vit(tmp_path / "model") / file
    path.write_bytes(
        change if isinstance(change, bytes) else json.dumps(json.loads(path.read_text()) | change).encode()
    )
    with pytest.raises(NotFound) as caught:
        vit.load(str(path.parent), CPU)
    assert "ViT" in caught.value.hint


def test_a_weight_of_another_shape_is_named(tmp_path):
    path = write_tiny_vit(tmp_path / "model") / "model.safetensors"
    tensors = load_file(path)
    name = next(each for each in sorted(tensors) if each.endswith(("query.weight", "q_proj.weight")))
    save_file({**tensors, name: tensors[name][:3].contiguous()}, path, {"format": "pt"})
    with pytest.raises(NotFound, match=r"q(uery|_proj)\.weight has the shape \(3, 16\), not \(16, 16\)"):
        vit.load(str(path.parent), CPU)


def test_a_name_that_is_neither_a_folder_nor_in_the_cache_is_not_found():
    with pytest.raises(NotFound, match="no folder"):
        vit.load("nobody/nothing", CPU)
