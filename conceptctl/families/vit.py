"""Vision transformers that tell classes apart: a ViT of transformers, or the image tower of a CLIP model.

Nothing of latent diffusion is in it. A picture's condition is its class, what is predicted of it under a class is that
class's log-probability, and its target is 0. The rows of the table `head` are the classes': a class is learned as a
token is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from conceptctl.errors import AlreadyExists, StoreDamaged
from conceptctl.families import vit_checkpoints
from conceptctl.learning.backbone import Crop, Noised, Noising
from conceptctl.learning.prompts import Prefix, Prompts, prefixed
from conceptctl.store.manifest import Family

if TYPE_CHECKING:
    import numpy as np

    from conceptctl.learning.weights import TableNumbers, TokenRows
    from conceptctl.store.manifest import Base

NAME = "vit"
BUNDLED = vit_checkpoints.BUNDLED
HEAD = "head"
COMPONENT = "vision"
FAMILY = Family(
    name=NAME,
    components=(COMPONENT,),
    targets=tuple(f"{COMPONENT}/*.{name}.weight" for name in vit_checkpoints.SELF_QKV),
    token_tables={},
)
_CONCEPTS = "it is of concepts that are drawn, and here classes are told apart"
UNSUPPORTED: Mapping[str, str] = {
    "snr_gamma": _CONCEPTS,
    "p2_gamma": _CONCEPTS,
    "timestep_sampling": _CONCEPTS,
    "prompts": _CONCEPTS,
    "stopping": "classes are learned in epochs",
}
"""Methods' settings that mean nothing here, and why."""
_ATTENTION = "prompted"
_TOGETHER = 256
"""Pictures that are classified together."""


@dataclass(frozen=True)
class Classes:
    """The condition of a batch: which class each picture is of, among those of the task."""

    labels: Tensor
    """(B,), counted among `rows`."""
    rows: Tensor
    """The task's classes: their rows in the head, (C,)."""

    def __getitem__(self, part: slice) -> Classes:
        return Classes(self.labels[part], self.rows)


class ClassConditions:
    """The classes of a training's examples."""

    def __init__(self, prompts: Sequence[str], numbers: Mapping[str, int], device: torch.device) -> None:
        rows = sorted({numbers[prompt] for prompt in prompts})
        self._places = {row: place for place, row in enumerate(rows)}
        self._numbers = numbers
        self._rows = torch.tensor(rows, device=device)
        self._labels = torch.tensor([self._places[numbers[prompt]] for prompt in prompts])

    def of_examples(self, indices: Tensor) -> Classes:
        """The classes of some examples, given by their indices (B,) on the CPU."""
        return Classes(self._labels[indices].to(self._rows.device), self._rows)

    def of_prompt(self, prompt: str, indices: Tensor) -> Classes:
        """One class of the task in the place of those of some examples."""
        labels = torch.full((len(indices),), self._places[self._numbers[prompt]])
        return Classes(labels.to(self._rows.device), self._rows)


class ClassObjective:
    """Cross-entropy over the classes of the task: logits of other tasks' classes are left out in training.

    What stands for noise is a mirrored picture: each is one by chance.
    """

    def __init__(self, backbone: VitBackbone, autocast: Callable[[], AbstractContextManager[None]]) -> None:
        self.backbone, self.autocast = backbone, autocast

    def corrupt(self, clean: Tensor, generator: torch.Generator) -> Noised:
        """Mirror some of the pictures, (B, 3, S, S); drawn on the CPU."""
        mirrored = (torch.rand(len(clean), generator=generator) < 0.5).to(clean.device)
        inputs = torch.where(mirrored[:, None, None, None], clean.flip(-1), clean)
        nothing = torch.zeros(len(clean), device=clean.device)
        return Noised(inputs, nothing, nothing[:, None])

    def importance_sample(self, clean: Tensor, condition: Classes, portion: int) -> None:
        """Pictures have no times to draw: nothing is done."""

    def part_of(self, noised: Noised, part: slice) -> Noised:
        """Some of a batch's samples."""
        return Noised(noised.inputs[part], noised.timesteps[part], noised.target[part])

    def predict(self, noised: Noised, condition: Classes) -> Tensor:
        """The log-probability of each picture's class, (B, 1)."""
        with self.autocast():
            features = self.backbone.features(noised.inputs)
        logits = self.backbone.logits(features.float(), condition.rows)
        return logits.log_softmax(1).gather(1, condition.labels[:, None])

    def errors(self, predicted: Tensor, noised: Noised) -> Tensor:
        """The cross-entropy of each picture, (B,): by how much its log-probability is below the target, 0."""
        return (noised.target - predicted)[:, 0]

    def loss(self, predicted: Tensor, noised: Noised) -> Tensor:
        """The same: no picture counts more than another."""
        return self.errors(predicted, noised)


