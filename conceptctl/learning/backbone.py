"""What the loop and the methods know of a model: the interface that every family in `families/` keeps to.

A method sees no component of a model by name. It asks for *targets* (weights that deltas go on), for *token tables*,
and for predictions of noised inputs under prompts; which network answers is the family's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from conceptctl.config import Drawing
from conceptctl.learning.weights import TableNumbers, TokenRows

if TYPE_CHECKING:
    from PIL import Image

Condition = Any
"""What a family's network is told beside its input: hidden states, pooled states, sizes; only the family looks in.

Of a batch's condition, `condition[part]` is that of a slice of its samples.
"""
Sampler = Callable[[Sequence[int]], "list[Image.Image]"]
"""Draws one picture a seed, all of them together."""
Watch = Callable[[float], None]
"""Told after every denoising step what share of the pictures that are being drawn is done."""


@dataclass(frozen=True)
class Crop:
    """How a picture was made: a whole one scaled, and a part of that cut out. Widths and heights, in pixels."""

    original: tuple[int, int]
    """Of the whole one, as it was."""
    corner: tuple[int, int]
    """What was cut off on the left and above, after scaling."""
    size: tuple[int, int]
    """Of what is left."""

    @classmethod
    def middle(cls, original: tuple[int, int], size: tuple[int, int]) -> Crop:
        """The middle of a picture, as much of it as there can be."""
        scale = max(size[0] / original[0], size[1] / original[1])
        left, top = (round((whole * scale - part) / 2) for whole, part in zip(original, size, strict=True))
        return cls(original, (left, top), size)


@dataclass(frozen=True)
class Noising:
    """How samples are noised and how much they count."""

    snr_gamma: float = 0.0
    """The signal-to-noise ratio above which a sample counts less (Hang et al. 2023); 0 for all alike."""
    p2_gamma: float = 0.0
    """How much less samples count that have little noise (Choi et al. 2022); 0 for all alike."""


@dataclass(frozen=True)
class Noised:
    """A batch of clean inputs, corrupted: one noise and one time for each."""

    inputs: Tensor
    """What the network is given, (B, ...)."""
    timesteps: Tensor
    """(B,), as the network counts time."""
    target: Tensor
    """What it should predict, (B, ...), fp32."""


class Objective(Protocol):
    """What a family's network is trained on."""

    def corrupt(self, clean: Tensor, generator: torch.Generator) -> Noised:
        """Draw noise and a time for each of a batch, on the CPU, so that every device draws the same."""

    def importance_sample(self, clean: Tensor, condition: Condition, portion: int) -> None:
        """From now on draw the times where errors are large more often, and let them count as much less.

        Args:
            clean: What errors are measured on, (B, ...).
            condition: Of those samples.
            portion: How many of them go through the network together.
        """

    def part_of(self, noised: Noised, part: slice) -> Noised:
        """Some of a batch's samples."""

    def predict(self, noised: Noised, condition: Condition) -> Tensor:
        """Run the network once; fp32, of the target's shape."""

    def errors(self, predicted: Tensor, noised: Noised) -> Tensor:
        """The mean squared error of each sample, (B,), all times counting alike."""

    def loss(self, predicted: Tensor, noised: Noised) -> Tensor:
        """What is minimized, for each sample, (B,): the errors, weighted as `Noising` says."""


class Conditions(Protocol):
    """The prompts of one training, as conditions; those that name no trained token are made once."""

    def of_examples(self, indices: Tensor) -> Condition:
        """The conditions of some examples, given by their indices (B,) on the CPU."""

    def of_prompt(self, prompt: str, indices: Tensor) -> Condition:
        """One prompt in the place of those of some examples."""


