"""Random numbers of the compiled CPU library against those of `handcraft.kernels.philox`."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from handcraft.kernels import env, native, philox

pytestmark = pytest.mark.skipif(not env.backend("cpu").available, reason=env.backend("cpu").reason)

SEED = st.integers(0, 2**64 - 1)
CLIP = st.integers(-(2**63), 2**63 - 1)


def signed(seed: int) -> int:
    """The 64 bits of a seed as the int64 that a C struct takes."""
    return seed - (1 << 64) if seed >> 63 else seed


@settings(max_examples=60, deadline=None)
@given(seed=SEED, clips=st.lists(CLIP, min_size=1, max_size=4), stream=st.integers(0, 255), data=st.data())
def test_words_are_equal_bit_for_bit(seed, clips, stream, data):
    block, quads = data.draw(st.integers(0, 65535)), data.draw(st.integers(1, 256))
    clip_id = torch.tensor(clips)
    out = torch.full((len(clips), quads, 4), -1)
    native.call(
        "philox_words",
        torch.float32,
        clip_id=clip_id,
        out=out,
        batch=len(clips),
        seed=signed(seed),
        stream=stream,
        block=block,
        quads=quads,
    )
    assert torch.equal(out, philox.words(seed, clip_id, stream, block, quads))


@settings(max_examples=40, deadline=None)
@given(seed=SEED, clip=CLIP, blocks=st.integers(1, 6), size=st.integers(1, 70))
def test_normal_numbers_agree(seed, clip, blocks, size):
    clip_id = torch.tensor([clip, 0])
    out = torch.full((2, blocks, size), torch.nan)
    arguments = {"batch": 2, "seed": signed(seed), "stream": 1, "blocks": blocks, "size": size}
    native.call("philox_normal", torch.float32, clip_id=clip_id, out=out, **arguments)
    torch.testing.assert_close(out, philox.normal(seed, clip_id, 1, blocks, size), rtol=0, atol=4e-6)
