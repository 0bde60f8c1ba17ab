"""The CUDA scan. Without a GPU its kernels run emulated, source and launcher unchanged: test_nvrtc.py compiles them."""

import ctypes

import cuda_emulation
import numpy as np
import pytest
import tolerances
import torch
from cases import CASES, draw

from handcraft.kernels import dispatch, env, nvrtc, selective_scan
from handcraft.kernels.selective_scan import arguments, cuda

needs_compiler = pytest.mark.skipif(cuda_emulation.COMPILER is None, reason="the emulation needs g++")
needs_gpu = pytest.mark.skipif(
    not env.backend("cuda").available, reason=f"the cuda backend does not run: {env.backend('cuda').reason}"
)
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("emulated")


@pytest.fixture
def device(folder, monkeypatch):
    """The emulated GPU; what torch.empty returns is filled with NaN."""
    found = cuda_emulation.Device(folder)
    monkeypatch.setattr(nvrtc, "launch", found.launch)
    monkeypatch.setattr(nvrtc, "limits", lambda _: cuda_emulation.H200)
    torch.use_deterministic_algorithms(True)
    yield found
    torch.use_deterministic_algorithms(False)


def make(batch, dim, length, state, dtype, form_B="batch", form_C="batch", groups=2, gated=True, seed=1):
    """Arguments in the order of NAMES: activations of `dtype`, values as a Mamba block has them."""
    shapes = {
        "batch": (batch, state, length),
        "groups": (batch, groups, state, length),
        "one group": (batch, 1, state, length),
        "constant": (dim, state),
    }
    channels, vector = (batch, dim, length), (dim,)
    drawn = draw(channels, channels, (dim, state), shapes[form_B], shapes[form_C], vector, channels, vector, seed=seed)
    given = dict(zip(NAMES, drawn, strict=True))
    given["A"] = -given["A"].abs() - 0.1
    given["delta_bias"] = given["delta_bias"] / 2 - 1
    if not gated:
        given["z"] = None
    return [
        None if x is None else x.to(torch.float32 if name in ("A", "D", "delta_bias") else dtype)
        for name, x in given.items()
    ]


def cotangents(given, last):
    batch, dim, _ = given[0].shape
    dy, dlast = draw(given[0].shape, (batch, dim, given[2].shape[1]), seed=8)
    return dy.to(given[0].dtype), dlast.float() if last else None


def run(given, softplus=True, last=False, cotangent=None):
    """y, last state and gradients by the launcher."""
    y, state = cuda.forward(*given, softplus, last)
    dy, dlast = cotangents(given, last) if cotangent is None else (cotangent, None)
    return [y, state, *cuda.backward([True] * 8, dy, dlast, *given, softplus, last)]


def truth(given, softplus=True, last=False, cotangent=None):
    """The same in float64, by the reference."""
    exact = [None if x is None else x.detach().double().requires_grad_() for x in given]
    y, state = selective_scan(*exact, softplus, True, backend="reference")
    dy, dlast = cotangents(given, last) if cotangent is None else (cotangent, None)
    outputs, gradients = ([y, state], [dy.double(), dlast.double()]) if last else ([y], [dy.double()])
    found = iter(torch.autograd.grad(outputs, [x for x in exact if x is not None], gradients))
    return [y, state if last else state.new_empty(0), *(None if x is None else next(found) for x in exact)]


def agree(found, expected, given):
    for name, one, other in zip(("y", "last", *NAMES), found, expected, strict=True):
        assert (one is None) == (other is None), name
        if one is not None:
            assert tolerances.error(one, other) < 2 * tolerances.SLACK[one.dtype], name
    assert all(x is None or one.dtype == x.dtype for x, one in zip(given, found[2:], strict=True))


# shape, forms of its arguments, settings of the launcher
SHAPES = {
    "odd sizes": ((2, 6, 9, 5, torch.float32), {}, {}),
    "one step": ((2, 3, 1, 5, torch.float32), {}, {}),
    "four warps, the tile not full, 16 bytes a load": ((2, 120, 17, 16, torch.bfloat16), {}, {"BLOCKS": 1}),
    "blocks take several items": ((7, 72, 12, 16, torch.bfloat16), {}, {"RUNS": 4}),
    "three chunks": ((1, 40, 95, 16, torch.bfloat16), {}, {}),
    "states over 8 lanes, groups": ((2, 20, 11, 30, torch.float16), {"form_B": "groups", "form_C": "one group"}, {}),
    "states over 32 lanes": ((1, 6, 41, 128, torch.bfloat16), {}, {}),
    "four states, constant C": ((2, 40, 9, 4, torch.float32), {"form_B": "groups", "form_C": "constant"}, {}),
    "constant B and C, no gate": (
        (2, 12, 13, 16, torch.float32),
        {"form_B": "constant", "form_C": "constant", "gated": False},
        {},
    ),
}


