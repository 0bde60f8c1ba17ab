"""motion_norms beyond the shared contract: what a mask hides, norms of 0, and what is refused."""

import pytest
import torch
from cases import make_motion, seen_landmarks

from handcraft.kernels import env, motion_norms

BACKENDS = ["reference", *(["cpu"] if env.backend("cpu").available else [])]


def example(dtype=torch.float32):
    tensors = make_motion(3)
    seen = seen_landmarks(3, 6, 7)
    return tensors["prediction"].to(dtype), tensors["target"].to(dtype), seen


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_hidden_cannot_be_felt(backend):
    prediction, target, seen = example()
    hidden = ~seen.repeat_interleave(2, dim=2)
    expected = motion_norms(prediction, target, seen, backend=backend)
    prediction.requires_grad_()
    spoiled = motion_norms(prediction, target.masked_fill(hidden, torch.nan), seen, backend=backend)
    assert torch.equal(spoiled, expected)
    spoiled.sum().backward()
    assert prediction.grad.isfinite().all()
    assert (prediction.grad[hidden] == 0).all()
    assert (expected[1, 0, 4], expected[1, 1, 4], expected[1, 1, 5]) == (0, 0, 0)  # a frame without a landmark
    assert (expected[:, 1, 0] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_norm_of_zero_has_no_gradient(backend):
    prediction, target, seen = example()
    prediction[0] = target[0]
    prediction.requires_grad_()
    motion_norms(prediction, target, seen, backend=backend).sum().backward()
    assert (prediction.grad[0] == 0).all()
    assert prediction.grad[1].abs().max() > 0


def test_what_is_refused():
    prediction, target, seen = example()
    with pytest.raises(TypeError, match=r"motion_norms: seen is torch\.float32, expected bool"):
        motion_norms(prediction, target, seen.float())
    with pytest.raises(ValueError, match=r"motion_norms: seen has shape \(3, 5, 7\), expected \(B,M,J\) = \(3, 6, 7\)"):
        motion_norms(prediction, target, seen[:, :5])
    with pytest.raises(ValueError, match=r"D a multiple of J"):
        motion_norms(prediction, target, seen[:, :, :4])


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the CPU library does not run here")
def test_a_target_that_is_half_of_each_window():
    prediction, target, seen = example()
    windows = torch.cat((torch.full_like(target, torch.nan), target), dim=1)
    found = []
    for given in (target, windows[:, 6:]):
        prediction = prediction.detach().requires_grad_()
        norms = motion_norms(prediction, given, seen, backend="cpu")
        found.append((norms, *torch.autograd.grad(norms.sum(), prediction)))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
