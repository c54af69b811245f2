"""Pools of prompts against plain numpy versions of the papers' equations, and what trains of them."""

import numpy as np
import pytest
import torch

from conceptctl.learning.prompts import prefixed
from conceptctl.parts.prompt_pools import ComponentPrompts, DualPrompts, PromptPool

WIDTH, PICTURES = 12, 5


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def queries(seed=1):
    return torch.randn(PICTURES, WIDTH, generator=generator(seed))


def l2p(seed=0):
    return PromptPool(WIDTH, size=6, length=3, chosen=2, key_weight=0.5, generator=generator(seed))


def dual(tasks=3, seed=0):
    pool = DualPrompts(
        WIDTH,
        general_layers=(0, 1),
        general_length=4,
        expert_layers=(2, 4),
        expert_length=6,
        key_weight=0.3,
        generator=generator(seed),
    )
    pool.grow(tasks - 1)
    return pool


def coda(tasks=3, seed=0, width=WIDTH, added=2):
    pool = ComponentPrompts(
        width, layers=(0, 2), length=4, added=added, orthogonality_weight=0.1, generator=generator(seed)
    )
    pool.grow(tasks - 1)
    return pool


def moved(pool, seed=7):
    """The same pool away from its start, where keys have length 1 and overlaps are 0."""
    source = generator(seed)
    with torch.no_grad():
        for each in pool.parameters():
            each.normal_(generator=source)
    return pool


def array(tensor):
    return tensor.detach().numpy().astype(np.float64)


def cosine(a, b):
    return a @ b / np.sqrt((a @ a) * (b @ b))


def close(found, wanted):
    np.testing.assert_allclose(array(found), wanted, rtol=2e-5, atol=1e-6)


def test_l2p_prepends_the_prompts_of_the_nearest_keys_and_pulls_those_keys():
    pool = moved(l2p())
    made = pool(queries(), training=True)
    keys, prompts = array(pool.keys), array(pool.prompts)
    for number, query in enumerate(array(queries())):
        # Eq. 3: the N keys of the smallest distance, which is 1 - cosine; eq. 5: lambda times the sum of theirs.
        distances = np.array([1 - cosine(query, key) for key in keys])
        chosen = np.argsort(distances)[:2]
        close(made.prepended[number], np.concatenate([prompts[each] for each in chosen]))
        close(made.losses["keys"][number], 0.5 * distances[chosen].sum())
    assert made.prefixes == {}
    assert pool(queries(), training=False).losses == {}


def test_dual_prompts_take_the_tasks_prompt_when_it_is_told_and_the_nearest_keys_when_it_is_not():
    pool = moved(dual())
    general, experts, keys = (
        array(pool.general),
        *([array(each) for each in parts] for parts in (pool.experts, pool.keys)),
    )
    told, guessed = pool(queries(), 1, training=True), pool(queries(), training=False)
    picked = set()
    for number, query in enumerate(array(queries())):
        nearest = int(np.argmax([cosine(query, key) for key in keys]))
        picked.add(nearest)
        for made, task in ((told, 1), (guessed, nearest)):
            wanted = {0: general[0], 1: general[1], 2: experts[task][0], 4: experts[task][1]}
            assert set(made.prefixes) == set(wanted)
            for layer, prompt in wanted.items():
                half = len(prompt) // 2
                close(made.prefixes[layer][0][number], prompt[:half])
                close(made.prefixes[layer][1][number], prompt[half:])
        close(told.losses["keys"][number], 0.3 * (1 - cosine(query, keys[1])))
    assert len(picked) > 1
    assert guessed.losses == {}
    assert told.prepended is None


def test_coda_weighs_every_component_by_the_attended_query_and_its_key():
    pool = moved(coda())
    made = pool(queries(), 2, training=True)
    components, keys, attention = (
        np.concatenate([array(each) for each in parts], 1) for parts in (pool.components, pool.keys, pool.attention)
    )
    assert components.shape == (2, 6, 4, WIDTH)
    for place, layer in enumerate((0, 2)):
        for number, query in enumerate(array(queries())):
            weights = [
                cosine(query * seen, key) for seen, key in zip(attention[place], keys[place], strict=True)
            ]  # eq. 4 and 5
            prompt = sum(weight * part for weight, part in zip(weights, components[place], strict=True))  # eq. 3
            close(made.prefixes[layer][0][number], prompt[:2])
            close(made.prefixes[layer][1][number], prompt[2:])
    overlaps = sum(
        np.square(rows @ rows.T - np.eye(6)).mean()
        for parts in (components.reshape(2, 6, -1), keys, attention)
        for rows in parts
    )
    close(made.losses["orthogonality"], 0.1 * overlaps)
    assert pool(queries(), training=False).losses == {}


