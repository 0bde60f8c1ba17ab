"""Packages and dependency ranges of handcraft; `constraints/base.txt` pins what everybody runs.

The folder `kernels/` is imported as `handcraft.kernels` and `recipes/` as `handcraft.recipes`.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "handcraft" / "__init__.py").read_text()).group(1)


def packages() -> list[str]:
    kernels = ["handcraft.kernels", *(f"handcraft.kernels.{name}" for name in find_packages("kernels"))]
    return [*find_packages(include=["handcraft", "handcraft.*"]), *kernels, "handcraft.recipes"]


setup(
    name="handcraft",
    version=VERSION,
    description="Synthetic sign generation and sign recognition: fused kernels and the pipeline around them",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.11,<3.14",
    # A C++ extension of the CPU backend would be listed as `ext_modules` here, optional=True: without a compiler the
    # install succeeds and the reference serves.
    packages=packages(),
    package_dir={"handcraft": "handcraft", "handcraft.kernels": "kernels", "handcraft.recipes": "recipes"},
    package_data={"handcraft.recipes": ["*.yaml"]},
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
    ],
    extras_require={
        "gpu": ["triton>=3.6,<3.10"],
        "mamba": ["mamba-ssm>=2.2", "causal-conv1d>=1.4"],
        "extract": ["mediapipe>=0.10.14,<0.10.30", "av>=12"],
        "pose": ["pose-format>=0.6"],
        "bench": ["pytest>=8", "pytest-benchmark>=5", "matplotlib>=3.8"],
        "test": ["pytest>=8", "pytest-xdist>=3.5", "hypothesis>=6.100", "pandas>=2.1", "ruff>=0.15"],
    },
    entry_points={"console_scripts": ["handcraft = handcraft.cli:main"]},
)
