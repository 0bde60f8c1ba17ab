"""Random numbers of the compiled CPU library against those of `handcraft.kernels.philox`."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handcraft.kernels import dispatch, env, native, philox

pytestmark = pytest.mark.skipif(not env.backend("cpu").available, reason=env.backend("cpu").reason)

SEED = st.integers(0, 2**64 - 1)
CLIP = st.integers(-(2**63), 2**63 - 1)


def by_reference(monkeypatch, function, *arguments):
    """What PyTorch's integers give."""
    with monkeypatch.context() as context:
        context.setenv(dispatch.VARIABLE, "reference")
        return function(*arguments)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=SEED, clips=st.lists(CLIP, min_size=1, max_size=4), stream=st.integers(0, 255), data=st.data())
def test_words_are_equal_bit_for_bit(seed, clips, stream, data, monkeypatch):
    block, quads = data.draw(st.integers(0, 65535)), data.draw(st.integers(1, 300))
    arguments = seed, torch.tensor(clips), stream, block, quads
    expected = by_reference(monkeypatch, philox.words, *arguments)
    assert torch.equal(philox.words(*arguments), expected)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=SEED,
    clips=st.lists(CLIP, min_size=1, max_size=3),
    size=st.integers(0, 2500),
    rate=st.floats(0, 0.999),
)
def test_what_drops_out_is_equal_bit_for_bit(seed, clips, size, rate, monkeypatch):
    arguments = seed, torch.tensor(clips), size, rate
    expected = by_reference(monkeypatch, philox.keep, *arguments)
    assert torch.equal(philox.keep(*arguments), expected)


@settings(max_examples=40, deadline=None)
@given(seed=SEED, clip=CLIP, blocks=st.integers(1, 6), size=st.integers(1, 70))
def test_normal_numbers_agree(seed, clip, blocks, size):
    clip_id = torch.tensor([clip, 0])
    out = torch.full((2, blocks, size), torch.nan)
    arguments = {"batch": 2, "seed": philox._signed(seed), "stream": 1, "blocks": blocks, "size": size}
    native.call("philox_normal", torch.float32, clip_id=clip_id, out=out, **arguments)
    torch.testing.assert_close(out, philox.normal(seed, clip_id, 1, blocks, size), rtol=0, atol=4e-6)
