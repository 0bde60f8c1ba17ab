"""Writing a store that takes long, or that many machines write together: parts that are whole stay, whatever stops the
rest, and the same call made again makes those that are missing.

    STORE/part-00003/                  a part, as in every store
    STORE/unfinished/settings.json     what the store will be; whoever goes on with it must want the same
    STORE/unfinished/part-00003.json   the part is whole: its line of the manifest, and notes of whoever made it

There is no manifest before all parts are whole, so nothing takes it for a store; then `unfinished` goes.
"""

import contextlib
import dataclasses
import json
import logging
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from handcraft.data.manifest import CLIPS, MANIFEST, MAX_TEXT, PartEntry, part_entry
from handcraft.data.parquet import read_table
from handcraft.data.part import SCHEMA, part_name
from handcraft.data.writer import StoreWriter, clear_leftovers, locked, refuse_store
from handcraft.errors import DataError
from handcraft.files import TEMPORARY, read_json, sha256_file, verified, with_checksum, write_json
from handcraft.words import counted

logger = logging.getLogger(__name__)

UNFINISHED = "unfinished"
SETTINGS = "settings.json"


class ResumableWriter(StoreWriter):
    """A `StoreWriter` of a fixed number of parts, which are made in any order and outlast an interruption.

        with ResumableWriter(path, parts=8, ...) as writer:
            for number in writer.missing:
                with writer.part(number) as notes:
                    writer.add_batch(...)

    only: make this part alone and write no manifest; several processes may do so in one folder at once. A call without
    it makes what is missing and ends the store; parts made elsewhere, copied there with the files in `unfinished`,
    count. conclude: gives, from the notes of all parts in order, more fields of the manifest's `source`. options: those
    of `StoreWriter` but `part_clips`.

    `DataError`: the folder holds a store, or an unfinished one of other settings, or something else.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        parts: int,
        only: int | None = None,
        conclude: Callable[[Sequence[dict[str, Any]]], dict[str, Any]] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(path, part_clips=sys.maxsize, **options)
        self._wanted = range(parts) if only is None else (only,)
        self._only, self._conclude = only, conclude
        self._unfinished = self.path / UNFINISHED
        settings = {"parts_wanted": parts, "dtype": self._dtype.name, **self._manifest.to_dict()}
        self._settings = json.loads(json.dumps(settings))
        self._mark = with_checksum(self._settings)["checksum"]  # of the settings, in every part's note
        self._notes: dict[int, dict[str, Any]] = {}
        self._whole = False

    @property
    def missing(self) -> list[int]:
        """The parts that are still to be made."""
        return [] if self._whole else [number for number in self._wanted if number not in self._parts]

    @contextlib.contextmanager
    def part(self, number: int, rows: int = 0) -> Iterator[dict[str, Any]]:
        """Part `number` takes all clips added in the block, and is whole when it ends well. rows: the frames it will
        probably have, which saves reading it again. Gives a dict for notes on the part, plain values for JSON."""
        self._notes[number] = {}
        self._open_part(number, rows)
        yield self._notes[number]
        if not self._part.clips:
            raise DataError(f"{self.path}: no clip was added to part {number}")
        self._close_part()

    def _announce(self, entry: PartEntry) -> None:
        """A note without its part does no harm; a part without its note would look like a stranger's."""
        value = dataclasses.asdict(entry) | {"notes": self._notes[self._number], "settings": self._mark}
        write_json(self._unfinished / f"{entry.name}.json", with_checksum(value))

    def _prepare(self, stack: contextlib.ExitStack) -> None:
        stack.enter_context(locked(self.path, shared=self._only is not None))
        settings = self._unfinished / SETTINGS
        if settings.exists():
            self._require_same(verified(read_json(settings), settings))
            self._whole = (self.path / MANIFEST).exists()
            if self._whole:  # it was stopped between its last two acts
                shutil.rmtree(self._unfinished)
                return
        else:
            refuse_store(self.path)
            if self._only is None:
                if next(self._unfinished.glob("part-*.json"), None) is not None:
                    raise DataError(f"{self._unfinished}: lists parts, but has no {SETTINGS}; copy that here too")
                if self._unfinished.is_dir():  # killed before its first file was there; else it is not ours to clear
                    clear_leftovers(self._unfinished)
                    self._unfinished.rmdir()
                clear_leftovers(self.path)
            write_json(settings, with_checksum(self._settings))
        if self._only is not None:
            lock = self._unfinished / f"{part_name(self._only)}.lock"
            lock.touch()
            stack.enter_context(locked(lock))
        for number in self._wanted:
            self._restore(number)
        self._clear()

    def _require_same(self, found: dict[str, Any]) -> None:
        if not isinstance(found, dict) or not isinstance(found.get("source"), dict):
            raise DataError(f"{self._unfinished / SETTINGS}: says nothing about a store; delete the folder")
        ours, theirs = _flat(self._settings), _flat(found)
        other = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
        if other:
            name = other[0]
            raise DataError(
                f"{self.path}: holds an unfinished store of other settings: {name} was {_short(theirs.get(name))}, now "
                f"it is {_short(ours.get(name))}; go on with those, or delete the folder, or choose another path"
            )

    def _restore(self, number: int) -> None:
        """Take part `number` as it lies there if it is whole, else clear its place."""
        folder = self.path / part_name(number)
        file = self._unfinished / f"{folder.name}.json"
        if folder.exists() and not file.exists():
            raise DataError(f"{folder}: has no {UNFINISHED}/{file.name}; copy that here too, or delete the part")
        try:
            found = verified(read_json(file), file)
            entry = part_entry(found, number)
            same = all(sha256_file(folder / name) == digest for name, digest in entry.sha256.items())
            if entry.name != folder.name or not same:
                raise DataError(f"{folder}: its SHA-256 is not that of {UNFINISHED}/{file.name}")
            longest = {"id": 4 * MAX_TEXT, "split": 4 * MAX_TEXT}
            table = read_table(folder / CLIPS, SCHEMA, ["id", "split", "digest"], entry.clips, longest)
            self._notes[number] = dict(found["notes"])
        except (DataError, OSError, ValueError, KeyError, TypeError) as error:
            if folder.exists():
                logger.warning("%s is damaged and will be made again: %s", folder, error)
                shutil.rmtree(folder)
            file.unlink(missing_ok=True)
            return
        if found.get("settings") != self._mark:
            raise DataError(
                f"{folder}: was made with other settings than {self._unfinished / SETTINGS}; delete that part"
            )
        self._count(table)
        self._parts[number] = entry

    def _clear(self) -> None:
        """Remove what a killed call left half written, but nothing of a part that another one is writing."""
        ends = "" if self._only is None else part_name(self._only)
        for left in self.path.glob(f"{TEMPORARY}*{ends}"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()

    def _count(self, table: pa.Table) -> None:
        if self._only is None:
            super()._count(table)

    def _finish(self) -> None:
        if self._whole or self._only is not None:
            return
        if self.missing:
            raise DataError(f"{self.path}: parts {self.missing[:5]} were not made, so the store cannot be finished")
        if self._conclude is not None:
            more = self._conclude([self._notes[number] for number in self._wanted])
            self._manifest = dataclasses.replace(self._manifest, source={**self._manifest.source, **more})
        super()._finish()
        shutil.rmtree(self._unfinished)

    def _discard(self) -> None:
        """Keep the parts that are whole; with none of them, leave nothing."""
        if self._part is not None:
            self._part.discard()
        if self._only is None and not self._parts and not self._whole:
            shutil.rmtree(self._unfinished, ignore_errors=True)
            super()._discard()

    def _advice(self) -> str:
        if not self._parts:
            return super()._advice()
        kept = f"{counted(len(self._parts), 'whole part')} {'is' if len(self._parts) == 1 else 'are'} kept"
        return f"{kept}: free space there, and the same command goes on"


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """The fields of the source beside the other ones, so that an error can name what differs."""
    return settings["source"] | {name: value for name, value in settings.items() if name != "source"}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
