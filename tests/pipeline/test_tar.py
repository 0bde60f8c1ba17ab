"""Tar archives: what Python's tarfile writes comes back; links, ways out, forged sizes and damage are refused."""

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handcraft.data.tar import tar_members
from handcraft.errors import DataError

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
LONG = "d" * 60 + "/" + "e" * 80  # a name that needs ustar's second field


def archive(members: dict[str, bytes], format: int = tarfile.PAX_FORMAT, mode: str = "w", **change) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, format=format) as out:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in change.items():
                setattr(info, key, value)
            out.addfile(info, io.BytesIO(content))
    return file.getvalue()


def read(tmp_path, content: bytes) -> list[tuple[str, bytes]]:
    path = tmp_path / "shard.tar"
    path.write_bytes(content)
    return list(tar_members(path))


@pytest.mark.parametrize("format", FORMATS)
def test_members_come_back_in_order(tmp_path, format):
    wanted = {"b.npy": b"x" * 513, "a.txt": b"", "d/c": b"1" * 512, LONG: b"y"}
    if format != "ustar":
        wanted |= {"é" * 90 + ".txt": b"z", "n" * 300: b"w"}
    assert read(tmp_path, archive(wanted, FORMATS[format])) == list(wanted.items())


def test_times_with_fractions_as_webdataset_writes_them(tmp_path):
    assert read(tmp_path, archive({"a": b"1", "b": b"2"}, mtime=1700000000.25)) == [("a", b"1"), ("b", b"2")]


def test_a_size_may_stand_in_a_pax_header_or_in_binary(tmp_path):
    assert read(tmp_path, archive({"a": b"12345"}, pax_headers={"size": "5"})) == [("a", b"12345")]
    content = bytearray(archive({"a": b"12345"}))
    content[124:136] = (5 | 0x80 << 88).to_bytes(12, "big")
    assert read(tmp_path, with_sum(content)) == [("a", b"12345")]


def test_folders_are_passed_over_and_a_leading_dot_is_dropped(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_bytes(b"1")
    with tarfile.open(tmp_path / "shard.tar", "w") as out:
        out.add(tmp_path / "d", "./d")
    assert list(tar_members(tmp_path / "shard.tar")) == [("d/f", b"1")]


@given(st.dictionaries(st.text("aéx/._", min_size=1, max_size=150), st.binary(max_size=1200), max_size=4))
def test_any_archive_is_read_back_or_refused_for_a_name(tmp_path_factory, members):
    try:
        found = read(tmp_path_factory.getbasetemp(), archive(members))
    except DataError as error:
        assert "no path inside" in str(error)  # noqa: PT017 the error is allowed, not required
        return
    assert [content for _, content in found] == list(members.values())


def with_sum(content: bytearray) -> bytes:
    """The first header with a checksum to match."""
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    return bytes(content)


def forged(field: slice, value: bytes) -> bytes:
    content = bytearray(archive({"a": b"12345"}))
    content[field] = value
    return with_sum(content)


SIZE, KIND = slice(124, 136), slice(156, 157)
REFUSED = {
    "nothing": (b"", "cut short"),
    "no archive": (b"hello" * 1000, "in place of a number|checksum"),
    "cut in a header": (archive({"a": b"1"})[:300], "cut short"),
    "cut in a member": (archive({"a": b"1" * 600})[:700], "more than the rest"),
    "no end mark": (archive({"a": b"1"})[:1024], "cut short"),
    "gzip": (archive({"a": b"1" * 5000}, mode="w:gz"), "decompress it first"),
    "damaged header": (b"b" + archive({"a": b"1"})[1:], "checksum"),
    "way up": (archive({"../a": b"1"}), "no path inside"),
    "hidden way up": (archive({"d/../../a": b"1"}), "no path inside"),
    "root": (archive({"/etc/passwd": b"1"}), "no path inside"),
    "way up in a pax name": (archive({"../" + "é" * 100: b"1"}), "no path inside"),
    "way up in a GNU name": (archive({"../" + "e" * 200: b"1"}, tarfile.GNU_FORMAT), "no path inside"),
    "link": (archive({"a": b""}, type=tarfile.SYMTYPE, linkname="/etc/passwd"), "no plain file"),
    "hard link": (archive({"a": b""}, type=tarfile.LNKTYPE, linkname="b"), "no plain file"),
    "device": (archive({"a": b""}, type=tarfile.CHRTYPE), "no plain file"),
    "pipe": (archive({"a": b""}, type=tarfile.FIFOTYPE), "no plain file"),
    "sparse": (archive({"a": b"1"}, pax_headers={"GNU.sparse.major": "1"}), "sparse"),
    "size of 8 GB": (forged(SIZE, b"77777777777\0"), "more than the rest"),
    "negative size": (forged(SIZE, b"\xff" * 12), "more than the rest"),
    "endless size": (forged(SIZE, b"\x80" + b"\xff" * 11), "more than the rest"),
    "no number": (forged(SIZE, b"9999\0\0\0\0\0\0\0\0"), "in place of a number"),
    "folder with content": (forged(KIND, b"5"), "no plain file"),
    "pax size of 8 TB": (archive({"a": b"1"}, pax_headers={"size": "8796093022208"}), "more than the rest"),
    "pax size below 0": (archive({"a": b"1"}, pax_headers={"size": "-512"}), "pax header"),
    "long pax header": (archive({"a": b"1"}, pax_headers={"x": "y" * 70_000}), "at most 65536"),
    "name that is no text": (forged(slice(0, 2), b"\xff\xfe"), "utf-8"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_plain_archive_is_refused(tmp_path, case):
    content, message = REFUSED[case]
    with pytest.raises(DataError, match=f"shard.tar: .*({message})"):
        read(tmp_path, content)


def test_a_large_member_is_refused_unread(tmp_path):
    (tmp_path / "shard.tar").write_bytes(archive({"a": b"12345"}))
    with pytest.raises(DataError, match="has 5 bytes, expected at most 4"):
        list(tar_members(tmp_path / "shard.tar", largest=4))