@needs_compiler
@pytest.mark.parametrize("name", SHAPES)
def test_emulated_kernels(name, device, monkeypatch):
    """Output, last state and gradients; and not a bit depends on the order in which threads and blocks run."""
    shape, forms, settings = SHAPES[name]
    for setting, value in settings.items():
        monkeypatch.setattr(cuda, setting, value)
    given = make(*shape, **forms)
    found = run(given, last=True)
    agree(found, truth(given, last=True), given)
    device.descending = True
    again = run(given, last=True)
    assert all(one is None or torch.equal(one, other) for one, other in zip(found, again, strict=True))


@needs_compiler
def test_emulated_blocks_are_as_planned(device, monkeypatch):
    monkeypatch.setattr(cuda, "BLOCKS", 1)
    run(make(2, 120, 17, 16, torch.bfloat16))
    kernels = ["scan_forward", "scan_backward", "scan_finish"]
    assert [kernel for kernel, *_ in device.launched] == kernels
    assert [(grid, threads) for _, grid, threads, _ in device.launched[:2]] == [(2, 128), (2, 128)]
    device.launched.clear()
    run(make(1, 30, 95, 16, torch.bfloat16))  # the states between its three chunks come from another forward pass
    assert [kernel for kernel, *_ in device.launched] == ["scan_forward", *kernels]


@needs_compiler
@pytest.mark.parametrize("softplus", [False, True])
@pytest.mark.parametrize("left_out", ["D", "delta_bias", "both"])
def test_emulated_optional_arguments(left_out, softplus, device):
    given = make(2, 6, 9, 5, torch.float32)
    for name in ("D", "delta_bias") if left_out == "both" else (left_out,):
        given[NAMES.index(name)] = None
    agree(run(given, softplus), truth(given, softplus), given)


@needs_compiler
def test_emulated_layouts(device):
    """Channels contiguous, slices of larger buffers, an expanded cotangent: as contiguous tensors, bit for bit."""
    given = make(2, 40, 33, 16, torch.bfloat16)
    expected = run(given)
    turned = [None if x is None else x.mT.contiguous().mT if x.dim() > 2 else x for x in given]
    assert all(a is None or torch.equal(a, b) for a, b in zip(expected, run(turned), strict=True))
    sliced = []
    for x in given:
        buffer = torch.full([2 * size + 1 for size in x.shape], float("nan"), dtype=x.dtype)
        sliced.append(buffer[tuple(slice(1, None, 2) for _ in x.shape)].copy_(x))
    assert all(torch.equal(a, b) for a, b in zip(expected, run(sliced), strict=True))
    ones = torch.ones(1, 1, 1, dtype=torch.bfloat16)
    full, thin = (run(given, cotangent=x) for x in (ones.repeat(2, 40, 33), ones.expand(2, 40, 33)))
    assert all(torch.equal(a, b) for a, b in zip(full, thin, strict=True))


@needs_compiler
def test_emulated_mixed_activations(device):
    given = make(2, 6, 9, 5, torch.float32)
    given[0] = given[0].bfloat16()
    found, expected = run(given), truth(given)
    assert found[0].dtype == torch.bfloat16
    for name, one, other in zip(("y", "last", *NAMES), found, expected, strict=True):
        assert tolerances.error(one, other) < 2 * tolerances.SLACK[torch.bfloat16], name


def test_empty_batch(device):
    found = run(make(0, 6, 9, 5, torch.float32), last=True)
    assert found[0].shape == (0, 6, 9)
    assert not found[4].any()  # the gradient of A
    assert not device.launched


@needs_compiler
def test_large_steps_stay_finite(device):
    given = make(2, 6, 9, 5, torch.float32)
    given[1], given[2] = given[1] * 100, given[2] * 100
    assert all(torch.isfinite(x).all() for x in run(given))


@needs_compiler
def test_functions(device):
    """softplus, its derivative from its value, sigmoid and exp, within a few ulp but for the GPU's own exp2 and 1/x."""
    form = cuda.Form(torch.float32, 5, True, False, False)
    near = np.logspace(-12, 1.9, 20_001)
    x = np.concatenate((near, -near, np.linspace(-87, 87, 20_001))).astype(np.float32)
    out = [np.full_like(x, np.nan) for _ in range(4)]
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (x, *out)]
    device.library(form.source(1)).handcraft_functions(*pointers, ctypes.c_size_t(x.size))
    wide = x.astype(np.float64)
    exact = (np.logaddexp(0, wide), 1 / (1 + np.exp(-wide)), 1 / (1 + np.exp(-wide)), np.exp(wide))
    for name, found, expected, ulp in zip(
        ("softplus", "slope", "sigmoid", "exp"), out, exact, (3, 6, 3, 2), strict=True
    ):
        worst = np.max(np.abs(found - expected) / np.spacing(expected.astype(np.float32)).astype(np.float64))
        assert worst <= ulp, f"{name}: {worst:.2f} units in the last place"


