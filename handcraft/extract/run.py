"""The run over all clips: results kept one by one in a folder beside the store, which is written when all are there.

    OUT.extracting/settings.json     how the landmarks are detected; another way is refused
    OUT.extracting/clips/*.npz       what is done, a file a clip
    OUT                              the store, once everything has been tried; the folder above is then deleted

The same call made again goes on where it was stopped, and tries again what failed. Where OUT is a store already, clips
that it lacks are added to it.
"""

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

import handcraft
from handcraft.data.manifest import MANIFEST, MAX_TEXT, is_text
from handcraft.data.merge import parse_shard
from handcraft.data.recorded import detectors
from handcraft.data.store import Store
from handcraft.data.writer import clear_leftovers, locked
from handcraft.errors import ConfigError, DataError
from handcraft.extract.kept import Task, load_facts, origin, task
from handcraft.extract.landmarker import Detector, Settings, detector_of
from handcraft.extract.pool import run_tasks
from handcraft.extract.summary import Summary
from handcraft.extract.video import look
from handcraft.extract.worker import ClipSource
from handcraft.extract.write import MERGED, NEW, OLD, Written, exchange, finish_exchange, write
from handcraft.files import TEMPORARY, read_json, write_json
from handcraft.words import counted

WORK = ".extracting"  # the ending of the folder beside OUT
SETTINGS = "settings.json"
CLIPS = "clips"
On = Literal["processes", "ray"]
"""Who works on the clips: processes of this machine, or a Ray cluster."""