class VitBackbone:
    """A vision transformer with a head that grows; see `learning.backbone.Network`."""

    def __init__(
        self,
        model: Any,
        scaling: tuple[Tensor, Tensor],
        *,
        name: str,
        sha256: str,
        called: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Take a model whose attention is `_ATTENTION`.

        Args:
            model: A `ViTModel` without a pooler, or a `CLIPVisionModel`.
            scaling: Mean and deviation of pixels, (3, 1, 1) each, as the model was trained with.
            name: What it is called; never a path of the user's.
            sha256: Digest of its weights.
            called: What parameter paths call its modules, where that is not what the model does.
        """
        self.name, self.sha256 = name, sha256
        self.device: torch.device = model.device
        self.width, self.side = int(model.config.hidden_size), int(model.config.image_size)
        self.layers = int(model.config.num_hidden_layers)
        self._model = model
        self._called = called
        self._mean, self._deviation = (each.to(self.device) for each in scaling)
        self._head = nn.Embedding(0, self.width + 1, device=self.device)
        self._numbers: dict[str, int] = {}
        self._source: Callable[[Tensor], Prompts] | None = None
        self._prompts: Prompts | None = None
        # Of a ViT the embeddings themselves go into the layers.
        getattr(model, "pre_layrnorm", model.embeddings).register_forward_hook(self._prepend)
        for layer, module in enumerate(vit_checkpoints.attentions(model)):
            module.prefix_of = partial(self._prefix, layer)

    def token_tables(self) -> Mapping[str, nn.Embedding]:
        """The head: a row of weights and a bias for each class, (D + 1,)."""
        return {HEAD: self._head}

    def token_numbers(self, token_ids: Sequence[int]) -> TableNumbers:
        """The rows of some classes."""
        return {HEAD: list(token_ids)}

    def token_start(self, class_word: str = "") -> TokenRows:
        """Where a class begins: (1, D + 1) of zeros, so that nothing is said of it."""
        return {HEAD: torch.zeros(1, self.width + 1)}

    def add_token(self, name: str, rows: TokenRows) -> int:
        """Give the head one class's row, and return its number.

        Raises:
            AlreadyExists: There is a class of that name.
        """
        if name in self._numbers:
            raise AlreadyExists(f"the class {name!r} is there already", hint="each class is learned once")
        self._numbers[name] = len(self._numbers)
        grown = torch.cat([self._head.weight.detach(), rows[HEAD].to(self.device)])
        self._head = nn.Embedding.from_pretrained(grown, freeze=True)
        return self._numbers[name]

    @torch.no_grad()
    def set_token(self, token_id: int, rows: TokenRows) -> None:
        """Replace the row, (1, D + 1), of one class."""
        self._head.weight[token_id] = rows[HEAD][0].to(self.device)

    def targets(self) -> Mapping[str, nn.Linear]:
        """Queries, keys and values of self-attention in every layer, by parameter path."""
        return {
            f"{COMPONENT}/{self._called.get(name, name)}.weight": module for name, module in _projections(self._model)
        }

    def parameter_count(self) -> int:
        """How many numbers the transformer has, its head not counted."""
        return sum(each.numel() for each in self._model.parameters())

    def freeze(self) -> None:
        """Let nothing of the model train."""
        self._model.requires_grad_(False).eval()

    def set_aside(self) -> None:
        """Nothing: all of it trains."""

    def training_attention(self, autocast: bool) -> AbstractContextManager[None]:
        """As it is."""
        return nullcontext()

    def encode(self, pictures: np.ndarray) -> Tensor:
        """Pictures of the model's size, (N, S, S, 3) of 8 bits, as they are trained on: (N, 3, S, S), no larger."""
        return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous().to(self.device)

    def conditions(
        self, prompts: Sequence[str], token_ids: Sequence[int], crops: Sequence[Crop] = ()
    ) -> ClassConditions:
        """The classes of examples, whose prompts are their names: all that are named make up the task."""
        return ClassConditions(prompts, self._numbers, self.device)

    def objective(
        self, noising: Noising, *, autocast: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> ClassObjective:
        """The training objective."""
        return ClassObjective(self, autocast)

    @torch.no_grad()
    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Replace weights, by parameter path."""
        targets = self.targets()
        for path, value in weights.items():
            targets[path].weight.copy_(value)

    @contextmanager
    def prompted(self, source: Callable[[Tensor], Prompts] | None) -> Iterator[None]:
        """As long as the context lasts, ask for each batch's prompts, given its features without any, (B, D)."""
        self._source = source
        try:
            yield
        finally:
            self._source = None

    def features(self, pixels: Tensor) -> Tensor:
        """What the head is given of pixels (B, 3, S, S): (B, D)."""
        inputs = (pixels.float() / 255 - self._mean) / self._deviation
        if self._source is None:
            return self._run(inputs)[:, 0]
        with torch.no_grad():
            query = self._run(inputs)[:, 0]
        self._prompts = self._source(query)
        try:
            states = self._run(inputs)
        finally:
            prompts, self._prompts = self._prompts, None
        # Where prompts stand before the input, what is at their places is classified.
        return states[:, 0] if prompts.prepended is None else states[:, : prompts.prepended.shape[1]].mean(1)

    def logits(self, features: Tensor, rows: Tensor) -> Tensor:
        """Logits (B, C) of features (B, D) for the classes of some rows of the head, (C,)."""
        head = self._head(rows)
        return functional.linear(features, head[:, :-1], head[:, -1])

    @torch.no_grad()
    def classify(self, pixels: Tensor) -> Tensor:
        """The probability of every class there is, (N, C), of encoded pictures."""
        rows = torch.arange(len(self._numbers), device=self.device)
        return self.logits(self.all_features(pixels), rows).softmax(1)

    @torch.no_grad()
    def all_features(self, pixels: Tensor) -> Tensor:
        """What the head is given of any number of encoded pictures, (N, D)."""
        return torch.cat([self.features(part) for part in pixels.split(_TOGETHER)])

    def _run(self, inputs: Tensor) -> Tensor:
        """The last layer's normed states, (B, T + 1 + patches, D), T tokens of prompts before the input's own."""
        states: Tensor = self._model(inputs).last_hidden_state
        norm = getattr(self._model, "post_layernorm", None)
        return norm(states) if norm else states

    def _prefix(self, layer: int) -> Prefix | None:
        return self._prompts.prefixes.get(layer) if self._prompts else None

    def _prepend(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        prepended = self._prompts.prepended if self._prompts else None
        return output if prepended is None else torch.cat([prepended.to(output.dtype), output], 1)


def _attend(
    module: Any, queries: Tensor, keys: Tensor, values: Tensor, attention_mask: Any, **rest: Any
) -> tuple[Tensor, None]:
    """Self-attention to all tokens, and to the prefix that a layer is given."""
    if prefix := module.prefix_of():
        keys, values = prefixed(keys, values, prefix)
    states = functional.scaled_dot_product_attention(queries, keys, values, scale=rest.get("scaling"))
    return states.transpose(1, 2).contiguous(), None


def load(named: str, device: torch.device) -> VitBackbone:
    """Load a vision transformer, in fp32.

    Args:
        named: `BUNDLED`, a folder, or a hub id whose files are in the cache.
        device: Where to.

    Raises:
        NotFound: There is none, or it is another kind of model.
    """
    folder, name = vit_checkpoints.find(named)
    tower = _read(folder, named)
    return VitBackbone(tower.model.to(device), tower.scaling, name=name, sha256=vit_checkpoints.digest_of(folder))


def write_base(named: Path, shown: str, folder: Path) -> None:
    """Lay the tower of a model out as the base of a store.

    Args:
        named: The folder of the model.
        shown: What messages call it.
        folder: Where to; it is there, and empty.

    Raises:
        NotFound: It is another kind of model, or not whole.
    """
    vit_checkpoints.write(_read(named, shown), folder / COMPONENT)


def load_base(folder: Path, device: torch.device, base: Base) -> VitBackbone:
    """Load the base of a store, whose targets are called as its file calls them.

    Args:
        folder: The base as the store lays it out; see `write_base`.
        device: Where to.
        base: What the store knows of it.

    Raises:
        NotFound: It cannot be read with this release of transformers.
    """
    tower = _read(folder / COMPONENT, base.name)
    modules = [name for name, _ in _projections(tower.model)]
    called = vit_checkpoints.kept_names(folder / COMPONENT, modules)
    return VitBackbone(tower.model.to(device), tower.scaling, name=base.name, sha256=base.sha256, called=called)


def picture_side(configs: Mapping[str, Any]) -> int:
    """The side of the pictures that a store's base is given, in pixels, from its configurations by place.

    Raises:
        StoreDamaged: They do not say.
    """
    try:
        return int(configs[f"{COMPONENT}/config.json"]["image_size"])
    except (KeyError, TypeError, ValueError):
        raise StoreDamaged("the base's configuration does not say how large its pictures are") from None


def _read(folder: Path, shown: str) -> vit_checkpoints.Tower:
    from transformers import AttentionInterface

    AttentionInterface.register(_ATTENTION, _attend)
    return vit_checkpoints.read(folder, shown, _ATTENTION)


def _projections(model: Any) -> list[tuple[str, nn.Linear]]:
    """Queries, keys and values of self-attention in every layer, by their names in the model."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in vit_checkpoints.SELF_QKV and isinstance(module, nn.Linear)
    ]
