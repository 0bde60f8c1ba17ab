"""dct_linear: the transform itself, [CLS], positions, lengths, on every backend. The shared contract is in
test_contract.py."""

import dataclasses
import functools
import itertools
import os
import subprocess
import sys

import oracles
import pytest
import scipy.fft
import tolerances
import torch
from backends import DEVICE, backends, finest, param
from cases import draw

from handcraft import kernels
from handcraft.kernels import native
from handcraft.kernels.dct import dct_matrix
from handcraft.kernels.dct_linear import op

HAS_CPU = "cpu" in backends("dct_linear")


@dataclasses.dataclass(frozen=True)
class Run:
    """The op, run by one backend; tests of exact values run it in the widest dtype that this has."""

    backend: str

    def __call__(self, *arguments, **options):
        return kernels.dct_linear(*arguments, backend=self.backend, **options)

    @property
    def tolerance(self):
        return tolerances.ORACLE if self.dtype == torch.float64 else tolerances.SLACK[self.dtype]

    @property
    def dtype(self):
        return finest("dct_linear", self.backend)

    def draw(self, *shapes, seed):
        return [value.to(self.dtype) for value in draw(*shapes, seed=seed)]


@pytest.fixture(params=[param(name) for name in backends("dct_linear")])
def dct_linear(request):
    return Run(request.param)


@pytest.mark.parametrize("size", [1, 2, 7, 16, 32, 60, 129])
def test_matrix_is_scipys_orthonormal_dct(size):
    matrix = dct_matrix(size, torch.float64)
    expected = torch.from_numpy(scipy.fft.dct(torch.eye(size, dtype=torch.float64).numpy(), axis=0, norm="ortho"))
    assert (matrix - expected).abs().max() < 1e-14
    assert (matrix @ matrix.T - torch.eye(size)).abs().max() < 1e-13
    assert torch.equal(dct_matrix(size), matrix.float())


def test_dct_of_a_window_is_scipys(dct_linear):
    (x,) = dct_linear.draw((4, 32, 9), seed=0)
    found = dct_linear(x, torch.eye(9))
    expected = torch.from_numpy(scipy.fft.dct(x.cpu().numpy(), axis=1, norm="ortho"))
    assert tolerances.error(found, expected) < dct_linear.tolerance


OPTIONS = list(itertools.product((False, True), (None, "first", "last"), (False, True)))


@pytest.mark.parametrize(("bias", "cls_at", "position"), OPTIONS)
@pytest.mark.parametrize("mode", ["dct", "none", "lengths"])
def test_every_combination(dct_linear, bias, cls_at, position, mode):
    frames, dim, width = 6, 5, 7
    x, w, b, c, p = dct_linear.draw((4, frames, dim), (width, dim), (width,), (width,), (frames + 1, width), seed=1)
    given = {
        "bias": b if bias else None,
        "cls": c if cls_at else None,
        "position": (p if cls_at else p[:-1]) if position else None,
        "cls_at": cls_at or "first",
        "transform": "dct" if mode == "dct" else "none",
        "lengths": torch.tensor([0, 1, 4, 6]) if mode == "lengths" else None,
    }
    as_numpy = {name: value.cpu().numpy() if torch.is_tensor(value) else value for name, value in given.items()}
    truth = torch.from_numpy(oracles.dct_linear(*(v.double().cpu().numpy() for v in (x, w)), **as_numpy))
    found = dct_linear(x, w, **given)
    assert tolerances.error(found, truth) < dct_linear.tolerance


def test_cls_last_sits_right_after_the_clip_and_later_rows_are_zero(dct_linear):
    x, w, c = dct_linear.draw((2, 5, 3), (4, 3), (4,), seed=2)
    out = dct_linear(x, w, cls=c, cls_at="last", transform="none", lengths=torch.tensor([2, 5]))
    assert torch.equal(out[0, 2], c)
    assert torch.equal(out[1, 5], c)
    assert not out[0, 3:].any()
    assert tolerances.error(out[0, :2], x[0, :2] @ w.T) < dct_linear.tolerance


def test_frames_beyond_the_length_get_and_give_nothing(dct_linear):
    x, w, b, c, p = dct_linear.draw((2, 5, 3), (4, 3), (4,), (4,), (6, 4), seed=3)
    lengths = torch.tensor([2, 4])
    x, w, b, c, p = (value.requires_grad_() for value in (x, w, b, c, p))
    for cls_at in ("first", "last"):
        options = {"cls": c, "position": p, "cls_at": cls_at, "transform": "none", "lengths": lengths}
        if dct_linear.dtype == torch.float64:
            assert torch.autograd.gradcheck(lambda *v, o=options: dct_linear(v[0], v[1], v[2], **o), (x, w, b))
        out = dct_linear(x, w, b, **options)
        grad_x, grad_p = torch.autograd.grad(out.sum(), (x, p))
        assert not grad_x[0, 2:].any()
        assert grad_x[0, :2].all()
        assert grad_p[:3].eq(2).all()
        assert grad_p[5].eq(0).all()


