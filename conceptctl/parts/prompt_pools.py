"""Pools of prompts for a frozen transformer: L2P, DualPrompt and CODA-Prompt.

Each is asked with a query q(x), what the frozen transformer says of a picture without any prompt (its [CLS] feature),
and gives that picture's `Prompts`. Prompts of earlier tasks are frozen: they get no gradient and do not train.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from conceptctl.learning.prompts import Prefix, Prompts

PROMPT_START = 0.02
"""Standard deviation that prompts begin with: a vision transformer's own tokens begin so (Dosovitskiy et al. 2021)."""
_LEAST_NORM = 1e-12
"""Below it a vector has no direction."""


class Pool(nn.Module):
    """A pool of prompts that tasks add to."""

    def __init__(self, generator: torch.Generator) -> None:
        """Keep what starting values are drawn from, which is on the CPU."""
        super().__init__()
        self.generator = generator

    def grow(self, task: int) -> None:
        """Add what a task and those before it need and do not have yet, and freeze what is of those before it.

        A pool that was kept is read by growing a new one to the same task and loading its state; then it grows on.

        Args:
            task: Counted from 0.
        """

    def forward(self, query: Tensor, task: int | None = None, *, training: bool) -> Prompts:
        """Give a batch its prompts.

        Args:
            query: q(x), (B, D), of any precision; it gets no gradient.
            task: The task that the pictures are of, counted from 0, where it is known: in training.
            training: Whether losses are needed.
        """
        raise NotImplementedError

    def _drawn(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)


class PromptPool(Pool):
    """L2P: the N prompts whose keys are nearest to the query go before the input.

    Wang et al. 2022, "Learning to prompt for continual learning". Prompts are chosen picture by picture, as
    the paper says, and all of them are trained by every task; the optional price of those that earlier tasks chose
    often is left out.
    """

    def __init__(
        self, width: int, *, size: int, length: int, chosen: int, key_weight: float, generator: torch.Generator
    ) -> None:
        """Draw keys and prompts.

        Args:
            width: D of the transformer.
            size: M, prompts in the pool.
            length: L_p, tokens of each.
            chosen: N, prompts that a picture gets; at most M.
            key_weight: lambda, of how far chosen keys are from their queries.
            generator: What is drawn from.
        """
        super().__init__(generator)
        self.chosen = chosen
        self.key_weight = key_weight
        self.keys = nn.Parameter(functional.normalize(self._drawn(size, width), dim=1))
        self.prompts = nn.Parameter(PROMPT_START * self._drawn(size, length, width))

    def forward(self, query: Tensor, task: int | None = None, *, training: bool) -> Prompts:
        """Give a batch the prompts that its queries choose, (B, N L_p, D), nearest first; see `Pool`."""
        similar, which = _cosines(query, self.keys).topk(self.chosen, dim=1)
        losses = {"keys": self.key_weight * (1 - similar).sum(1)} if training else {}
        return Prompts(prepended=self.prompts[which].flatten(1, 2), losses=losses)


class DualPrompts(Pool):
    """DualPrompt: prefixes that all tasks share in some layers, and prefixes of the task in others.

    Wang et al. 2022, "DualPrompt: Complementary prompting for rehearsal-free continual learning".
    A task has one key, by which it is guessed where it is not known, for its prompts in all layers.
    """

    def __init__(
        self,
        width: int,
        *,
        general_layers: Sequence[int],
        general_length: int,
        expert_layers: Sequence[int],
        expert_length: int,
        key_weight: float,
        generator: torch.Generator,
    ) -> None:
        """Draw the prompts that all tasks share; those of tasks come as it grows.

        Args:
            width: D of the transformer.
            general_layers: Where the G-prompt is, layers counted from 0.
            general_length: L_g, half of it keys and half of it values; even.
            expert_layers: Where E-prompts are, other layers.
            expert_length: L_e, likewise.
            key_weight: lambda of the matching loss.
            generator: What is drawn from.
        """
        super().__init__(generator)
        self.width = width
        self.general_layers = tuple(general_layers)
        self.expert_layers = tuple(expert_layers)
        self.expert_length = expert_length
        self.key_weight = key_weight
        self.general = nn.Parameter(PROMPT_START * self._drawn(len(self.general_layers), general_length, width))
        self.keys = nn.ParameterList()
        self.experts = nn.ParameterList()

    def grow(self, task: int) -> None:
        """Add a key (D,) and an E-prompt (layers, L_e, D) for each task; see `Pool`."""
        while len(self.keys) <= task:
            self.keys.append(nn.Parameter(functional.normalize(self._drawn(self.width), dim=0)))
            shape = (len(self.expert_layers), self.expert_length, self.width)
            self.experts.append(nn.Parameter(PROMPT_START * self._drawn(*shape)))
        _train_only(task, self.keys, self.experts)

    def forward(self, query: Tensor, task: int | None = None, *, training: bool) -> Prompts:
        """Give a batch the shared prefixes and those of its task, or of the task whose key is nearest; see `Pool`."""
        losses: dict[str, Tensor] = {}
        if task is None:
            guessed = _cosines(query, torch.stack(tuple(self.keys))).argmax(1)
            experts = torch.stack(tuple(self.experts))[guessed]
        else:
            experts = self.experts[task].expand(len(query), -1, -1, -1)
            if training:
                similar = _cosines(query, self.keys[task][None])[:, 0]
                losses["keys"] = self.key_weight * (1 - similar)
        general = self.general.expand(len(query), -1, -1, -1)
        return Prompts(
            prefixes=_prefixes(self.general_layers, general) | _prefixes(self.expert_layers, experts), losses=losses
        )


