"""The generator's loss against a plain NumPy loop, and what must not reach it: missing landmarks and padding."""

import numpy as np
import pytest
import torch

from handcraft.losses import motion_loss


def loop_loss(prediction, target, present, valid):
    """The loss of docs/method.md frame by frame in float64."""
    batch, frames, landmarks = present.shape
    error = (prediction - target).double().numpy().reshape(batch, frames, landmarks, -1)
    seen = (present & valid[..., None]).numpy()
    positions, velocities = [], []
    for b in range(batch):
        for t in range(frames):
            if seen[b, t].any():
                positions.append(np.sqrt((error[b, t][seen[b, t]] ** 2).sum()))
            both = seen[b, t] & seen[b, t - 1] if t else np.zeros(landmarks, bool)
            if both.any():
                velocities.append(np.sqrt(((error[b, t] - error[b, t - 1])[both] ** 2).sum()))
    return sum(np.mean(values) if values else 0.0 for values in (positions, velocities))


def example(seed=0, batch=3, frames=6, landmarks=5, coordinates=2):
    generator = torch.Generator().manual_seed(seed)
    prediction, target = (torch.randn(batch, frames, landmarks * coordinates, generator=generator) for _ in range(2))
    present = torch.rand(batch, frames, landmarks, generator=generator) > 0.3
    valid = torch.arange(frames) < torch.tensor([6, 4, 1])[:batch, None]
    return prediction, target, present, valid


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_loop(seed):
    arguments = example(seed)
    assert motion_loss(*arguments).item() == pytest.approx(loop_loss(*arguments), rel=1e-5)


def test_is_the_formula_where_all_is_seen():
    prediction, target, present, valid = example()
    present, valid = torch.ones_like(present), torch.ones_like(valid)
    error = prediction - target
    expected = error.norm(dim=-1).mean() + error.diff(dim=1).norm(dim=-1).mean()
    torch.testing.assert_close(motion_loss(prediction, target, present, valid), expected)


def test_what_is_masked_cannot_change_the_loss():
    prediction, target, present, valid = example()
    clean = motion_loss(prediction, target, present, valid)
    hidden = ~(present & valid[..., None]).repeat_interleave(2, dim=-1)
    spoiled = motion_loss(prediction, target.masked_fill(hidden, torch.nan), present, valid)
    assert torch.equal(clean, spoiled)


def test_gradient_is_finite_and_zero_under_the_mask():
    prediction, target, present, valid = example()
    prediction[0] = target[0]  # norms of exactly 0, whose derivative is not defined
    hidden = ~(present & valid[..., None]).repeat_interleave(2, dim=-1)
    prediction.requires_grad_()
    motion_loss(prediction, target.masked_fill(hidden, torch.nan), present, valid).backward()
    assert prediction.grad.isfinite().all()
    assert (prediction.grad[hidden] == 0).all()
    assert (prediction.grad[1][~hidden[1]] != 0).any()


@pytest.mark.parametrize("nothing", ["present", "valid"])
def test_nothing_to_compare_gives_zero(nothing):
    prediction, target, present, valid = example()
    prediction.requires_grad_()
    masks = {"present": present, "valid": valid} | {nothing: torch.zeros_like(locals()[nothing])}
    loss = motion_loss(prediction, target, **masks)
    loss.backward()
    assert loss.item() == 0.0
    assert (prediction.grad == 0).all()


def test_a_single_valid_frame_has_no_velocity():
    prediction, target, present, valid = example()
    present[:] = True
    valid[:] = False
    valid[:, 2] = True
    expected = (prediction - target)[:, 2].norm(dim=-1).mean()
    torch.testing.assert_close(motion_loss(prediction, target, present, valid), expected)


def test_gradcheck():
    prediction, target, present, valid = example(batch=2, frames=4, landmarks=3)
    prediction, target = prediction.double().requires_grad_(), target.double()
    assert torch.autograd.gradcheck(lambda x: motion_loss(x, target, present, valid), (prediction,))


def test_wrong_shapes_are_named():
    prediction, target, present, valid = example()
    with pytest.raises(ValueError, match=r"valid \(3, 5\)"):
        motion_loss(prediction, target, present, valid[:, :5])
