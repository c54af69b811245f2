"""Features: the model's own, whatever their company, and of whole CLIP models only."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPModel, CLIPTextModel

from conceptctl import pocket
from conceptctl.errors import NotFound
from conceptctl.metrics.features import BATCH, load_extractor
from conceptctl.store.manifest import Base, BlobRef
from conceptctl.workflows.extractor import open_extractor
from tests.tiny_clip import PROJECTION, write_tiny_clip

CPU = torch.device("cpu")
DEFAULT = "openai/clip-vit-base-patch32"
"""What Stable Diffusion's preset names."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def extractor(folder):
    return load_extractor(folder, "local folder", CPU)


def pictures(count, side=16):
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(count)]


def base(name):
    return Base(name, "0" * 64, {}, BlobRef("0" * 64, 0))


def test_features_are_the_models_own_at_unit_length(folder, extractor):
    model = CLIPModel.from_pretrained(folder).eval()
    given = pictures(3)
    pixels = torch.stack([torch.from_numpy(np.asarray(each).copy()).permute(2, 0, 1) / 255 for each in given])
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    with torch.no_grad():
        plain = model.visual_projection(model.vision_model(pixel_values=(pixels - mean) / std).pooler_output)
    expected = plain / plain.norm(dim=1, keepdim=True)
    found = extractor.images(given)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_picture_has_the_same_bits_whatever_stands_beside_it(extractor):
    many = pictures(BATCH + 3)
    together = extractor.images(many)
    assert together.shape == (BATCH + 3, PROJECTION)
    assert torch.equal(together[:5], extractor.images(many[:5]))
    assert torch.equal(together[-1:], extractor.images(many[-1:]))
    assert not torch.equal(together[0], together[1])
    assert extractor.images([]).shape == (0, PROJECTION)


def test_prompts_have_features_in_the_same_space(extractor):
    found = extractor.texts(["a photo of a cat", "a photo of a waterfall", "a cat " * 100])
    assert found.shape == (3, PROJECTION)
    assert torch.allclose(found.norm(dim=1), torch.ones(3))
    assert not torch.equal(found[0], found[1])


def test_other_sizes_and_modes_are_made_to_fit(extractor):
    assert extractor.images([Image.new("L", (40, 30)), Image.new("RGBA", (7, 9))]).shape == (2, PROJECTION)


def test_the_digest_is_that_of_the_weights(folder, extractor, tmp_path):
    other = load_extractor(write_tiny_clip(tmp_path / "other", seed=1), "local folder", CPU)
    assert len(extractor.sha256) == 64
    assert load_extractor(folder, "another name", CPU).sha256 == extractor.sha256 != other.sha256


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "preprocessor_config.json"])
def test_a_folder_without_one_of_its_files_is_none(name, folder, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / name).unlink()
    with pytest.raises(NotFound, match=f"no .*{name.split('.')[-1]}") as caught:
        load_extractor(broken, "local folder", CPU)
    assert "--feature-extractor" in caught.value.hint


def test_a_folder_without_a_tokenizer_is_none(folder, tmp_path):
    broken = shutil.copytree(folder, tmp_path / "broken")
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (broken / name).unlink()
    with pytest.raises(NotFound, match="tokenizer"):
        load_extractor(broken, "local folder", CPU)


def test_one_tower_is_no_clip_model(folder, tmp_path):
    half = shutil.copytree(folder, tmp_path / "half")
    CLIPTextModel(CLIPModel.from_pretrained(folder).config.text_config).save_pretrained(half)
    with pytest.raises(NotFound, match="no "):
        load_extractor(half, "local folder", CPU)


def test_the_bundled_base_has_one_of_its_own():
    found = open_extractor(base("pocket"), None, CPU)
    assert found.name == "pocket"
    red, blue = found.images([Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")])
    assert 0 < float(red @ blue) < 1
    assert len(found.sha256) == 64
    assert pocket.clip_folder().is_dir()


def test_a_folder_that_is_named_wins(folder):
    assert open_extractor(base("pocket"), str(folder), CPU).name == "local folder"
    with pytest.raises(NotFound, match="no such folder"):
        open_extractor(base("local folder"), "/no/such/folder", CPU)


def test_without_a_network_the_commands_that_help_are_named(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*_, **__):
        raise LocalEntryNotFoundError("cannot reach the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(NotFound, match=DEFAULT) as caught:
        open_extractor(base("local folder"), None, CPU)
    assert "hf download openai/clip-vit-base-patch32 --revision c237dc49" in caught.value.hint


@pytest.mark.parametrize("named", ["./nowhere", "models/two--dashes"])
def test_what_can_be_no_hub_id_is_not_found(named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFound):
        open_extractor(base("local folder"), named, CPU)


def test_the_default_is_pinned_and_the_cache_is_asked_first(folder, monkeypatch):
    import huggingface_hub

    asked = []

    def snapshot(repository, **options):
        asked.append((repository, options["revision"], options.get("local_files_only", False)))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert open_extractor(base("owner/model"), None, CPU).name == DEFAULT
    assert asked == [(DEFAULT, "c237dc49a33fc61debc9276459120b7eac67e7ef", True)]


@pytest.mark.parametrize(("named", "revision"), [(DEFAULT, "c237dc49a33fc61debc9276459120b7eac67e7ef"), ("a/b", None)])
def test_it_is_pinned_on_every_base_that_it_is_asked_for(named, revision, folder, monkeypatch):
    import huggingface_hub

    asked = []

    def snapshot(repository, **options):
        asked.append((repository, options["revision"]))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    for name in ("pocket", "owner/model"):
        assert open_extractor(base(name), named, CPU).name == named
    assert asked == [(named, revision)] * 2
