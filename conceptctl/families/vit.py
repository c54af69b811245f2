"""Vision transformers that tell classes apart: a ViT of transformers, or the image tower of a CLIP model.

Nothing of latent diffusion is in it. A picture's condition is its class, what is predicted of it under a class is that
class's log-probability, and its target is 0. The rows of the table `head` are the classes': a class is learned as a
token is.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from conceptctl.errors import AlreadyExists, NotFound
from conceptctl.learning.backbone import Crop, Noised, Noising
from conceptctl.learning.prompts import Prefix, Prompts, prefixed

if TYPE_CHECKING:
    import numpy as np

    from conceptctl.learning.weights import TableNumbers, TokenRows

NAME = "vit"
BUNDLED = "pocket-vit"
"""The image tower of the bundled CLIP model."""
HEAD = "head"
COMPONENT = "vision"
_CONCEPTS = "it is of concepts that are drawn, and here classes are told apart"
UNSUPPORTED: Mapping[str, str] = {
    "snr_gamma": _CONCEPTS,
    "p2_gamma": _CONCEPTS,
    "timestep_sampling": _CONCEPTS,
    "prompts": _CONCEPTS,
    "stopping": "classes are learned in epochs",
}
"""Methods' settings that mean nothing here, and why."""
_SELF_QKV = ("q_proj", "k_proj", "v_proj", "query", "key", "value")
"""What the projections of self-attention are called: CLIP's, and those of ViT in later and in earlier releases."""
_ATTENTION = "prompted"
_TOGETHER = 256
"""Pictures that are classified together."""
_HINT = f"a folder, or a hub id in the cache, of a ViT or a CLIP model of transformers, in safetensors; or {BUNDLED}"


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

    def __init__(self, model: Any, scaling: tuple[Tensor, Tensor], *, name: str, sha256: str) -> None:
        """Take a model whose attention is `_ATTENTION`.

        Args:
            model: A `ViTModel` without a pooler, or a `CLIPVisionModel`.
            scaling: Mean and deviation of pixels, (3, 1, 1) each, as the model was trained with.
            name: What it is called; never a path of the user's.
            sha256: Digest of its weights.
        """
        self.name, self.sha256 = name, sha256
        self.device: torch.device = model.device
        self.width, self.side = int(model.config.hidden_size), int(model.config.image_size)
        self.layers = int(model.config.num_hidden_layers)
        self._model = model
        self._mean, self._deviation = (each.to(self.device) for each in scaling)
        self._head = nn.Embedding(0, self.width + 1, device=self.device)
        self._numbers: dict[str, int] = {}
        self._source: Callable[[Tensor], Prompts] | None = None
        self._prompts: Prompts | None = None
        # Of a ViT the embeddings themselves go into the layers.
        getattr(model, "pre_layrnorm", model.embeddings).register_forward_hook(self._prepend)
        for layer, module in enumerate(_attentions(model)):
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
            f"{COMPONENT}/{name}.weight": module
            for name, module in self._model.named_modules()
            if name.rpartition(".")[2] in _SELF_QKV and isinstance(module, nn.Linear)
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


def _attentions(model: Any) -> list[Any]:
    """The modules of self-attention, layer by layer."""
    return [
        module
        for module in model.modules()
        if sum(isinstance(getattr(module, name, None), nn.Linear) for name in _SELF_QKV) == 3
    ]


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
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers import AttentionInterface, CLIPVisionModel, ViTModel
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()
    folder, name = _place(named)
    config = _read(folder / "config.json")
    kind = config.get("model_type")
    classes = {"vit": ViTModel, "clip": CLIPVisionModel, "clip_vision_model": CLIPVisionModel}
    if not isinstance(kind, str) or kind not in classes:
        raise NotFound(f"{named}: no vision transformer that is known here: its kind is {kind!r}", hint=_HINT)
    AttentionInterface.register(_ATTENTION, _attend)
    more = {"add_pooling_layer": False} if kind == NAME else {}
    try:
        model, info = classes[kind].from_pretrained(
            folder,
            dtype=torch.float32,
            attn_implementation=_ATTENTION,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **more,
        )
        if absent := sorted(info["missing_keys"]):
            raise ValueError(f"it has no {absent[0]}")
        if not _attentions(model):
            raise ValueError("it has no layers")
        return VitBackbone(model.to(device), _scaling(folder), name=name, sha256=_digest_of(folder))
    # Whatever the libraries make of numbers that cannot be meant, and of damaged files.
    except (
        ValueError, OSError, AttributeError, TypeError, LookupError, RuntimeError, ArithmeticError,
        SafetensorError, StrictDataclassError,
    ) as error:  # fmt: skip
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise NotFound(f"{named}: no whole vision transformer: {reason}", hint=_HINT) from error


def _place(named: str) -> tuple[Path, str]:
    """The folder of a model, and what it is called."""
    if named == BUNDLED:
        from conceptctl import pocket

        return pocket.clip_folder(), BUNDLED
    if Path(named).is_dir():
        return Path(named), "local folder"
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(named, local_files_only=True)), named
    except (HFValidationError, LocalEntryNotFoundError, OSError):
        raise NotFound(
            f"there is no folder {named!r}, and no hub model of that name in the cache", hint=_HINT
        ) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NotFound(
            f"{path.parent}: no vision transformer: {path.name} cannot be read: {error}", hint=_HINT
        ) from None
    return found if isinstance(found, dict) else {}


def _scaling(folder: Path) -> tuple[Tensor, Tensor]:
    """Mean and deviation of pixels, as the model's image processor has them."""
    path = folder / "preprocessor_config.json"
    config = _read(path) if path.exists() else {}
    mean, deviation = (
        torch.tensor(config.get(key, [0.5, 0.5, 0.5])).float().view(3, 1, 1) for key in ("image_mean", "image_std")
    )
    if not (mean.isfinite().all() and deviation.isfinite().all() and (deviation > 0).all()):
        raise ValueError(f"{path.name}: image_mean and image_std cannot be meant")
    return mean, deviation


def _digest_of(folder: Path) -> str:
    """The sha256 over the weights of a folder: of the digests of their files, in the order of their names."""
    digests = []
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()
