"""timm's vision transformers: the same features as transformers' for the same weights, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTModel

from conceptctl.errors import NotFound
from conceptctl.families import vit
from conceptctl.store import base, weights
from conceptctl.workflows.init import initialize

CPU = torch.device("cpu")
SIDE, HEADS = 32, 3
NAMES = {"layernorm_before": "norm1", "layernorm_after": "norm2", "attention.output.dense": "attn.proj",
         "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2"}  # fmt: skip
ENDS = {"embeddings.cls_token": "cls_token", "embeddings.position_embeddings": "pos_embed",
        "embeddings.patch_embeddings.projection": "patch_embed.proj", "layernorm": "norm"}  # fmt: skip


def as_timm(tensors):
    """What timm calls the tensors of a ViT, and has in one matrix of them."""
    found = {"head.weight": torch.zeros(5, 24), "head.bias": torch.zeros(5)}
    for name, tensor in tensors.items():
        stem, part = name.rpartition(".")[::2]
        if name in ENDS or stem in ENDS:
            found[ENDS.get(name) or f"{ENDS[stem]}.{part}"] = tensor
        elif name.startswith("encoder.layer."):
            _, _, layer, rest = stem.split(".", 3)
            if rest == "attention.attention.query":
                rows = [tensors[name.replace("query", each)] for each in ("query", "key", "value")]
                found[f"blocks.{layer}.attn.qkv.{part}"] = torch.cat(rows)
            elif rest in NAMES:
                found[f"blocks.{layer}.{NAMES[rest]}.{part}"] = tensor
    return found


def write(folder, tensors=None, **config):
    said = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 5,
        "global_pool": "token",
        "model_args": {"img_size": [SIDE, SIDE], "in_chans": 3},
        "pretrained_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.3, 0.2, 0.1]},
        **config,
    }
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(said))
    if tensors is not None:
        save_file(tensors, folder / "model.safetensors")
    return str(folder)


@pytest.fixture(scope="module")
def plain():
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=HEADS, intermediate_size=40,
        image_size=SIDE, patch_size=16, layer_norm_eps=1e-6,
    )  # fmt: skip
    model = ViTModel(config, add_pooling_layer=False).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture(scope="module")
def tensors(plain, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    plain.save_pretrained(folder)
    return as_timm(load_file(folder / "model.safetensors"))


def test_the_features_are_those_of_the_same_weights(plain, tensors, tmp_path):
    backbone = vit.load(write(tmp_path / "timm", tensors), CPU)
    pixels = torch.randint(0, 256, (3, 3, SIDE, SIDE), dtype=torch.uint8)
    mean, deviation = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), torch.tensor([0.3, 0.2, 0.1]).view(3, 1, 1)
    with torch.no_grad():
        expected = plain((pixels / 255 - mean) / deviation).last_hidden_state[:, 0]
        assert torch.allclose(backbone.features(pixels), expected, atol=1e-5)
    assert (backbone.side, backbone.width, backbone.layers) == (SIDE, 24, 2)


def test_a_store_on_one_has_the_same_features_and_targets_by_the_names_of_its_file(tensors, tmp_path):
    folder = write(tmp_path / "timm", tensors)
    store = initialize(tmp_path / "store", folder).store
    head = store.head()
    with base.folder(store.layout, head) as laid_out:
        backbone = vit.load_base(laid_out, CPU, head.base)
    pixels = torch.randint(0, 256, (3, 3, SIDE, SIDE), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(backbone.features(pixels), vit.load(folder, CPU).features(pixels))
    kept = base.tensors(store.layout, head.base)
    assert len(backbone.targets()) == 6
    for path, module in backbone.targets().items():
        assert vit.FAMILY.is_target(path)
        assert torch.equal(torch.from_numpy(weights.read_floats(*kept[path][:2])), module.weight)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"architecture": "resnet50"}, "timm's 'resnet50' is not supported"),
        ({"architecture": "vit_base_patch14_reg4_dinov2"}, "is not supported"),
        ({"architecture": ["vit"]}, "is not supported"),
        ({"global_pool": "avg"}, "the pooling 'avg'"),
        ({"model_args": {"global_pool": "map"}}, "the pooling 'map'"),
        ({"model_args": {"qk_norm": True}}, "another qk_norm"),
        ({"model_args": ["x"]}, "model_args are no table"),
        ({"pretrained_cfg": {"mean": [0.5, 0.5], "std": [1, 1, 1]}}, "no whole vision transformer"),
    ],
)
def test_what_is_no_plain_vision_transformer_is_refused_by_its_configuration(tensors, tmp_path, config, said):
    with pytest.raises(NotFound, match=said) as refused:
        vit.load(write(tmp_path / "timm", tensors, **config), CPU)
    assert "vit_base_patch16_224" in refused.value.hint or "vision transformer" in str(refused.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"blocks.0.ls1.gamma": torch.ones(24)}, "it has blocks.0.ls1.gamma"),
        ({"pos_embed": torch.zeros(1, 0, 24)}, "its -1 patches are no square"),
        ({"pos_embed": torch.zeros(1, 1, 24)}, "its 0 patches are no square"),
        ({"reg_token": torch.ones(1, 4, 24)}, "it has reg_token"),
        ({"norm.weight": None}, "it has no "),
        ({"blocks.1.attn.qkv.weight": None}, "it has no "),
        ({"pos_embed": torch.ones(1, 4, 24)}, "no square with a class token"),
        ({"patch_embed.proj.weight": torch.ones(24, 1, 16, 16)}, "1 channels"),
        ({"patch_embed.proj.weight": None}, "no plain vision transformer"),
    ],
)
def test_what_is_no_plain_vision_transformer_is_refused_by_its_tensors(tensors, tmp_path, change, said):
    changed = {name: each for name, each in {**tensors, **change}.items() if each is not None}
    with pytest.raises(NotFound, match=said):
        vit.load(write(tmp_path / "timm", changed), CPU)


def test_weights_that_are_not_there_or_damaged_are_refused(tmp_path):
    with pytest.raises(NotFound, match=r"it has no model\.safetensors"):
        vit.load(write(tmp_path / "timm"), CPU)
    (tmp_path / "timm" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(NotFound, match="cannot be read"):
        vit.load(str(tmp_path / "timm"), CPU)