def test_lengths_with_dct_are_refused():
    with pytest.raises(ValueError, match='lengths given with transform="dct", expected transform="none"'):
        kernels.dct_linear(torch.ones(2, 4, 3), torch.ones(5, 3), lengths=torch.tensor([1, 2]))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.ones(2, 0, 3)}, ValueError, r"x has shape \(2, 0, 3\), expected \(B,T,D\) with T >= 1"),
        ({"weight": torch.ones(5, 4)}, ValueError, r"weight has shape \(5, 4\), expected \(H,D\) = \(5, 3\)"),
        ({"bias": torch.ones(4)}, ValueError, r"bias has shape \(4,\), expected \(H,\) = \(5,\)"),
        ({"position": torch.ones(4, 5)}, ValueError, r"position has shape \(4, 5\), expected \(T\+1,H\) = \(5, 5\)"),
        (
            {"cls": None, "position": torch.ones(5, 5)},
            ValueError,
            r"position has shape \(5, 5\), expected \(T,H\) = \(4, 5\)",
        ),
        ({"cls_at": "middle"}, ValueError, 'cls_at is \'middle\', expected "first" or "last"'),
        ({"transform": "fft"}, ValueError, 'transform is \'fft\', expected "dct" or "none"'),
        ({"lengths": torch.tensor([1, 5])}, ValueError, r"lengths has values in \[1, 5\], expected within \[0, 4\]"),
        ({"lengths": torch.tensor([-1, 2])}, ValueError, r"lengths has values in \[-1, 2\], expected within \[0, 4\]"),
        ({"lengths": torch.tensor([1])}, ValueError, r"lengths has shape \(1,\), expected \(B,\) = \(2,\)"),
        ({"lengths": torch.tensor([1.0, 2.0])}, TypeError, r"lengths is torch\.float32, expected int64"),
    ],
)
def test_errors(change, error, message):
    given = {"x": torch.ones(2, 4, 3), "weight": torch.ones(5, 3), "cls": torch.ones(5), "transform": "none"}
    with pytest.raises(error, match="dct_linear: " + message):
        kernels.dct_linear(**{**given, **change})


def tensors(batch, frames, dim, width, dtype=torch.float32):
    other = torch.float64 if dtype == torch.float64 else torch.float32
    x, *params = draw((batch, frames, dim), (width, dim), (width,), (width,), (frames + 1, width), seed=4)
    return [x.to(dtype).requires_grad_(), *(value.to(other).requires_grad_() for value in params)]


def everything(run, given, **options):
    """Output and all gradients of a call with a bias, [CLS] and positions."""
    x, weight, bias, cls, position = given
    out = run(x, weight, bias, cls=cls, position=position, **options)
    (gradient,) = draw(tuple(out.shape), seed=5)
    return [out.detach(), *torch.autograd.grad(out, given, gradient.to(out.dtype))]


# sizes on both sides of the widest register and of D = H, where the DCT changes sides
SIZES = [(3, 1, 1, 1), (2, 5, 17, 16), (37, 33, 15, 31), (5, 128, 180, 80), (4, 32, 33, 129), (1, 12, 512, 1024)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_sizes_on_every_backend(dct_linear, size, dtype):
    if dtype == torch.float64 and dct_linear.dtype != dtype:
        pytest.skip("the backend does not compute in fp64")
    if dct_linear.backend == "triton" and DEVICE == "cpu" and size[1] * size[2] > 1000:
        pytest.skip("a minute in Triton's interpreter; test_dct_linear_triton.py has the edges of its tiles")
    given = tensors(*size, dtype)
    exact = [value.detach().double().requires_grad_() for value in given]
    truth = everything(functools.partial(kernels.dct_linear, backend="reference"), exact)
    own = everything(functools.partial(kernels.dct_linear, backend="reference"), given)
    for i, found in enumerate(everything(dct_linear, given)):
        tolerances.check(f"result {i}", found, truth[i], own[i], dtype)


@pytest.mark.skipif(not HAS_CPU, reason="no CPU library")
def test_threads_and_repetition_change_no_bit():
    run = functools.partial(kernels.dct_linear, backend="cpu")
    given = tensors(131, 32, 60, 48)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 2, 3):
            torch.set_num_threads(count)
            found.append(everything(run, given))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.skipif(not HAS_CPU, reason="no CPU library")
def test_a_clip_does_not_depend_on_its_batch():
    x, w, b, c, p = (value.detach() for value in tensors(9, 7, 20, 24))
    run = functools.partial(kernels.dct_linear, weight=w, bias=b, cls=c, position=p, backend="cpu")
    assert torch.equal(run(x)[4:6], run(x[4:6]))


@pytest.mark.skipif(not HAS_CPU, reason="no CPU library")
@pytest.mark.parametrize("lengths", [None, torch.tensor([0, 2, 4])])
def test_registered_op(lengths):
    x, w, b, c, p = tensors(3, 4, 5, 6)
    transform = "dct" if lengths is None else "none"
    torch.library.opcheck(op.FUSED.registered_forward, ("cpu", x, w, b, c, p, lengths, "last", transform))
    torch.library.opcheck(op.FUSED.registered_forward, ("cpu", x, w, None, None, None, None, "first", "dct"))


@pytest.mark.skipif(not HAS_CPU, reason="no CPU library")
@pytest.mark.parametrize("isa", ["baseline", "avx2"])
def test_older_processors(isa):
    """The shape tests in a process that uses another instruction set."""
    if native.library().isa == isa:
        pytest.skip("the tests above used it")
    command = [sys.executable, "-m", "pytest", "-q", "-x", __file__, "-k", "sizes_on_every_backend and cpu"]
    done = subprocess.run(
        command, env={**os.environ, native.ISA_VARIABLE: isa}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-2000:]