class ComponentPrompts(Pool):
    """CODA-Prompt: in each layer a sum of components, weighted by how near the query, seen through each, is to its key.

    Smith et al. 2023, "CODA-Prompt: Continual decomposed attention-based prompting for rehearsal-free continual
    learning", section 4. Components of earlier tasks go on counting and train no more. The orthogonality loss is the
    mean of the squares of B B' - 1, as in the authors' code, not their norm: that has no gradient where it is 0, which
    is where components begin.
    """

    def __init__(
        self,
        width: int,
        *,
        layers: Sequence[int],
        length: int,
        added: int,
        orthogonality_weight: float,
        generator: torch.Generator,
    ) -> None:
        """Make a pool without components; they come as it grows.

        Args:
            width: D of the transformer.
            layers: Where prompts are, counted from 0.
            length: L_p, half of it keys and half of it values; even.
            added: M / N, components that each task adds.
            orthogonality_weight: lambda of the orthogonality loss.
            generator: What is drawn from.
        """
        super().__init__(generator)
        self.width = width
        self.layers = tuple(layers)
        self.length = length
        self.added = added
        self.orthogonality_weight = orthogonality_weight
        self.components = nn.ParameterList()
        self.keys = nn.ParameterList()
        self.attention = nn.ParameterList()

    def grow(self, task: int) -> None:
        """Add components (layers, n, L_p, D), and a key and an attention vector (layers, n, D) for each; see `Pool`.

        They begin orthogonal to each other and to those that are there, as far as there is room.
        """
        while len(self.keys) <= task:
            for parts, shape in (
                (self.components, (self.length, self.width)),
                (self.keys, (self.width,)),
                (self.attention, (self.width,)),
            ):
                parts.append(nn.Parameter(self._orthogonal(parts, shape)))
        _train_only(task, self.components, self.keys, self.attention)

    def forward(self, query: Tensor, task: int | None = None, *, training: bool) -> Prompts:
        """Give a batch each layer's sum of components; see `Pool`. A task is not asked for, and not told."""
        components, keys, attention = (
            torch.cat(tuple(parts), 1) for parts in (self.components, self.keys, self.attention)
        )
        weights = _attended(query, attention, keys)
        prompts = torch.einsum("bim,imld->bild", weights, components)
        losses: dict[str, Tensor] = {}
        if training:
            price = _overlap(components.flatten(2)) + _overlap(keys) + _overlap(attention)
            losses["orthogonality"] = self.orthogonality_weight * price
        return Prompts(prefixes=_prefixes(self.layers, prompts), losses=losses)

    def _orthogonal(self, there: nn.ParameterList, shape: tuple[int, ...]) -> Tensor:
        """Draw vectors of length 1 for each layer, (layers, n, *shape), by Gram-Schmidt."""
        drawn = self._drawn(len(self.layers), self.added, *shape).flatten(2)
        before = torch.cat([drawn[:, :0], *(part.detach().cpu().flatten(2) for part in there)], 1)
        if before.shape[1] + self.added <= drawn.shape[2]:
            # The rows that are there span what the first columns of Q span; the drawn ones give the rest.
            q = torch.linalg.qr(torch.cat([before, drawn], 1).transpose(1, 2)).Q
            drawn = q[:, :, before.shape[1] :].transpose(1, 2)
        unit = functional.normalize(drawn, dim=2)
        return unit.reshape(*drawn.shape[:2], *shape)


def _cosines(query: Tensor, keys: Tensor) -> Tensor:
    """The cosine of each query (B, D) with each key (M, D), (B, M)."""
    cosines: Tensor = functional.normalize(query.detach().to(keys.dtype), dim=1) @ functional.normalize(keys, dim=1).T
    return cosines


def _attended(query: Tensor, attention: Tensor, keys: Tensor) -> Tensor:
    """The cosine of q * A_m with K_m in each layer: (B, D), (layers, M, D) twice, to (B, layers, M).

    Written so that no (B, layers, M, D) is made.
    """
    query = query.detach().to(keys.dtype)
    products = torch.einsum("bd,imd->bim", query, attention * keys)
    squares = torch.einsum("bd,imd->bim", query.square(), attention.square())
    seen = squares.clamp_min(_LEAST_NORM**2).sqrt()
    cosines: Tensor = products / seen / keys.norm(dim=2).clamp_min(_LEAST_NORM)
    return cosines


def _overlap(rows: Tensor) -> Tensor:
    """The mean of the squares of B B' - 1, summed over layers: (layers, M, d) to ()."""
    product = rows @ rows.transpose(1, 2)
    return (product - torch.eye(rows.shape[1], device=rows.device)).square().mean((1, 2)).sum()


def _prefixes(layers: Sequence[int], prompts: Tensor) -> dict[int, Prefix]:
    """The first half of each layer's prompt as keys, the second as values: (B, layers, L, D)."""
    keys, values = prompts.chunk(2, dim=2)
    return {layer: (keys[:, place], values[:, place]) for place, layer in enumerate(layers)}


def _train_only(task: int, *lists: nn.ParameterList) -> None:
    """Let one task's part of each list train, and no other."""
    for parts in lists:
        for number, part in enumerate(parts):
            part.requires_grad_(number == task)
            part.grad = None
