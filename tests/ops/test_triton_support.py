"""What the Triton kernels share: precision, alignment, launches and their recording. Needs Triton, no GPU."""

import ast
from pathlib import Path

import pytest
import torch

from handcraft.kernels import env
from handcraft.kernels.registration import Lazy

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")
triton_support = pytest.importorskip("handcraft.kernels.triton_support")


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