def extract(
    clips: Sequence[ClipSource],
    out: Path | str,
    settings: Settings | None = None,
    *,
    workers: int = 1,
    on: On = "processes",
    shard: str | None = None,
    allow_mixed: bool = False,
    licence: str | None = None,
    source: Mapping[str, Any] | None = None,
    unreadable: Sequence[str] = (),
    detector: Detector | None = None,
    progress: bool | None = None,
) -> Summary:
    """Extract the landmarks of `clips` into the raw store `out`, or add those that the store lacks.

    workers: processes; the store's bytes do not depend on how many. on: "processes" of this machine, or "ray" for the
    cores of a cluster (see `ray.run_tasks`). shard: "2/8" works on the second of eight equal runs of the list;
    `merge_stores` joins the eight stores. allow_mixed: add to a store made by another detector. source: more to say in
    the manifest about where the clips come from. unreadable: lines on what could not be looked through for clips (see
    `find_clips`), which count as failures. detector: another one than the settings name. progress: show a bar, by
    default on a terminal.

    A clip that cannot be read, or shows nobody, is in the summary and not in the store. `ConfigError`: the detector
    cannot run, senseless choices. `DataError`: `out` is something else, or a store that this does not fit into; another
    process works on it; an unfinished run was begun with other settings; ids, labels, signers or splits that no store
    can hold.
    """
    out, settings = Path(out), settings or Settings()
    if workers < 1:
        raise ConfigError(f"workers is {workers}; expected at least 1")
    if out.name in ("", ".."):
        raise ConfigError(f"{out}: has no name of its own; give the folder of the store one, such as signs")
    detector = detector or detector_of(settings)
    identity = dict(detector.describe(settings))
    _require_storable(clips)
    number, count = (1, 1) if shard is None else parse_shard(shard, "shard")
    if count > max(1, len(clips)):
        raise ConfigError(f"shard is {shard}, of {counted(len(clips), 'clip')}; expected no more parts than clips")
    mine = clips[(number - 1) * len(clips) // count : number * len(clips) // count]
    work = out.with_name(out.name + WORK)
    with _taken(work):
        finish_exchange(out, work)
        store = _existing(out, settings, identity, allow_mixed)
        if store is not None and shard is not None:
            raise DataError(f"{out}: is a store already, to which a part ({shard}) is not added; choose a new path")
        _go_on(
            work, {"extraction": identity} | {name: getattr(settings, name) for name in ("keep", "fps", "image_fps")}
        )
        new = mine if store is None else _lacking(mine, store)
        tasks, failed = _tasks(new, work / CLIPS)
        speed, broken = _work(tasks, settings, workers, on, work, detector, progress)
        done, nobody = _shown(tasks)
        made = {
            "layout": settings.keep,
            "licence": licence,
            "source": {
                "command": "extract",
                **(source or {}),
                "extraction": identity,
                "versions": {"handcraft": handcraft.__version__, **_version_of("av")},
            },
        }
        if shard is not None:
            made["source"]["shard"] = shard
        labels = {task.source.label for task in done} if shard is None else {clip.label for clip in clips}
        written = Written()
        if done:
            aspect, fps = _common(clips, settings, store)
            place = out if store is None else work / NEW
            written = write(done, place, labels, aspect=aspect, fps=fps, **made)
            if store is not None:
                exchange(out, work)
        shutil.rmtree(work)
    return Summary(
        path=str(out),
        layout=settings.keep,
        identity=identity,
        clips=len(done),
        classes=len({task.source.label for task in done}),
        frames=written.frames,
        counts=written.counts,
        known=len(mine) - len(new),
        failed=(*unreadable, *failed, *broken, *nobody),
        notes=written.notes,
        speed=speed,
        workers=workers,
    )


def _require_storable(clips: Sequence[ClipSource]) -> None:
    """`DataError` names the first clip whose texts the store would refuse, after all has been detected."""
    seen: set[str] = set()
    for clip in clips:
        for name, text in (("id", clip.id), ("label", clip.label), ("signer", clip.signer), ("split", clip.split)):
            if not is_text(text) or (not text and name in ("id", "label")):
                raise DataError(
                    f"{clip.path}: its {name} is {text[:80]!a}, expected printable text of at most {MAX_TEXT} "
                    "characters; rename it, or list the clips in a table"
                )
        if clip.id in seen:
            raise DataError(f"{clip.path}: its id {clip.id!r} is that of another clip, too; ids must differ")
        seen.add(clip.id)


def _version_of(package: str) -> dict[str, str]:
    """Its version, if it is installed: folders of images need no PyAV."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        return {package: metadata.version(package)}
    return {}


@contextlib.contextmanager
def _taken(work: Path) -> Iterator[None]:
    """The folder of an unfinished run, for this process alone; nothing of it stays where it holds nothing yet."""
    work.mkdir(parents=True, exist_ok=True)
    with locked(work):
        try:
            yield
        finally:
            if not any(any((work / name).glob("*")) for name in (CLIPS, MERGED, OLD)):
                shutil.rmtree(work, ignore_errors=True)


def _go_on(work: Path, choices: Mapping[str, Any]) -> None:
    """Note the choices of a run that begins; `DataError` if one was begun with others. Clear what it left half done."""
    settings = work / SETTINGS
    choices = json.loads(json.dumps(choices))
    if not settings.exists():
        write_json(settings, choices)
    begun = read_json(settings)
    if begun != choices:
        other = next(name for name in choices if not isinstance(begun, dict) or begun.get(name) != choices[name])
        raise DataError(
            f"{work}: a run was begun here with another {other} ({json.dumps(begun)[:300]}); go on with those choices, "
            "or delete this folder"
        )
    for leftover in (*work.glob("*.log"), *(work / CLIPS).glob(f"{TEMPORARY}*")):
        leftover.unlink()


def _existing(out: Path, settings: Settings, identity: Mapping[str, Any], allow_mixed: bool) -> Store | None:
    """The store that is to be added to, if there is one and the landmarks fit into it."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file, expected a folder for the store")
    if not (out / MANIFEST).exists():
        if out.exists():
            clear_leftovers(out)
        return None
    store = Store(out)
    manifest = store.manifest
    for name, found, wanted in (
        ("stage", manifest.stage, "raw"),
        ("layout", manifest.layout, settings.keep),
        ("coordinates", manifest.coordinates, "xyz"),
    ):
        if found != wanted:
            raise DataError(f"{out}: is a store whose {name} is {found}, expected {wanted}; choose a new path")
    others = [found for found in detectors(manifest.source) if found != identity]
    if others and not allow_mixed:
        raise DataError(
            f"{out}: was made by another detector: {json.dumps(others[0])}, here is {json.dumps(identity)}. Landmarks "
            "of two detectors differ where signs do not: choose a new path, or allow it (--allow-mixed)"
        )
    return store


