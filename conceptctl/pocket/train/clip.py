"""CLIP on the world: its text tower conditions the U-Net, its image tower makes the features of the metrics.

Contrastive as in the original, with two additions that make small batches enough: half of a batch are near twins of
the other half (one attribute differs, or is gone: CLIP, unlike the U-Net, so takes silence for absence), and both
towers also learn, through linear heads that are thrown away afterwards, to answer which attributes each subject has.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from conceptctl.pocket.train.data import Batches, spoil, to_signed, to_tensor
from conceptctl.pocket.train.heads import answer_layer, answer_loss
from conceptctl.pocket.train.loop import Losses, Recipe, Stage
from conceptctl.pocket.train.vocabulary import LENGTH, build_tokenizer, tokenize
from conceptctl.pocket.world.captions import Mentions, compose, draw_mentions
from conceptctl.pocket.world.kinds import KINDS, NONE
from conceptctl.pocket.world.labels import SIZES, SIZES_SAID, encode, encode_said
from conceptctl.pocket.world.render import render_with_layout
from conceptctl.pocket.world.scenes import Scene, draw_scene, reading_order

RECIPES = {
    "cpu": Recipe(samples=8_000_000, batch=64, learning_rate=1.5e-3, average=0.998, weight_decay=0.02),
    "cuda": Recipe(samples=8_000_000, batch=512, learning_rate=1.5e-3, average=0.998, weight_decay=0.02),
}
TEXT_WIDTH = 320
ANSWER_WEIGHT = 1.0
PICTURES_EVERY = 4
"""Every so many steps there are pictures; the others teach the text tower alone, at a third of the time."""


class Pairs(NamedTuple):
    """A batch of pictures with captions."""

    pictures: Tensor
    """uint8 (B, 3, 64, 64); none where only captions are learned from."""
    tokens: Tensor
    """(B, LENGTH), padded with the end token."""
    shown: Tensor
    """Labels of what each picture shows, subjects from left to right, (B, 2 * questions)."""
    said: Tensor
    """Labels of what each caption says, subjects in the order of the words, (B, 2 * questions)."""


def build(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Make the untrained model."""
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=5,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4, image_size=64, patch_size=8
    )
    return CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=192))


class _Clip(nn.Module):
    """CLIP and the heads that are thrown away."""

    def __init__(self, model: CLIPModel) -> None:
        super().__init__()
        self.model = model
        self.read_picture = answer_layer(192, 2)
        self.read_text = answer_layer(192, 2, SIZES_SAID)


