"""What training holds in memory, counted on tensors that have shapes and no numbers: no GPU is needed, nor the weights.

A network of the same configuration is made on torch's `meta` device and run forward and backward. Every new storage
counts from its first use until nothing holds it any more, as a GPU's allocator counts it, but for rounding up,
fragmentation and the workspaces of kernels.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that are made while it lasts, and that something still holds.

    Attributes:
        live: Of now.
        peak: The most there were at once.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        """Count everything but tensors that were there before, and views of them."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.live: int = 0
        self.peak: int = 0
        self._seen = WeakIdKeyDictionary()
        for tensor in known:
            self._seen[tensor.untyped_storage()] = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count what it makes."""
        kwargs = kwargs or {}
        # What is written into was there before, or was counted when it was made.
        made = func(*args, **kwargs)
        before = {id(each.untyped_storage()) for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage(), before)
        return made

    def _count(self, storage: torch.UntypedStorage, before: set[int]) -> None:
        if id(storage) in before or storage in self._seen:
            return
        self._seen[storage] = True
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._gone, size)

    def _gone(self, size: int) -> None:
        self.live -= size


class _FusedAttention(torch.autograd.Function):
    """Attention as fused kernels do it: they keep what comes in and out and one number a query, and no products.

    Dao et al. 2022, "FlashAttention", algorithms 1 and 4.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty((*query.shape[:-1], value.shape[-1]))
        normalizers = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, normalizers)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, _, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


@contextmanager
def fused_attention() -> Iterator[None]:
    """Put that in the place of torch's own, which is not fused on `meta`.

    Torch's function modes do not hold while checkpoints are computed again, in the backward pass.
    """
    plain = functional.scaled_dot_product_attention

    def chosen(query: Tensor, key: Tensor, value: Tensor, *args: Any, **how: Any) -> Tensor:
        if query.device.type != "meta":
            return plain(query, key, value, *args, **how)
        made: Tensor = _FusedAttention.apply(query, key, value)  # type: ignore[no-untyped-call]
        return made

    functional.scaled_dot_product_attention = chosen
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = plain


def training_peak(
    network: nn.Module, trained: Iterable[Tensor], run: Callable[[], Tensor], known: Iterable[Tensor] = ()
) -> int:
    """Count what one forward and backward of a network on `meta` holds at most, beside its weights.

    Args:
        network: The network.
        trained: Weights and inputs that get gradients.
        run: Runs the network, and returns what is to be differentiated.
        known: Inputs, which are not counted.

    Returns:
        Bytes, those of the gradients included.
    """
    trained = list(trained)
    for tensor in trained:
        tensor.requires_grad_(True)
    with fused_attention(), LiveBytes([*network.parameters(), *network.buffers(), *trained, *known]) as live:
        run().float().mean().backward()
    found: int = live.peak
    return found


@lru_cache(maxsize=2)
def _unet_on_meta(config: str, dtype: torch.dtype) -> Any:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        network: Any = UNet2DConditionModel.from_config(json.loads(config))
    for parameter in network.parameters():
        parameter.data = parameter.data.to(dtype)
    return network.requires_grad_(False)


def unet_training_peak(
    config: Mapping[str, Any],
    targets: Iterable[str],
    *,
    shape: tuple[int, ...],
    micro_batch: int,
    tokens: int,
    dtype: torch.dtype,
    checkpointing: bool,
) -> int:
    """Count what a U-Net holds of so many samples in a step of training, in bytes, beside its weights.

    Args:
        config: Its configuration, as diffusers has it.
        targets: Names of the weights that get gradients, in the network's type.
        shape: Of latents, (C, H, W).
        micro_batch: How many samples go through it together.
        tokens: Of a prompt.
        dtype: Of its weights.
        checkpointing: Whether it computes again on the way back what it would have to hold.
    """
    plain = {name: value for name, value in config.items() if not name.startswith("_")}
    said = json.dumps(plain, sort_keys=True)
    return _unet_training_peak(said, tuple(targets), shape, micro_batch, tokens, dtype, checkpointing)


@lru_cache
def _unet_training_peak(
    config: str,
    targets: tuple[str, ...],
    shape: tuple[int, ...],
    micro_batch: int,
    tokens: int,
    dtype: torch.dtype,
    checkpointing: bool,
) -> int:
    network = _unet_on_meta(config, dtype)
    (network.enable_gradient_checkpointing if checkpointing else network.disable_gradient_checkpointing)()

    def empty(*sizes: int, of: torch.dtype = dtype) -> Tensor:
        return torch.empty(micro_batch, *sizes, dtype=of, device="meta")

    latents, times = empty(*shape), torch.empty(micro_batch, dtype=torch.long, device="meta")
    states = empty(tokens, network.config.cross_attention_dim)
    more: dict[str, Any] = {}
    if network.config.addition_embed_type == "text_time":
        sizes = 6 * network.config.addition_time_embed_dim
        pooled = empty(network.config.projection_class_embeddings_input_dim - sizes)
        more["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": empty(6, of=torch.float32)}
    trained = [states, *(network.get_parameter(name) for name in targets)]

    def run() -> Tensor:
        found: Tensor = network(latents, times, encoder_hidden_states=states, **more).sample
        return found

    try:
        return training_peak(network, trained, run, [latents, times])
    finally:
        for parameter in network.parameters():
            parameter.grad = None
            parameter.requires_grad_(False)


def text_training_peak(encoder: Any, prompts: int, tokens: int) -> int:
    """Count what a text encoder holds of so many prompts while a token is learned through it, in bytes."""
    kind: Any = type(encoder)
    return _text_training_peak(kind, encoder.config.to_json_string(), encoder.dtype, prompts, tokens)


@lru_cache
def _text_training_peak(kind: Any, config: str, dtype: torch.dtype, prompts: int, tokens: int) -> int:
    with torch.device("meta"):
        network: Any = kind(kind.config_class(**json.loads(config))).to(dtype)
    network.requires_grad_(False)
    table = network.get_input_embeddings()
    row = torch.empty(1, table.embedding_dim, device="meta")
    handle = table.register_forward_hook(lambda module, inputs, output: output + row.to(output.dtype))
    ids = torch.empty(prompts, tokens, dtype=torch.long, device="meta")
    with handle:
        return training_peak(network, [row], lambda: network(ids)[0], [ids])
