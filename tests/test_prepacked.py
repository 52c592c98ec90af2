"""Reordered weights while sampling: the same products, and nothing left behind."""

import pytest
import torch
from torch import nn

from grao.rollouts.decoding import prepacked


class Scaled(nn.Linear):
    def forward(self, states):
        return 2 * super().forward(states)


@pytest.fixture
def model():
    torch.manual_seed(0)
    layers = [nn.Linear(300, 400), nn.Linear(400, 300, bias=False), nn.Linear(300, 8), Scaled(8, 9000)]
    return nn.Sequential(*layers).requires_grad_(False)


@pytest.mark.parametrize("shape", [(1, 300), (2, 300), (7, 1, 300), (3, 5, 300)])
def test_products_are_the_same(model, shape):
    states = torch.randn(shape)
    plain = model(states)
    with prepacked(model):
        fast = model(states)
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)
    assert fast.is_contiguous()


def test_large_plain_layers_are_taken_and_given_back(model):
    with prepacked(model):
        taken = ["forward" in vars(layer) for layer in model]
    assert taken == [torch.backends.mkldnn.is_available()] * 2 + [False, False]
    assert not any("forward" in vars(layer) for layer in model)


def test_weights_are_those_of_now(model):
    states = torch.randn(4, 300)
    with prepacked(model):
        model(states)
    model[0].weight.zero_()
    with prepacked(model):
        torch.testing.assert_close(model[0](states), model[0].bias.expand(4, 400))


def test_an_error_inside_leaves_nothing_behind(model):
    with pytest.raises(RuntimeError, match="stop"), prepacked(model):
        raise RuntimeError("stop")
    assert not any("forward" in vars(layer) for layer in model)


def test_under_autocast_it_is_the_layer_that_multiplies(model):
    states = torch.randn(4, 300)
    with torch.autocast("cpu", torch.bfloat16):
        plain = model(states)
        with prepacked(model):
            assert torch.equal(model(states), plain)


def test_what_cannot_be_reordered_leaves_nothing_behind(model, monkeypatch):
    def fails(layer):
        if layer is model[1]:
            raise MemoryError("no room")
        return lambda states: states

    monkeypatch.setattr("grao.rollouts.decoding._product", fails)
    with pytest.raises(MemoryError), prepacked(model):
        pass
    assert not any("forward" in vars(layer) for layer in model)


def test_other_precisions_and_changed_layers_stay_as_they_are(model):
    half, changed = nn.Linear(300, 400, dtype=torch.bfloat16), nn.Linear(300, 400)
    changed.forward = lambda states: states
    with prepacked(nn.Sequential(half, changed)):
        assert "forward" not in vars(half)
        assert changed(1) == 1
    assert "forward" in vars(changed)
