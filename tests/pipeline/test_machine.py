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


def test_the_allocator_can_be_told_to_keep_memory():
    code = "from handcraft.machine import keep_memory; print(keep_memory())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(platform.libc_ver()[0] == "glibc")
