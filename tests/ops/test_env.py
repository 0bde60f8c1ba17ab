"""Probing: every state of an install becomes a line, never an exception."""

import logging
import sys

import pytest
import torch

from handcraft.kernels import dispatch, env


@pytest.fixture(autouse=True)
def fresh():
    env._cached.cache_clear()
    yield
    env._cached.cache_clear()


def package(tmp_path, monkeypatch, name, text):
    """Put a package of this name first on the path."""
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text(text)
    for module in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(tmp_path)


def test_report_has_a_line_for_everything():
    probes = env.report()
    assert [probe.name for probe in probes] == [
        "torch",
        "cuda",
        "triton",
        "mamba_ssm",
        "causal_conv1d",
        "nvrtc",
        "compiler",
        "cpu_library",
    ]
    assert all(probe.reason for probe in probes)
    assert probes[0].version == torch.__version__
    assert probes[1].available == torch.cuda.is_available()


def test_every_backend_has_an_answer():
    for name in dispatch.BACKENDS[1:]:
        assert env.backend(name).reason
    assert env.backend("reference").available
    if not torch.cuda.is_available():
        for name in ("cuda", "mamba_ssm"):
            assert not env.backend(name).available


def test_a_missing_package_gives_the_install_command(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [])
    monkeypatch.delitem(sys.modules, "mamba_ssm", raising=False)
    probe = env.probe("mamba_ssm")
    assert not probe.available
    assert "handcraft[mamba]" in probe.install


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise OSError('undefined symbol: _ZN3c10')", "OSError: undefined symbol: _ZN3c10"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("import no_such_dependency", "ModuleNotFoundError: No module named 'no_such_dependency'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("", "AttributeError"),
    ],
)
def test_a_broken_install_is_a_reason(tmp_path, monkeypatch, text, reason):
    package(tmp_path, monkeypatch, "causal_conv1d", text)
    probe = env.probe("causal_conv1d")
    assert not probe.available
    assert "installed, but its import failed" in probe.reason
    assert reason in probe.reason
    assert probe.install


@pytest.mark.parametrize(
    ("version", "available", "warns"),
    [("3.5.1", False, 0), ("3.6.0", True, 0), ("3.9.9+git1", True, 0), ("3.10.0", True, 1), ("4.0", True, 1)],
)
def test_triton_is_refused_below_its_range_and_warned_about_above(monkeypatch, caplog, version, available, warns):
    monkeypatch.setattr(env, "_package", lambda *_: env.Probe("triton", True, "imports", version))
    with caplog.at_level(logging.WARNING, logger="handcraft.kernels"):
        probes = [env.probe("triton") for _ in range(2)]
    assert probes[0].available == available
    assert len(caplog.messages) == warns
    assert warns == (f"version {version} is newer than those tested, 3.6 to below 3.10" in probes[0].reason)
    if not available:
        assert probes[0].reason == "version 3.5.1, expected at least 3.6"
        assert probes[0].install == 'pip install "triton>=3.6,<3.10"'


def test_the_interpreter_needs_no_gpu(monkeypatch):
    monkeypatch.setitem(env.PROBES, "triton", lambda: env.Probe("triton", True, "imports", "3.9.0"))
    monkeypatch.setitem(env.PROBES, "cuda", lambda: env.Probe("cuda", False, "no GPU"))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not env.interpreting()
    assert env.backend("triton").reason == "cuda: no GPU"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert env.interpreting()
    assert env.backend("triton").available


def test_a_probe_that_raises_is_a_reason(monkeypatch):
    def broken():
        raise RuntimeError("driver too old\nsecond line")

    monkeypatch.setitem(env.PROBES, "cuda", broken)
    assert env.probe("cuda") == env.Probe("cuda", False, "probing failed: RuntimeError: driver too old")
    assert "driver too old" in env.backend("cuda").reason


def test_no_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "my-c++")
    probe = env.probe("compiler")
    assert not probe.available
    assert "none of my-c++, g++, clang++ is on PATH" in probe.reason


def test_probes_are_cached(monkeypatch):
    calls = []
    monkeypatch.setitem(env.PROBES, "torch", lambda: calls.append(1) or env.Probe("torch", True, "x"))
    env.probe("torch")
    env.probe("torch")
    assert len(calls) == 1


def test_unknown_names():
    with pytest.raises(ValueError, match="probe: name is 'jax', expected one of torch"):
        env.probe("jax")
    with pytest.raises(ValueError, match="backend: name is 'auto', expected reference"):
        env.backend("auto")
