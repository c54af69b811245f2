"""What gives the learned rows of token tables."""

import pytest
import torch

from conceptctl.parts.tokens import TokenEmbedding, TokenMlp


@pytest.mark.parametrize("width", [32, 320])
def test_speeds_say_how_far_a_step_of_adam_moves_a_row(width):
    start = {"text": torch.zeros(2, width)}
    mlp = TokenMlp(start, generator=torch.Generator().manual_seed(0))
    plain = TokenEmbedding(start)
    for token in (mlp, plain):
        optimizer = torch.optim.Adam(token.parameters(), 1e-5)
        token()["text"].sum().backward()
        optimizer.step()
        moved = token()["text"].abs().mean().item()
        assert moved == pytest.approx(1e-5 * token.speeds["text"], rel=0.01)
    assert plain.speeds == {"text": 1.0}
    # Half of the hidden units pass a quarter of what comes in, about.
    assert mlp.speeds["text"] > 0.15 * width
