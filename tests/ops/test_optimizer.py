"""The compiled optimiser step and clipping, against torch's own in float64."""

import copy

import pytest
import torch
from torch import nn

from handcraft.kernels import dispatch, env, native, optimizer
from handcraft.optim import OPTIMIZERS, clip_gradients

pytestmark = pytest.mark.skipif(not env.backend("cpu").available, reason=f"no CPU library: {env.backend('cpu').reason}")

SHAPES = ((3, 5), (1,), (), (0,), (4096,), (4097,), (70, 130), (16,))
TORCHS = {"adam": torch.optim.Adam, "radam": torch.optim.RAdam}


def parameters(dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)) for shape in SHAPES]


def set_gradients(values, step, scale=1.0):
    generator = torch.Generator().manual_seed(1000 + step)
    for value in values:
        value.grad = (scale * torch.randn(value.shape, generator=generator, dtype=torch.float64)).to(value.dtype)


@pytest.fixture
def calls(monkeypatch):
    """Names of the library's entries that are called."""
    found, call = [], native.call
    monkeypatch.setattr(
        native, "call", lambda entry, *args, **given: (found.append(entry), call(entry, *args, **given))
    )
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_torchs(name, decay, dtype, calls):
    ours, exact = parameters(dtype), parameters(torch.float64)
    mine = OPTIMIZERS[name](ours, lr=0.01, weight_decay=decay, foreach=True)
    truth = TORCHS[name](exact, lr=0.01, weight_decay=decay, foreach=False)
    for step in range(12):  # RAdam rectifies from the sixth on
        for values, taken in ((ours, mine), (exact, truth)):
            set_gradients(values, step)
            taken.step()
    assert calls == ["adam_step"] * 11  # the first step is torch's
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    for one, other in zip(ours, exact, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=tolerance)
        for key in ("exp_avg", "exp_avg_sq", "step"):
            torch.testing.assert_close(
                mine.state[one][key].double(), truth.state[other][key].double(), rtol=1e-5, atol=tolerance
            )


def test_state_is_torchs_and_loads_both_ways():
    ours, theirs = parameters(), parameters()
    mine, other = OPTIMIZERS["radam"](ours, lr=0.01), torch.optim.RAdam(theirs, lr=0.01)
    for step in range(7):
        for values, taken in ((ours, mine), (theirs, other)):
            set_gradients(values, step)
            taken.step()
    assert mine.state_dict()["state"].keys() == other.state_dict()["state"].keys()
    assert mine.state_dict()["param_groups"] == other.state_dict()["param_groups"]
    again = OPTIMIZERS["radam"](ours, lr=0.5)
    again.load_state_dict(copy.deepcopy(other.state_dict()))
    other.load_state_dict(copy.deepcopy(mine.state_dict()))
    set_gradients(ours, 8), set_gradients(theirs, 8)
    again.step(), other.step()
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two)