def _lacking(clips: Sequence[ClipSource], store: Store) -> list[ClipSource]:
    """The clips that a store does not have; `DataError` if it has one of that id that was made of something else."""
    places = {id: place for place, id in enumerate(store.ids.tolist())}
    found = []
    for clip in clips:
        if clip.id not in places:
            found.append(clip)
            continue
        about = store.provenance_of(places[clip.id])
        if {name: about.get(name) for name in origin(clip)} != origin(clip):
            raise DataError(
                f"{store.path}: has a clip {clip.id!r} made of {about.get('file') or 'something else'}, not of "
                f"{clip.path} as it is now; give the clip another id, or the store another path"
            )
    return found


def _tasks(clips: Sequence[ClipSource], folder: Path) -> tuple[list[Task], list[str]]:
    """What there is to do, and a line for each clip whose file is not there. A result belongs to a file as it is."""
    tasks, failed = [], []
    for clip in clips:
        try:
            tasks.append(task(clip, folder))
        except (OSError, DataError) as error:
            failed.append(str(error) if isinstance(error, DataError) else f"{clip.path}: {error.strerror or error}")
    return tasks, failed


def _work(
    tasks: Sequence[Task],
    settings: Settings,
    workers: int,
    on: On,
    work: Path,
    detector: Detector | None,
    progress: bool | None,
) -> tuple[float | None, list[str]]:
    """Do the tasks that are not done: frames a second, and a line for each that failed."""
    left = [task for task in tasks if not task.file.exists()]
    if not left:
        return None, []
    show = sys.stderr.isatty() if progress is None else progress
    (work / CLIPS).mkdir(exist_ok=True)
    frames, failed, began = 0, [], time.monotonic()
    if on == "ray":
        from handcraft.extract.ray import run_tasks as run_on_ray

        events = run_on_ray(left, settings, workers, detector)
    else:
        events = run_tasks(left, settings, min(workers, len(left)), work, detector)
    with contextlib.closing(events), tqdm(total=len(left), desc="extract", unit="clip", disable=not show) as bar:
        for event in events:
            frames += event.frames
            bar.set_postfix_str(f"{frames / (time.monotonic() - began):.1f} frames/s")
            if event.kind != "frames":
                bar.update()
            if event.kind == "failed":
                failed.append((event.task, event.reason))
                bar.write(f"failed: {event.reason}", file=sys.stderr)
    return frames / (time.monotonic() - began) if frames else None, [line for _, line in sorted(failed)]


def _shown(tasks: Sequence[Task]) -> tuple[list[Task], list[str]]:
    """The tasks that are done and show somebody, and a line for each that shows nobody."""
    shown, lines = [], []
    for done in tasks:
        if not done.file.exists():
            continue
        if any(load_facts(done).counts.values()):
            shown.append(done)
        else:
            lines.append(f"{done.source.path}: nobody was found in any of its frames; is a person in view?")
    return shown, lines


def _common(clips: Sequence[ClipSource], settings: Settings, store: Store | None) -> tuple[float | None, float | None]:
    """What the manifest says of all clips: the aspect and the frame rate of the first one that can be read, whichever
    part of the list is worked on; or of the store that they are added to."""
    if store is not None:
        return store.manifest.aspect, store.manifest.fps
    for clip in clips:
        try:
            width, height, fps = look(clip.path, settings.image_fps)
        except (DataError, OSError):
            continue
        return width / height, settings.fps or fps
    return None, settings.fps
