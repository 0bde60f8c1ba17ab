"""Where the op tests run, and what they have measured."""

import os

import backends
import pytest
import torch


def pytest_addoption(parser):
    parser.addoption("--device", choices=("cpu", "cuda"), default="cpu", help="where the op tests put their tensors")


def pytest_configure(config):
    device = config.getoption("device")
    if device == "cuda":
        if not torch.cuda.is_available():
            raise pytest.UsageError("--device cuda: torch sees no GPU here")
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # the reference's products, to be deterministic
        backends.use(device)


def pytest_terminal_summary(terminalreporter):
    """What tests note by `record_property("note", line)`, passed ones too, from whichever process they ran in."""
    reports = terminalreporter.stats.get("passed", [])
    lines = [line for report in reports for name, line in report.user_properties if name == "note"]
    if lines:
        terminalreporter.section("noted by tests")
        for line in lines:
            terminalreporter.write_line(line)
