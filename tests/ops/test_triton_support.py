"""What the Triton kernels share: precision, alignment, launches and their recording. Needs Triton, no GPU."""

import ast
from pathlib import Path

import pytest
import torch

from handcraft.kernels import env, philox
from handcraft.kernels.registration import Lazy

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")
triton_support = pytest.importorskip("handcraft.kernels.triton_support")
kernel_generate = pytest.importorskip("handcraft.kernels.cmlpe.kernel_generate")


@pytest.fixture
def tf32():
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    yield lambda value: setattr(matmul, "fp32_precision", value)
    matmul.fp32_precision = before


def test_plain_tf32_only_where_torch_may_use_it_too(tf32):
    tf32("ieee")
    assert triton_support.product_precision(torch.float32) == "tf32x3"
    tf32("tf32")
    assert triton_support.product_precision(torch.float32) == "tf32"
    assert triton_support.product_precision(torch.bfloat16) == "tf32x3"


@pytest.mark.parametrize(
    ("make", "sizes", "expected"),
    [
        (lambda: torch.empty(4, 32, 180), (180,), 4),
        (lambda: torch.empty(4, 32, 180, dtype=torch.bfloat16), (180,), 4),
        (lambda: torch.empty(4, 32, 144, dtype=torch.bfloat16), (144,), 8),
        (lambda: torch.empty(4, 32, 144), (144,), 4),
        (lambda: torch.empty(4, 32, 45), (45,), 1),
        (lambda: torch.empty(4, 32, 200)[:, :, :180], (180,), 4),
        (lambda: torch.empty(4, 32, 200, dtype=torch.float16)[:, :, :179], (179,), 1),
        (lambda: torch.empty(4, 32, 180)[:, :, 1:], (179,), 1),
        (lambda: torch.empty(4, 32, 184, dtype=torch.float16)[:, :, 2:182], (180,), 2),
        (lambda: torch.empty(4, 180, 32).mT, (180,), 1),
        (lambda: torch.empty(7)[2:7].as_strided((1, 1, 4), (3, 3, 1)), (4,), 2),
    ],
)
def test_alignment_of_rows(make, sizes, expected):
    tensor = make()
    assert triton_support.alignment(tensor, *sizes) == expected
    starts = tensor.data_ptr() % (expected * tensor.element_size())
    assert starts == 0


@triton.jit
def _round(x_ptr, out_ptr, SIZE: tl.constexpr):
    offs = tl.arange(0, SIZE)
    tl.store(out_ptr + offs, triton_support.rounded(tl.load(x_ptr + offs), out_ptr.dtype.element_ty))


@pytest.mark.triton
@pytest.mark.skipif(not env.backend("triton").available, reason="needs a GPU, or TRITON_INTERPRET=1")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_rounding_is_torchs(dtype):
    x = torch.cat((torch.randn(1019), torch.tensor([0.0, -0.0, 1e-30, 257 / 256, 259 / 256])))
    out = torch.empty(1024, dtype=dtype)
    _round[(1,)](x, out, SIZE=1024)
    assert torch.equal(out, x.to(dtype))


@triton.jit(do_not_specialize=("seed_low", "seed_high", "place"))
def _words(clip_ptr, out_ptr, seed_low, seed_high, place, CLIPS: tl.constexpr, QUADS: tl.constexpr):
    clip, quad = tl.arange(0, CLIPS), tl.arange(0, QUADS)
    w0, w1, w2, w3 = kernel_generate.words(tl.load(clip_ptr + clip), seed_low, seed_high, place, 4 * QUADS)
    at = out_ptr + (clip[:, None] * QUADS + quad[None, :]) * 4
    tl.store(at, w0.to(tl.int64))
    tl.store(at + 1, w1.to(tl.int64))
    tl.store(at + 2, w2.to(tl.int64))
    tl.store(at + 3, w3.to(tl.int64))


@pytest.mark.triton
@pytest.mark.skipif(not env.backend("triton").available, reason="needs a GPU, or TRITON_INTERPRET=1")
@pytest.mark.parametrize("seed", [0, 7, 2**31, 2**32 - 1, 2**32, 0xFEDCBA9876543210, 2**64 - 1])
@pytest.mark.parametrize(("stream", "block"), [(0, 0), (1, 5), (255, 300)])
def test_random_words_are_equal_bit_for_bit(seed, stream, block):
    clip_id = torch.tensor([0, 1, -1, 2**31, 2**32 + 5, 2**62 + 3, -(2**63), 2**63 - 1])
    out = torch.empty(8, 8, 4, dtype=torch.int64)
    halves = [kernel_generate._signed(half) for half in (seed & 0xFFFFFFFF, seed >> 32)]
    _words[(1,)](clip_id, out, *halves, kernel_generate._signed(stream << 24 | block << 8), CLIPS=8, QUADS=8)
    assert torch.equal(out, philox.words(seed, clip_id, stream, block, 8))


def test_whole_clips_of_a_tile():
    assert triton_support.clips_in(64, 1) == (1, 64)
    assert triton_support.clips_in(64, 17) == (32, 2)
    assert triton_support.clips_in(64, 64) == (64, 1)
    assert triton_support.clips_in(64, 65) == (128, 1)
    assert [triton_support.block(size) for size in (1, 16, 17, 128)] == [16, 16, 32, 128]


class Kernel:
    def __init__(self):
        self.calls = []

    def __getitem__(self, grid):
        return lambda **given: self.calls.append((grid, given))


def test_a_launch_says_what_the_compiler_may_do():
    kernel = Kernel()
    triton_support.launch(kernel, (3,), torch.empty(1), {"a": 1}, num_warps=8, num_stages=2)
    triton_support.launch(kernel, (0, 4), torch.empty(1), {"a": 2}, num_warps=8, num_stages=2)
    options = {"num_warps": 8, "num_stages": 2, "enable_fp_fusion": True, "maxnreg": 255}
    assert kernel.calls == [((3,), {"a": 1, **options})]
    assert triton_support.compile_options(16, 1)["maxnreg"] == 128


def test_every_kernel_is_launched_by_launch():
    """Nowhere else: a launch that does not say what the compiler may do takes its defaults, which change."""
    folder = Path(triton_support.__file__).parent
    files = [path for path in folder.rglob("*.py") if path != folder / "triton_support.py"]
    assert len(files) > 20
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            launched = isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript)
            assert not (launched and "kernel" in ast.unparse(node.func.value)), f"{path}:{node.lineno}"


def test_recorded_launches_do_not_run():
    kernel = Kernel()
    with triton_support.recording() as found:
        triton_support.launch(kernel, [3], torch.empty(1), {"a": 1}, num_warps=4, num_stages=1)
    assert kernel.calls == []
    assert found == [triton_support.Launch(kernel, (3,), {"a": 1}, 4, 1)]


def test_a_lazy_launcher_is_imported_once_and_when_used():
    module = Lazy("handcraft.kernels.no_such_module")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        _ = module.forward
    module = Lazy("json")
    assert module.dumps([1]) == "[1]"
    assert "dumps" in vars(module)