class ClipStage(Stage[_Clip, Pairs]):
    """Trains both towers."""

    name = "clip"

    def __init__(self, device: torch.device, workspace: Path, *, batch: int, workers: int = 0) -> None:
        self.device = device
        self.tokenizer = build_tokenizer(workspace / "tokenizer")
        torch.manual_seed(0)
        self.network = _Clip(build(self.tokenizer)).to(device)
        self.batches = Batches(partial(_step, self.tokenizer, batch), workers)
        self.heldout = distinct_pairs(self.tokenizer, 192, "clip:heldout")

    def batch(self, step: int) -> Pairs:
        """Pictures and captions of a step."""
        return self.batches(step)

    def losses(self, batch: Pairs) -> Losses:
        """The contrastive loss, and the loss of the answers of both towers; without pictures, of the text tower's."""
        texts = self._texts(self.network, batch)
        said = _two_answers(self.network.read_text(texts), batch.said.to(self.device), SIZES_SAID)
        if not len(batch.pictures):
            return {"loss": ANSWER_WEIGHT * said, "said": said}
        pictures = self._pictures(self.network, batch, spoiled=True)
        scale = self.network.model.logit_scale.clamp(max=4.6).exp()
        logits = scale * functional.normalize(texts) @ functional.normalize(pictures).T
        target = torch.arange(len(logits), device=self.device)
        contrast = (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2
        shown = _two_answers(self.network.read_picture(pictures), batch.shown.to(self.device), SIZES)
        return {"loss": contrast + ANSWER_WEIGHT * (shown + said), "contrast": contrast, "shown": shown, "said": said}

    def measure(self, network: _Clip) -> dict[str, float]:
        """Retrieval among 192 held-out pairs: the share of captions that find their picture."""
        pictures, texts = self._pictures(network, self.heldout), self._texts(network, self.heldout)
        similar = functional.normalize(texts) @ functional.normalize(pictures).T
        found = similar.argmax(dim=1).cpu() == torch.arange(len(similar))
        return {"retrieval": found.float().mean().item()}

    def _pictures(self, network: _Clip, batch: Pairs, *, spoiled: bool = False) -> Tensor:
        pixels = normalize_pictures(batch.pictures, self.device)
        if spoiled:
            # What metrics compare are features of what a picture shows, not of how sharply a model draws.
            pixels = spoil(pixels)
        features: Tensor = network.model.visual_projection(network.model.vision_model(pixels).pooler_output)
        return features.float()

    def _texts(self, network: _Clip, batch: Pairs) -> Tensor:
        # What follows the end token changes nothing before it: the longest caption decides the length.
        longest = int((batch.tokens != self.tokenizer.eos_token_id).sum(dim=1).max()) + 1
        tokens = batch.tokens[:, :longest].to(self.device)
        features: Tensor = network.model.text_projection(network.model.text_model(tokens).pooler_output)
        return features.float()


def normalize_pictures(pictures: Tensor, device: torch.device) -> Tensor:
    """Scale uint8 pictures (B, 3, H, W) as CLIPImageProcessor does with mean 0.5 and deviation 0.5."""
    return to_signed(pictures, device).contiguous()


def _step(tokenizer: CLIPTokenizer, batch: int, step: int) -> Pairs:
    return picture_pairs(tokenizer, batch, f"clip:{step}", rendered=step % PICTURES_EVERY == 0)


def _two_answers(logits: Tensor, labels: Tensor, sizes: Sequence[int]) -> Tensor:
    first, second = logits.chunk(2, dim=1)
    ours, theirs = labels.chunk(2, dim=1)
    return (answer_loss(first, ours, sizes) + answer_loss(second, theirs, sizes)) / 2


def picture_pairs(tokenizer: CLIPTokenizer, size: int, seed: str, *, rendered: bool = True) -> Pairs:
    """Render captioned pictures, every second one a near twin of the one before it.

    Args:
        tokenizer: Turns captions into tokens.
        size: How many pairs.
        seed: Decides them all.
        rendered: Make the pictures too, and not only the captions.
    """
    rng = random.Random(seed)
    rows = []
    for _ in range(size // 2):
        scene = draw_scene(rng)
        most = 5 if len(scene.subjects) == 1 else 3
        mentions = [draw_mentions(subject, rng, least=1, most=most) for subject in scene.subjects]
        rows += [(scene, mentions), near_twin(scene, mentions, rng)]
    return _render_pairs(tokenizer, rows, rng) if rendered else _captions_of(tokenizer, rows)


def distinct_pairs(tokenizer: CLIPTokenizer, size: int, seed: str) -> Pairs:
    """Render pictures with captions that name all that can be named, so that each caption fits one picture alone."""
    rng = random.Random(seed)
    rows: list[tuple[Scene, list[Mentions]]] = []
    for _ in range(size):
        scene = draw_scene(rng)
        most = 6 if len(scene.subjects) == 1 else 3
        rows.append((scene, [draw_mentions(subject, rng, least=most, most=most) for subject in scene.subjects]))
    return _render_pairs(tokenizer, rows, rng)


def near_twin(scene: Scene, mentions: list[Mentions], rng: random.Random) -> tuple[Scene, list[Mentions]]:
    """Change one attribute that a caption names, or take away what it names.

    Args:
        scene: The scene.
        mentions: What the caption names of each subject.
        rng: The only source of randomness.

    Returns:
        The other scene and what is named of it; the same ones where nothing can be changed.
    """
    which = rng.randrange(len(scene.subjects))
    subject = scene.subjects[which]
    changeable = [name for name in mentions[which] if mentions[which][name] == subject[name]]
    if not changeable:
        return scene, mentions
    name = rng.choice(changeable)
    attribute = next(item for item in KINDS[subject.kind] if item.name == name)
    value = rng.choice([value for value in attribute.common if value not in (subject[name], "bald")])
    twin = subject.replaced(**{name: value})
    # Nothing is said of what a subject lacks.
    names = {key: each for key, each in {**mentions[which], name: value}.items() if key in twin.shown()}
    if value == NONE:
        del names[name]
    subjects = tuple(twin if i == which else item for i, item in enumerate(scene.subjects))
    said = [names if i == which else item for i, item in enumerate(mentions)]
    return Scene(subjects, scene.place, scene.light, scene.relation), said


def _render_pairs(tokenizer: CLIPTokenizer, rows: list[tuple[Scene, list[Mentions]]], rng: random.Random) -> Pairs:
    pictures, shown = [], []
    for scene, _ in rows:
        picture, spots = render_with_layout(scene, rng)
        pictures.append(picture)
        shown.append(_both([encode(scene.subjects[index]) for index in reading_order(spots)]))
    return _captions_of(tokenizer, rows)._replace(pictures=to_tensor(pictures), shown=torch.tensor(shown))


def _captions_of(tokenizer: CLIPTokenizer, rows: list[tuple[Scene, list[Mentions]]]) -> Pairs:
    tokens = tokenize(tokenizer, [compose(scene, mentions) for scene, mentions in rows])
    said = [
        _both([encode_said(each, names) for each, names in zip(scene.subjects, mentions, strict=True)])
        for scene, mentions in rows
    ]
    none = torch.empty(0, dtype=torch.uint8)
    return Pairs(none, tokens, none, torch.tensor(said))


def _both(labels: list[list[int]]) -> list[int]:
    return labels[0] + (labels[1] if len(labels) == 2 else encode(None))