def test_coda_begins_orthogonal_to_what_is_there():
    pool = coda(tasks=5)
    assert pool(queries(), 4, training=True).losses["orthogonality"].item() < 1e-10
    with torch.no_grad():
        pool.keys[0].normal_(generator=generator(3))
    pool.grow(5)
    before = array(torch.cat(tuple(pool.keys[:5]), 1))
    assert np.abs(before @ array(pool.keys[5]).transpose(0, 2, 1)).max() < 1e-5


def test_coda_grows_beyond_the_room_for_orthogonal_keys():
    pool = coda(tasks=4, width=6)
    assert pool.keys[3].norm(dim=2).sub(1).abs().max() < 1e-6
    assert pool(queries()[:, :6], 3, training=True).losses["orthogonality"].item() > 0


def test_a_prefix_is_attended_to_beside_the_layers_own_tokens():
    heads, tokens, length = 3, 4, 2
    query, keys, values = (
        torch.randn(2, heads, tokens, WIDTH // heads, generator=generator(each)) for each in range(3)
    )
    prefix = tuple(torch.randn(2, length, WIDTH, generator=generator(each)) for each in (5, 6))
    found = torch.nn.functional.scaled_dot_product_attention(query, *prefixed(keys, values, prefix))
    wide = WIDTH // heads
    for picture in range(2):
        for head in range(heads):
            part = slice(head * wide, (head + 1) * wide)
            both = [
                np.concatenate([array(before)[picture, :, part], array(own)[picture, head]])
                for before, own in zip(prefix, (keys, values), strict=True)
            ]
            scores = array(query)[picture, head] @ both[0].T / np.sqrt(wide)
            weights = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
            close(found[picture, head], weights @ both[1])


def trained(pool, task):
    """Which parameters a task's loss gives a gradient to."""
    made = pool(queries().requires_grad_(), task, training=True)
    loss = sum(each.sum() for each in made.losses.values())
    loss = loss + sum(part.square().sum() for prefix in made.prefixes.values() for part in prefix)
    if made.prepended is not None:
        loss = loss + made.prepended.square().sum()
    loss.backward()
    return {name for name, each in pool.named_parameters() if each.grad is not None and each.grad.any()}


def test_only_the_task_trains():
    assert trained(l2p(), 0) == {"keys", "prompts"}
    assert trained(dual(), 2) == {"general", "keys.2", "experts.2"}
    assert trained(moved(coda()), 2) == {"components.2", "keys.2", "attention.2"}


@pytest.mark.parametrize("make", [dual, coda])
def test_what_is_frozen_has_no_gradient_and_stays_bit_for_bit(make):
    pool = moved(make(tasks=2))
    trained(pool, 1)
    pool.grow(2)
    frozen = {name: each for name, each in pool.named_parameters() if name.endswith((".0", ".1"))}
    assert frozen
    kept = {name: each.detach().clone() for name, each in frozen.items()}
    optimizer = torch.optim.AdamW(pool.parameters(), lr=0.1, weight_decay=0.1)
    trained(pool, 2)
    optimizer.step()
    for name, each in frozen.items():
        assert not each.requires_grad
        assert each.grad is None
        assert torch.equal(each, kept[name])


def test_a_query_gets_no_gradient():
    for pool in (l2p(), dual(), coda()):
        query = queries().requires_grad_()
        sum(each.sum() for each in pool(query, 2, training=True).losses.values()).backward()
        assert query.grad is None


@pytest.mark.parametrize("make", [l2p, dual, coda])
def test_a_query_in_half_precision_is_matched_in_full(make):
    pool, query = make(), queries().bfloat16()
    found, wanted = (pool(each, 2, training=True) for each in (query, query.float()))
    assert all(torch.equal(found.losses[name], value) for name, value in wanted.losses.items())
    assert all(part.dtype == torch.float32 for prefix in found.prefixes.values() for part in prefix)


@pytest.mark.parametrize("make", [l2p, dual, coda])
def test_the_same_seed_draws_the_same_pool_however_it_grew(make):
    whole, other = make(seed=3), make(seed=4)
    step_by_step = make(seed=3) if make is l2p else make(tasks=1, seed=3)
    step_by_step.grow(1)
    step_by_step.grow(2)
    assert set(whole.state_dict()) == set(step_by_step.state_dict())
    for name, value in whole.state_dict().items():
        assert torch.equal(value, step_by_step.state_dict()[name])
        assert value.dtype == torch.float32
        assert not torch.equal(value, other.state_dict()[name])


@pytest.mark.parametrize("make", [dual, coda])
def test_a_kept_pool_is_read_into_one_that_has_grown_as_far(make):
    kept = moved(make(tasks=2), seed=9)
    again = make(tasks=2, seed=5)
    again.load_state_dict(kept.state_dict())
    for found, wanted in zip(
        again(queries(), training=False).prefixes.values(),
        kept(queries(), training=False).prefixes.values(),
        strict=True,
    ):
        assert torch.equal(found[0], wanted[0])
        assert torch.equal(found[1], wanted[1])
