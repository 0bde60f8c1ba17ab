"""What a run says of its machine: true, and without the name of a host or a user."""

import getpass
import os
import platform
import subprocess
import sys

import numpy
import torch

import handcraft
from handcraft import machine as module
from handcraft.machine import machine, versions


def test_machine_is_this_one():
    found = machine()
    assert found["processor"]
    assert 1 <= found["cores"] <= os.cpu_count()
    assert found["threads"] == torch.get_num_threads()
    assert found["memory_gb"] is None or found["memory_gb"] > 0.1
    assert len(found["gpus"]) == torch.cuda.device_count()
    assert found["system"].startswith(platform.system())
    assert platform.node() not in str(found)
    assert getpass.getuser() not in {word for text in found.values() for word in str(text).split()}


def test_versions_are_those_imported():
    found = versions()
    assert found["handcraft"] == handcraft.__version__
    assert found["torch"] == torch.__version__
    assert found["numpy"] == numpy.__version__
    assert found["python"] == platform.python_version()


def test_a_processor_without_a_name_is_called_what_python_calls_it(monkeypatch, tmp_path):
    info = tmp_path / "cpuinfo"
    monkeypatch.setattr(module, "Path", lambda name: info)
    monkeypatch.setattr(platform, "processor", lambda: "z80")
    assert machine()["processor"] == "z80"
    info.write_text("processor\t: 0\nmodel name\t: Abacus 9000\n")
    assert machine()["processor"] == "Abacus 9000"


def test_memory_is_kept():
    """Freed tensors of a training step are not given back to the system: their pages are not asked for again."""
    code = """
import resource, torch
from handcraft.machine import keep_memory
keep_memory()
def step():
    return [torch.ones(3 << 20) for _ in range(4)]
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    if platform.libc_ver()[0] == "glibc":
        assert int(done.stdout) < 3000  # 5 x 12,288 pages otherwise
