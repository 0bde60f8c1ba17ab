"""Packages, dependency ranges and the optional CPU library of handcraft; `constraints/base.txt` pins what everybody
runs.

The folder `kernels/` is imported as `handcraft.kernels` and `recipes/` as `handcraft.recipes`.
"""

import os
import platform
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "handcraft" / "__init__.py").read_text()).group(1)
CPU = Path("csrc", "cpu")
CUDA_SOURCES = "handcraft.csrc.selective_scan"  # read by the compiler at run time, never imported
ISAS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma", "-mf16c", "-mprefer-vector-width=512"],
}
FLAGS = [
    "-std=c++17",
    "-O2",
    "-fvisibility=hidden",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wno-maybe-uninitialized",
]


def packages() -> list[str]:
    kernels = ["handcraft.kernels", *(f"handcraft.kernels.{name}" for name in find_packages("kernels"))]
    return [*find_packages(include=["handcraft", "handcraft.*"]), *kernels, "handcraft.recipes", CUDA_SOURCES]


class BuildCPU(build_ext):
    """Compiles every op once for each instruction set, each in a namespace of its own; the library chooses when it is
    loaded. Needs a C++17 compiler and nothing of torch or Python. Without one the install succeeds without it. A
    library that stands in the source tree and is newer than its sources is taken as it is."""

    def build_extension(self, extension: Extension) -> None:
        # $CXX as distutils reads it may carry flags; the vector types are those of GCC and Clang.
        compiler = next(
            (path for name in (os.environ.get("CXX"), "g++", "clang++") if name and (path := shutil.which(name))), None
        )
        if compiler is None:
            self.warn(
                "no C++ compiler (g++ or clang++): handcraft is installed without its CPU kernels, PyTorch serves"
            )
            return
        x86 = platform.machine().lower() in ("x86_64", "amd64")
        folder = Path(self.build_temp) / "cpu"
        folder.mkdir(parents=True, exist_ok=True)
        headers = max(path.stat().st_mtime for path in [Path(__file__), *HERE.glob("csrc/**/*.h")])
        target = Path(self.get_ext_fullpath(extension.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        standing = HERE / "kernels" / target.name  # where an editable install, of whichever environment, has left it
        newest = max(headers, *(Path(source).stat().st_mtime for source in extension.sources))
        if standing.is_file() and standing.stat().st_mtime >= newest:
            if standing.resolve() != target.resolve():
                shutil.copy2(standing, target)
            return
        jobs, objects = [], []
        for source in map(Path, extension.sources):
            for isa, flags in ISAS.items() if x86 else [("baseline", [])]:
                if source.name == "entry.cpp" and isa != "baseline":
                    continue
                made = folder / f"{source.stem}.{isa}.o"
                defines = [f"-DHANDCRAFT_ISA={isa}", *(["-DHANDCRAFT_X86"] if x86 else [])]
                command = [compiler, "-c", "-fPIC", *FLAGS, *flags, *defines, "-Icsrc", str(source), "-o", str(made)]
                objects.append(str(made))
                if not made.is_file() or made.stat().st_mtime < max(headers, source.stat().st_mtime):
                    jobs.append(command)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(self.spawn, jobs))
        unfinished = target.with_suffix(".tmp")
        self.spawn(
            [
                compiler,
                "-shared",
                *objects,
                "-o",
                str(unfinished),
                *(["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []),
            ]
        )
        unfinished.replace(target)


setup(
    name="handcraft",
    version=VERSION,
    description="Synthetic sign generation and sign recognition: fused kernels and the pipeline around them",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.11,<3.14",
    # optional: without a working compiler the install succeeds and the reference serves
    ext_modules=[Extension("handcraft.kernels._cpu", sorted(map(str, CPU.glob("*.cpp"))), optional=True)],
    cmdclass={"build_ext": BuildCPU},
    packages=packages(),
    package_dir={
        "handcraft": "handcraft",
        "handcraft.kernels": "kernels",
        "handcraft.recipes": "recipes",
        CUDA_SOURCES: "csrc/selective_scan",
    },
    package_data={"handcraft.recipes": ["*.yaml"], "handcraft.render": ["assets/*"], CUDA_SOURCES: ["*.cu", "*.h"]},
    install_requires=[
        "torch>=2.11",
        "numpy>=1.26",
        "scipy>=1.11",
        "scikit-learn>=1.4",
        "pyarrow>=15",
        "safetensors>=0.4.3",
        "torchmetrics>=1.4",
        "tyro>=0.9",
        "pyyaml>=6",
        "rich>=13",
        "tqdm>=4.66",
        "pillow>=10.1",
        "jinja2>=3.1",
        "dtaidistance>=2.3.11",
    ],
    extras_require={
        "gpu": ['triton>=3.6,<3.10; sys_platform == "linux"'],
        "cuda": [
            'cuda-core>=1.0; sys_platform != "darwin"',
            'cuda-bindings>=12.8; sys_platform != "darwin"',
            'nvidia-cuda-nvrtc>=13; sys_platform != "darwin"',
        ],
        "mamba": ["mamba-ssm>=2.2", "causal-conv1d>=1.4"],
        "extract": ["mediapipe>=0.10.14,<0.10.30", "av>=15"],
        "ray": ["ray[data]>=2.51"],
        "pose": ["pose-format>=0.10.5"],
        "video": ["av>=15"],
        "tensorboard": ["tensorboard>=2.16"],
        "bench": ["pytest>=8", "pytest-benchmark>=5", "matplotlib>=3.8"],
        "docs": ["sphinx>=8", "furo>=2024.8", "myst-parser>=4"],
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.5",
            "hypothesis>=6.100",
            "pandas>=2.1",
            "ruff>=0.15",
            "selenium>=4.20",
            "webdataset>=1.0",
            "handcraft[pose,tensorboard,video]",
        ],
    },
    entry_points={"console_scripts": ["handcraft = handcraft.cli:main"]},
)
