"""Velocities beside the positions: known answers, missing landmarks and padding."""

from dataclasses import replace

import pytest
import torch

from handcraft.config import MambaSLConfig, TransformerSLConfig
from handcraft.models import build
from handcraft.models.velocity import frame_size, with_velocity

MODELS = {
    "transformer": TransformerSLConfig(classes=3, dim=4, frames=5, tokens="frames", width=8, layers=1, heads=2),
    "mamba": MambaSLConfig(classes=3, dim=4, frames=5, tokens="frames", width=8),
}


def test_velocity_known_answer():
    x = torch.tensor([[[1.0, 5.0], [4.0, 0.0], [2.0, 7.0], [3.0, 9.0]]])  # the second number is missing in frame 1
    expected = torch.tensor([[[1.0, 5, 0, 0], [4, 0, 6, 0], [2, 7, -4, 0], [3, 9, 2, 4]]])
    assert torch.equal(with_velocity(x, 2.0), expected)
    assert frame_size(2, 2.0) == 4
    assert frame_size(2, 0.0) == 2
    assert with_velocity(x, 0.0) is x


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("tokens", ["frames", "dct"])
def test_a_model_with_velocity_sees_it(name, tokens):
    config = replace(MODELS[name], tokens=tokens, velocity=3.0)
    torch.manual_seed(0)
    model = build(config).eval()
    assert model.embedding.weight.shape[1] == 8
    x = torch.randn(2, 5, 4)
    with torch.no_grad():
        model.head.out.weight.normal_()
        before = model(x)
        model.embedding.weight[:, 4:] = 0
        assert not torch.allclose(before, model(x))
        plain = build(replace(config, velocity=0.0)).eval()
        state = model.state_dict()
        state["embedding.weight"] = state["embedding.weight"][:, :4]
        plain.load_state_dict(state)
        torch.testing.assert_close(plain(x), model(x))


@pytest.mark.parametrize("name", MODELS)
def test_padding_cannot_change_the_logits(name):
    model = build(replace(MODELS[name], velocity=3.0)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
        x, lengths = torch.randn(2, 5, 4), torch.tensor([3, 5])
        other = x.clone()
        other[0, 3:] = 7.0
        torch.testing.assert_close(model(x, lengths)[0], model(other, lengths)[0])