def test_each_tensor_counts_its_own_steps(calls):
    values, exact = parameters(), parameters(torch.float64)
    mine, truth = OPTIMIZERS["radam"](values, lr=0.01), torch.optim.RAdam(exact, lr=0.01)
    for step in range(9):
        for every, taken in ((values, mine), (exact, truth)):
            set_gradients(every, step)
            if step in (2, 3, 4):
                every[0].grad = None  # torch leaves it out, and so do we, by torch's own step
            taken.step()
    assert len(calls) == 5
    torch.testing.assert_close(values[0].double(), exact[0], rtol=1e-5, atol=1e-5)
    assert [mine.state[value]["step"].item() for value in values[:2]] == [6, 9]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_step_and_clipping_do_not_depend_on_threads(name):
    found = []
    for threads in (1, 2, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            values = [nn.Parameter(torch.zeros(100_003)), nn.Parameter(torch.ones(3))]
            taken = OPTIMIZERS[name](values, lr=0.1)
            norms = []
            for step in range(8):
                set_gradients(values, step)
                norms.append(clip_gradients(values, 1.0))
                taken.step()
        finally:
            torch.set_num_threads(before)
        found.append(torch.cat([*values, torch.stack(norms)]).detach())
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[1], found[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("most", [0.0, 0.5, 1e6])
def test_clipping_is_torchs(most, dtype, calls):
    ours, exact = parameters(dtype), parameters(torch.float64)
    set_gradients(ours, 0), set_gradients(exact, 0)
    norm = clip_gradients(ours, most)
    truth = nn.utils.clip_grad_norm_(exact, most or torch.inf)
    assert calls == ["clip_norm"]
    assert norm.shape == ()
    assert norm.dtype == dtype
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(norm.double(), truth, rtol=tolerance, atol=0)
    for one, other in zip(ours, exact, strict=True):
        torch.testing.assert_close(one.grad.double(), other.grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_norm_that_is_not_finite_is_told(bad):
    values = parameters()
    set_gradients(values, 0)
    values[-2].grad[3, 4] = bad
    assert not torch.isfinite(clip_gradients(values, 1.0))


def test_missing_gradients_are_left_out():
    values = parameters()
    set_gradients(values, 0)
    values[0].grad = None
    expected = torch.cat([value.grad.flatten() for value in values[1:]]).norm()
    torch.testing.assert_close(clip_gradients(values, 0.0), expected)
    assert values[0].grad is None
    assert clip_gradients([nn.Parameter(torch.ones(2))], 1.0) == 0


def test_torch_serves_what_the_library_does_not_take(calls, monkeypatch):
    assert optimizer.lists([]) is None
    assert optimizer.lists([torch.zeros(2)], []) is None
    assert optimizer.lists([torch.zeros(2), torch.zeros(2, dtype=torch.float64)]) is None
    assert optimizer.lists([torch.zeros(2), None]) is None
    assert optimizer.lists([None]) is None
    assert optimizer.lists([torch.zeros(2, dtype=torch.bfloat16)]) is None
    assert optimizer.lists([torch.zeros(4, 2)[:, 0]]) is None
    assert optimizer.lists([torch.zeros(2, device="meta")]) is None
    assert optimizer.lists([torch.zeros(2, 2).to_sparse()]) is None
    turned = nn.Parameter(torch.ones(4, 3).t())
    mine = OPTIMIZERS["adam"]([turned], lr=0.1)
    for _ in range(2):
        turned.grad = torch.ones(3, 4)
        mine.step()
    torch.testing.assert_close(turned.detach(), torch.full((3, 4), 0.8))
    monkeypatch.setenv(dispatch.VARIABLE, "reference")
    assert optimizer.lists([torch.zeros(2)]) is None
    assert not calls


def test_tensors_that_moved_are_found_again(calls):
    value = nn.Parameter(torch.ones(5))
    mine = OPTIMIZERS["adam"]([value], lr=0.1)

    def step():
        value.grad = torch.ones_like(value)
        mine.step()

    step(), step()
    value.data = value.data.clone()
    step()
    torch.testing.assert_close(value.detach(), torch.full((5,), 0.7))
    mine.load_state_dict(copy.deepcopy(mine.state_dict()))
    step()
    other = nn.Parameter(torch.ones(2))
    mine.add_param_group({"params": [other]})
    other.grad = torch.ones(2)
    step()  # torch's, which makes the new one's state
    other.grad = torch.ones(2)
    step()
    torch.testing.assert_close(value.detach(), torch.full((5,), 0.4))
    torch.testing.assert_close(other.detach(), torch.full((2,), 0.8))
    assert calls == ["adam_step"] * 5


def test_lists_of_another_dtype_are_refused():
    (values,) = optimizer.lists([torch.zeros(2, dtype=torch.float64)])
    given = {"count": 1, "sizes": torch.tensor([2]), "gradients": values, "most": 1.0, "norm": torch.empty(())}
    with pytest.raises(TypeError, match=r"gradients are torch.float64, expected torch.float32"):
        native.call("clip_norm", torch.float32, **given)