class TextSide(Protocol):
    """What turns prompts into the hidden states that targets see: a part of a `Backbone` that can be loaded alone."""

    device: torch.device

    def token_tables(self) -> Mapping[str, nn.Embedding]:
        """The token table of each text encoder, by name."""

    def tokenizer(self) -> Any:
        """The tokenizer that prompts are counted and cut off by: of several, the one that reads least."""

    def add_token(self, name: str, rows: TokenRows) -> int:
        """Give the model one concept's token; returns its number in the first table, by which it is known from then on.

        Raises:
            AlreadyExists: A tokenizer has this token already.
        """

    def token_numbers(self, token_ids: Sequence[int]) -> TableNumbers:
        """The rows of some tokens in each table, given what `add_token` returned of them."""

    def set_token(self, token_id: int, rows: TokenRows) -> None:
        """Replace the rows, (1, D) by table, of one token."""

    def token_start(self, class_word: str) -> TokenRows:
        """Where a token begins: at its class's word, or at the mean of all words; (1, D) by table, fp32."""

    def hidden_states(self, texts: Sequence[str], token_ids: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """What the targets see of prompts.

        Returns:
            The states (N, T, D), fp32; and which of them (N, T), bool, are at one of the tokens or behind it: those
            before do not depend on it, for a text encoder looks back only.
        """

    def reference_moment(self, texts: Sequence[str], *, without: Sequence[int] = (), count: int = ...) -> Tensor:
        """The second moment (D, D) of the hidden states of whatever may be asked for, in float64.

        Args:
            texts: Prompts that matter more than others.
            without: Tokens that are not drawn.
            count: How many prompts of random words stand for all.
        """

    def reference_factor(self, texts: Sequence[str], *, without: Sequence[int] = ()) -> Tensor:
        """R of shape (D, k), with R R^T the second moment of the hidden states of whatever may be asked for.

        Args:
            texts: Prompts that matter more than others.
            without: Tokens that are not drawn: those that are being learned.
        """

    def with_prompts(self, factor: Tensor, groups: Sequence[Sequence[str]]) -> Tensor:
        """Add the hidden states of prompts that are to stay as they are to R, each group counting as much."""


class Network(Protocol):
    """What the loop trains on: a model that gives predictions under conditions, whatever it predicts."""

    device: torch.device

    def token_tables(self) -> Mapping[str, nn.Embedding]:
        """The tables whose rows are learned, by name: of a text encoder's tokens, or of a classifier's classes."""

    def token_numbers(self, token_ids: Sequence[int]) -> TableNumbers:
        """The rows of some tokens in each table."""

    def targets(self) -> Mapping[str, nn.Linear]:
        """The projections that deltas go on, by parameter path."""

    def freeze(self) -> None:
        """Let nothing of the model train."""

    def set_aside(self) -> None:
        """Take off the device what training does not need; it comes back when it is asked for."""

    def training_attention(self, autocast: bool) -> AbstractContextManager[None]:
        """Whatever attention trains fastest, as long as the context lasts."""

    def conditions(self, prompts: Sequence[str], token_ids: Sequence[int], crops: Sequence[Crop] = ()) -> Conditions:
        """Prepare prompts, one for each example.

        Args:
            prompts: The prompts.
            token_ids: The tokens whose rows are being learned.
            crops: How each example's picture was made, for networks that are told; () for whole pictures.
        """

    def objective(
        self, noising: Noising, *, autocast: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> Objective:
        """The training objective; what `autocast` gives is entered around the network alone."""

    def set_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Replace weights, by parameter path."""


class Backbone(TextSide, Network, Protocol):
    """A model of some family, on a device, with everything that was learned before in it."""

    def scheduler_name(self) -> str:
        """What the base's own sampler is called."""

    def checkpoint_gradients(self) -> None:
        """Trade time for memory."""

    def training_peak(self, shape: tuple[int, ...], micro_batch: int, *, checkpointing: bool) -> int | None:
        """Bytes that a step of training holds at most beside weights and adapters; None where that cannot be counted.

        Args:
            shape: Of one encoded picture, (C, H, W).
            micro_batch: How many samples go through the network together.
            checkpointing: Whether gradients are checkpointed; see `checkpoint_gradients`.
        """

    def encode(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Pictures of one size as what the network is trained on, (N, ...), fp32, on the device."""

    def sampler(
        self,
        prompt: Any,
        how: Drawing,
        *,
        watch: Watch = lambda share: None,
    ) -> Sampler:
        """Prepare to draw pictures of a prompt.

        Args:
            prompt: A text, or what `diffusion.composition` makes of one.
            how: Steps, guidance, size and the like.
            watch: Told how far each call of the sampler is.

        Raises:
            UsageError: This base cannot be drawn with so.
        """
