"""Free memory: of this machine within bounds, of made-up machines exactly."""

import os

import pytest

from handcraft import memory
from handcraft.memory import free_memory


@pytest.fixture
def system(monkeypatch, tmp_path):
    """A made-up machine with 8 GB available: write files below it to limit a control group."""
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_OWN_GROUP", tmp_path / "own")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")
    (tmp_path / "meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable:    8000000 kB\n")

    def write(folder, **files):
        (tmp_path / "groups" / folder).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (tmp_path / "groups" / folder / name.replace("__", ".")).write_text(text)

    return tmp_path, write


def test_this_machine_has_some_and_not_more_than_all():
    assert 0 < free_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_what_is_available_is_free_where_nothing_limits_it(system):
    root, write = system
    assert free_memory() == 8000000 << 10
    (root / "own").write_text("0::/job\n")
    write("job", memory__max="max\n", memory__current="5000\n")
    assert free_memory() == 8000000 << 10
    (root / "meminfo").unlink()
    assert free_memory() == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def test_the_narrowest_group_decides_and_its_idle_cache_is_free(system):
    root, write = system
    (root / "own").write_text("3:cpuset:/job\n0::/job/step\n")
    write("job", memory__max="5000000\n", memory__current="1000000\n")
    write("job/step", memory__max="max\n", memory__current="900000\n")
    assert free_memory() == 4000000
    write("job", memory__stat="anon 3\ninactive_file 300000\nactive_file 7\n")
    assert free_memory() == 4300000
    write("job/step", memory__max="800000\n")
    assert free_memory() == 0


def test_the_older_interface(system):
    root, write = system
    (root / "own").write_text("4:memory:/job\n")
    write("memory/job", memory__limit_in_bytes="600000\n", memory__usage_in_bytes="200000\n")
    assert free_memory() == 400000
    write("memory/job", memory__stat="total_inactive_file 50000\n")
    assert free_memory() == 450000
    write("memory", memory__limit_in_bytes="300000\n", memory__usage_in_bytes="200000\n")
    assert free_memory() == 100000
