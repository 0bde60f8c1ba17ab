"""The CUDA scan on a CPU: csrc/tests/emulated_scan.cpp, built for a form, in the place of NVRTC and the driver."""

import ctypes
import shutil
import subprocess
from pathlib import Path

from handcraft.kernels import nvrtc

ROOT = Path(__file__).parents[1]
FLAGS = ["-std=c++17", "-O0", "-fPIC", "-shared", "-fvisibility=hidden"]
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
# undefined behaviour, misaligned accesses among it, ends the process, which needs no library
CHECKS = ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]
H200 = nvrtc.Limits(multiprocessor=233_472, block=232_448)
COMPILER = shutil.which("g++")


class Device:
    """Takes the place of `nvrtc.launch`; remembers what was launched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.descending = False
        self.launched = []

    def library(self, source: nvrtc.Source) -> ctypes.CDLL:
        macros = [f"-D{name}={value}" for name, value in source.macros]
        path = self.folder / ("_".join(value for _, value in source.macros) + ".so")
        if not path.exists():
            main = ROOT / "csrc" / "tests" / "emulated_scan.cpp"
            command = [COMPILER, *FLAGS, *WARNINGS, *CHECKS, *macros, str(main), "-o", str(path)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stderr
        loaded = ctypes.CDLL(str(path))
        for name in ("launch", "forward_fields", "backward_fields"):
            getattr(loaded, f"handcraft_{name}").restype = ctypes.c_char_p
        return loaded

    def launch(self, source, kernel, grid, threads, shared, fields, device) -> None:
        library = self.library(source)
        names = library.handcraft_forward_fields() if kernel == "scan_forward" else library.handcraft_backward_fields()
        assert names.decode().split(";")[:-1] == list(fields), "the launcher's struct is not the kernel's"
        sizes = (ctypes.c_uint(grid), ctypes.c_uint(threads), ctypes.c_size_t(shared), ctypes.c_bool(self.descending))
        wrong = library.handcraft_launch(kernel.encode(), *sizes, nvrtc.pack(fields))
        assert wrong is None, f"{kernel}: {wrong.decode()}"
        self.launched.append((kernel, grid, threads, shared))