@needs_compiler
def test_bf16_rounds_as_torch_does(device):
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16).float()
    x = torch.cat((every, (every[:-1] + every[1:]) / 2, torch.randn(1 << 16), torch.tensor([3.4e38])))
    out = torch.empty_like(x, dtype=torch.bfloat16)
    library = device.library(cuda.Form(torch.float32, 5, True, False, False).source(1))
    library.handcraft_bf16(ctypes.c_void_p(x.data_ptr()), ctypes.c_void_p(out.data_ptr()), ctypes.c_size_t(x.numel()))
    number = ~torch.isnan(x)
    assert torch.equal(out[number].view(torch.int16), x.bfloat16()[number].view(torch.int16))
    assert torch.isnan(out[~number]).all()


@pytest.mark.parametrize("shared", [65_536, 101_376, 166_912, 232_448])
def test_a_block_fits_into_the_shared_memory_of_any_gpu(shared, monkeypatch):
    monkeypatch.setattr(nvrtc, "limits", lambda _: nvrtc.Limits(shared, shared))
    for state in (1, 5, 16, 30, 128):
        for length in (1, 9, 33, 40, 41, 129, 513):
            for form in (("batch", "batch"), ("constant", "constant")):
                inputs = arguments.prepare(*make(2, 96, length, state, torch.float32, *form), True)
                form = cuda._form(inputs)
                for bytes_of, most in (
                    (form.forward_bytes, form.forward_warps),
                    (form.backward_bytes, form.backward_warps),
                ):
                    plan = cuda._plan(inputs, form, bytes_of, most, cuda._rows(length))
                    assert 0 < plan.shared <= shared
                    assert plan.rows <= cuda.ROWS
                    assert plan.tiles * form.channels(plan.warps) >= 96


def test_sixteen_and_eight_warps_a_multiprocessor():
    """What the shared memory leaves of those that the registers allow, in the case the kernels are made for."""
    form = cuda.Form(torch.bfloat16, 16, True, False, False)
    for shared, most in ((form.forward_bytes(4, 33), 16), (form.backward_bytes(4, 33), 8)):
        assert cuda_emulation.H200.multiprocessor // (shared + cuda.RESERVED) * 4 >= most
    assert (form.forward_warps(4), form.backward_warps(4)) == (16, 8)


def test_rules():
    rules = {rule.backend: rule for rule in dispatch.RULES if rule.op == "selective_scan"}
    shape = {"L": 33, "D": 64, "N": 16}
    assert rules["cuda"].misfit("cuda", torch.bfloat16, shape) is None
    assert "N <= 128" in rules["cuda"].misfit("cuda", torch.bfloat16, shape | {"N": 129})
    assert rules["cuda"].misfit("cpu", torch.bfloat16, shape)
    assert rules["cuda"].misfit("cuda", torch.float64, shape)


# ------------------------------------------------------------------------------------------------------- with a GPU

CASE = CASES["selective_scan"]


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(3, 6, 9, 5), (16, 160, 33, 16), (2, 64, 129, 16), (2, 40, 513, 30)], ids=str)
def test_on_a_gpu(shape, dtype):
    given = make(*shape, dtype)
    there = [x.cuda() for x in given]
    found = run_there(there)
    agree([None if x is None else x.cpu() for x in found], truth(given, last=True), given)
    again = run_there([x.mT.contiguous().mT if x.dim() > 2 else x for x in there])
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


def run_there(given):
    leaves = [x.detach().requires_grad_() for x in given]
    outputs = selective_scan(*leaves, True, True, backend="cuda")
    dy, dlast = (x.cuda() for x in cotangents(given, True))
    return [*(x.detach() for x in outputs), *torch.autograd.grad(outputs, leaves, [dy, dlast])]


@needs_gpu
def test_compiled_on_a_gpu():
    tensors = {name: x.cuda().requires_grad_() for name, x in CASE.cast(CASE.make(3), torch.float32).items()}
    pairs = []
    for function in (torch.compile(CASE.run, fullgraph=True), CASE.run):
        out = function(tensors, backend="cuda")
        pairs.append((out, *torch.autograd.grad(out.sin().sum(), list(tensors.values()))))
    for found, expected in zip(*pairs, strict=True):
        assert tolerances.error(found, expected) < 10 * tolerances.SLACK[torch.float32]


@needs_gpu
def test_captured_in_a_graph():
    given = [x.cuda() for x in make(4, 64, 33, 16, torch.bfloat16)]
    expected = selective_scan(*given, True, backend="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = selective_scan(*given, True, backend="cuda")
    out.zero_()
    graph.replay()
    assert torch.equal(out, expected)
