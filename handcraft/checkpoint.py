"""Checkpoints: a folder `step-XXXXXXXX` of `model.safetensors`, `config.json` and, to continue training,
`resume.safetensors`.

`config.json` holds everything that rebuilds the model and prepares its input: a prediction needs the checkpoint and
raw clips, and never the store the model was trained on. A training run's folder holds its best and its last
checkpoint and `best.json`, which points to the best; until it is finished also the last but one and what was the best
then, so that it can go on without the last. A checkpoint may come from anywhere: nothing that is read here
can run code, every file has a checksum, and no size is believed before it has been compared with the weights.
"""

import math
import os
import re
import shutil
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

import handcraft
from handcraft.config import AugmentConfig, PreprocessConfig, TrainConfig, WindowConfig, completed
from handcraft.data.manifest import is_digest, is_text
from handcraft.data.preprocess import signature
from handcraft.data.recorded import Recorded
from handcraft.data.statistics import Statistics
from handcraft.data.untrusted import require_file
from handcraft.errors import CheckpointError, ConfigError, DataError, HandcraftError
from handcraft.files import atomic_path, read_json, sha256_file, verified, with_checksum, write_json
from handcraft.layouts import LAYOUTS
from handcraft.models import MODELS, ModelConfig, build, kind_of
from handcraft.recipe import check_input
from handcraft.state_file import load_state, save_state

FORMAT_VERSION = 2
WEIGHTS, CONFIG, RESUME, BEST = "model.safetensors", "config.json", "resume.safetensors", "best.json"
_STEP = re.compile(r"step-(\d{8})")


@dataclass(frozen=True)
class Checkpoint:
    """A model and all that using it takes. `path`, `step`, `metrics` and `sha256` are filled in by `save`/`load`."""

    model: nn.Module
    config: ModelConfig
    reverse: bool
    """True for the generator of the reversed twin; False for everything else."""
    classes: tuple[str, ...]
    layout: str
    preprocess: PreprocessConfig | None
    """None where the training clips came centred from elsewhere; such a model takes centred clips only."""
    window: WindowConfig
    statistics: Statistics
    train: TrainConfig
    augment: AugmentConfig
    seed: int
    split_hashes: dict[str, str]
    """Name of a split ("train", "valid") -> hash of the clips in it."""
    seen_clips: tuple[str, ...]
    """Sorted 16-hex-digit digests of every clip that shaped the weights, directly or through pretraining."""
    initial: str = ""
    """SHA-256 of the weights that training started from; empty for a fresh model."""
    generators: tuple[str, ...] = ()
    """SHA-256 of the forward and the reversed generator's weights behind the synthetic clips of the pretraining."""
    recorded: Recorded | None = None
    """How the training clips were recorded; None where nothing is known of it."""
    step: int = 0
    metrics: dict[str, float] | None = None
    """Validation metrics at this step; None without validation clips."""
    sha256: str = ""
    """SHA-256 of `model.safetensors`: the identity of the weights."""
    path: Path | None = None

    @property
    def kind(self) -> str:
        """ "cmlpe", "sequential", "transformer_sl" or "mamba_sl"."""
        return kind_of(self.config)

    @property
    def signature(self) -> str | None:
        """Signature of the preprocessing that this model's clips must have had."""
        return None if self.preprocess is None else signature(self.preprocess)


_CONFIGS = {"preprocess": PreprocessConfig, "window": WindowConfig, "train": TrainConfig, "augment": AugmentConfig}
_PLAIN = {"reverse": bool, "classes": list, "layout": str, "seed": int, "split_hashes": dict, "seen_clips": list}
_PLAIN |= {"initial": str, "generators": list, "step": int}


def step_folder(run: Path | str, step: int) -> Path:
    """Where the checkpoint of `step` lies in a run's folder."""
    return Path(run) / f"step-{step:08d}"


def list_steps(run: Path | str) -> list[int]:
    """Steps of the complete checkpoints in a run's folder, ascending; interrupted writes have other names, and links to
    folders elsewhere do not count."""
    run = Path(run)
    if not run.is_dir():
        return []
    found = (_STEP.fullmatch(entry.name) for entry in run.iterdir() if _is_folder(entry))
    return sorted(int(match.group(1)) for match in found if match)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def save(run: Path | str, checkpoint: Checkpoint, resume: dict | None = None) -> Path:
    """Write `checkpoint` to its step's folder in `run`, whole or not at all, and return that folder.

    `resume` (tensors and plain values, see `state_file`) goes to `resume.safetensors`. An existing folder of that step
    raises `CheckpointError`.
    """
    folder = step_folder(run, checkpoint.step)
    if folder.exists():
        raise CheckpointError(f"{folder}: exists already; a checkpoint is never overwritten")
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        state = {name: tensor.detach().contiguous() for name, tensor in checkpoint.model.state_dict().items()}
        safetensors.torch.save_file(state, temporary / WEIGHTS)
        sums = {WEIGHTS: sha256_file(temporary / WEIGHTS)}
        if resume is not None:
            save_state(temporary / RESUME, resume)
            sums[RESUME] = sha256_file(temporary / RESUME)
        written = {
            "format_version": FORMAT_VERSION,
            "kind": checkpoint.kind,
            "model": asdict(checkpoint.config),
            **{name: getattr(checkpoint, name) for name in _PLAIN},
            **{
                name: None if getattr(checkpoint, name) is None else asdict(getattr(checkpoint, name))
                for name in _CONFIGS
            },
            "signature": checkpoint.signature,
            "statistics": checkpoint.statistics.to_dict(),
            "recorded": None if checkpoint.recorded is None else checkpoint.recorded.to_dict(),
            "metrics": checkpoint.metrics,
            "sha256": sums,
            "versions": {"handcraft": handcraft.__version__, "torch": torch.__version__},
        }
        write_json(temporary / CONFIG, with_checksum(written))
        for name in sums:  # on disk before the folder gets its name
            with open(temporary / name, "rb") as file:
                os.fsync(file.fileno())
    return folder


def write_best(run: Path | str, step: int, metrics: dict[str, float] | None) -> None:
    """Point `best.json` at the checkpoint of `step`."""
    write_json(Path(run) / BEST, {"checkpoint": step_folder(run, step).name, "step": step, "metrics": metrics})


def prune(run: Path | str, keep: set[int]) -> None:
    """Remove all checkpoints of a run but those of the steps in `keep`."""
    for step in list_steps(run):
        if step not in keep:
            shutil.rmtree(step_folder(run, step))


def find(path: Path | str, which: Literal["best", "last"] = "best") -> Path:
    """The checkpoint folder that `path` means: itself, or a run's best or last. `CheckpointError` if there is none."""
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such folder; give a training run's folder or one of its checkpoints")
    if not path.is_dir():
        raise CheckpointError(f"{path}: is a file; a checkpoint is a folder with {CONFIG} and {WEIGHTS}")
    if (path / CONFIG).exists():
        return path
    steps = list_steps(path)
    if not steps:
        raise CheckpointError(
            f"{path}: neither a checkpoint ({CONFIG} and {WEIGHTS}) nor a run with step-* folders; pickled "
            "checkpoints (.pt, .pth, .ckpt) are not read, since opening one can run code"
        )
    if which == "last" or (len(steps) == 1 and not (path / BEST).exists()):
        return step_folder(path, steps[-1])
    if not (path / BEST).exists():
        raise CheckpointError(
            f"{path}: no {BEST} says which of its checkpoints is the best; give the one you want, of the steps {steps}"
        )
    pointer = _read(path / BEST)
    name = pointer.get("checkpoint") if isinstance(pointer, dict) else None
    if not isinstance(name, str) or not _STEP.fullmatch(name):
        raise CheckpointError(f"{path / BEST}: names no checkpoint (found {name!r:.80}, expected step-00000000)")
    if pointer.get("step") != int(_STEP.fullmatch(name).group(1)):
        raise CheckpointError(
            f"{path / BEST}: names {name}, but the step {pointer.get('step')!r:.80}; restore the file"
        )
    if not _is_folder(path / name):
        raise CheckpointError(f"{path / BEST}: points to {name}, which is not there; found steps {steps}")
    return path / name


def load(path: Path | str, which: Literal["best", "last"] = "best") -> Checkpoint:
    """Read a checkpoint and rebuild its model, in evaluation mode, on the CPU.

    `path` is a checkpoint's folder or a run's, of which the best is taken unless `which` says "last". A damaged,
    foreign or pickled file raises `CheckpointError` with its name. Torch's random state is left as it was.
    """
    folder = find(path, which)
    file = folder / CONFIG
    value = _read(file)
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: holds {type(value).__name__}, expected an object")
    found = value.get("format_version")
    if type(found) is not int or not 1 <= found <= FORMAT_VERSION:
        raise CheckpointError(f"{file}: format version {found!r:.20}; this handcraft reads 1 to {FORMAT_VERSION}")
    if found == 1:
        value = {"generators": [], **value}
    if not isinstance(value.get("kind"), str) or value["kind"] not in MODELS:
        raise CheckpointError(f"{file}: kind {value.get('kind')!r}; known: {', '.join(MODELS)}")
    plain = _plain_fields(value, file)
    configs = {
        name: None if name == "preprocess" and value.get(name) is None else _dataclass(kind, value.get(name), file)
        for name, kind in _CONFIGS.items()
    }
    config = _dataclass(MODELS[value["kind"]][0], value.get("model"), file)
    if config.classes != len(plain["classes"]):
        raise CheckpointError(
            f"{file}: lists {len(plain['classes'])} class names, but the model has {config.classes} classes"
        )
    if configs["preprocess"] is not None and value.get("signature") != signature(configs["preprocess"]):
        raise CheckpointError(f"{file}: the preprocessing signature does not belong to the preprocessing listed")
    try:
        check_input(configs["preprocess"], configs["window"], config, str(file))
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    try:
        statistics = Statistics.from_dict(value.get("statistics"))
    except (HandcraftError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{file}: unusable statistics ({error})") from None
    try:
        recorded = None if value.get("recorded") is None else Recorded.from_dict(value["recorded"])
    except DataError as error:
        raise CheckpointError(f"{file}: {error}") from None
    shape = tuple(statistics.mean.shape)
    axes = shape[1] if configs["preprocess"] is None else len(configs["preprocess"].coordinates)
    if math.prod(shape) != config.dim or shape != (LAYOUTS[plain["layout"]].landmarks, axes):
        raise CheckpointError(
            f"{file}: statistics of shape {shape} do not fit the model's dim {config.dim} and layout {plain['layout']}"
        )
    if not statistics.std.isfinite().all():
        raise CheckpointError(f"{file}: unusable statistics (a deviation is too large for float32)")
    if configs["preprocess"] is not None and configs["preprocess"].layout != plain["layout"]:
        found = configs["preprocess"].layout
        raise CheckpointError(f"{file}: layout is {plain['layout']}, but the preprocessing gives {found}")
    if value.get("metrics") is not None:
        metrics = _typed(value, "metrics", dict, file)
        if not all(isinstance(entry, int | float) for entry in metrics.values()):
            raise CheckpointError(f"{file}: metrics are {metrics!a:.80}, expected numbers")
    sums = _typed(value, "sha256", dict, file)
    return Checkpoint(
        model=_load_model(config, folder / WEIGHTS, sums.get(WEIGHTS)),
        config=config,
        statistics=statistics,
        metrics=value.get("metrics"),
        recorded=recorded,
        sha256=sums[WEIGHTS],
        path=folder,
        **plain,
        **configs,
    )


def verify(folder: Path | str) -> None:
    """`CheckpointError` unless the files of a checkpoint, with its resume state, are all there as they were written."""
    folder = Path(folder)
    value = _read(folder / CONFIG)
    sums = value.get("sha256") if isinstance(value, dict) else None
    for name in (WEIGHTS, RESUME):
        _verify(folder / name, sums.get(name) if isinstance(sums, dict) else None)


def load_resume(folder: Path | str) -> dict:
    """The resume state of a checkpoint's folder, or `CheckpointError` naming what is missing or damaged."""
    folder = Path(folder)
    file = folder / RESUME
    value = _read(folder / CONFIG)
    expected = value.get("sha256", {}).get(RESUME) if isinstance(value, dict) else None
    _verify(file, expected)
    try:
        state = load_state(file)
    except ValueError as error:
        raise CheckpointError(f"{file}: not a resume state ({error}); restore it from a copy") from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{file}: holds a {type(state).__name__}, expected the state of a training run")
    return state


def _load_model(config: ModelConfig, file: Path, expected: str | None) -> nn.Module:
    """The model that `config` describes, with the weights in `file`; memory is taken only once the two agree."""
    _verify(file, expected)
    try:
        tensors = safetensors.torch.load_file(file)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{file}: not a safetensors file ({error}); restore it from a copy") from None
    layers = getattr(config, "layers", 1)
    if layers > len(tensors):
        raise CheckpointError(f"{file}: holds {len(tensors)} tensors, too few for the {layers} layers in {CONFIG}")
    try:
        with torch.device("meta"):  # shapes alone
            model = build(config)
    except (HandcraftError, RuntimeError, ValueError, TypeError, AssertionError, OverflowError) as error:
        raise CheckpointError(f"{file.parent / CONFIG}: no model can be built from it ({error})") from None
    state = model.state_dict()
    for name in sorted(state.keys() | tensors.keys()):
        found = _describe(tensors.get(name))
        wanted = _describe(state.get(name))
        if found != wanted:
            raise CheckpointError(f"{file}: tensor {name!a:.80}: found {found}, the model in {CONFIG} has {wanted}")
    model.to_empty(device="cpu").load_state_dict(tensors)
    return model.eval()


def _describe(tensor: torch.Tensor | None) -> str:
    return "none" if tensor is None else f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _verify(file: Path, expected: Any) -> None:
    """Compare a file with the SHA-256 that `config.json` lists for it."""
    if not isinstance(expected, str):
        raise CheckpointError(f"{file.parent / CONFIG}: lists no SHA-256 for {file.name}")
    try:
        require_file(file)
        found = sha256_file(file)
    except (DataError, OSError) as error:
        raise CheckpointError(f"{error}; the checkpoint is incomplete") from None
    if found != expected:
        raise CheckpointError(
            f"{file}: SHA-256 {found[:12]}..., expected {expected[:12]}...; the file is damaged or was exchanged, "
            "restore the checkpoint from a copy"
        )


def _read(file: Path) -> Any:
    try:
        require_file(file)
        return verified(read_json(file), file)
    except (DataError, OSError) as error:
        raise CheckpointError(str(error)) from None


def _plain_fields(value: dict, file: Path) -> dict[str, Any]:
    """The fields of `_PLAIN`, checked."""
    plain = {name: _typed(value, name, kind, file) for name, kind in _PLAIN.items()}
    classes = plain["classes"]
    rules = {
        "classes": bool(classes)
        and all(is_text(name) and name for name in classes)
        and classes == sorted(set(classes)),
        "seen_clips": all(map(is_digest, plain["seen_clips"])),
        "split_hashes": all(isinstance(found, str) for found in plain["split_hashes"].values()),
        "generators": all(isinstance(found, str) for found in plain["generators"]),
        "layout": plain["layout"] in LAYOUTS,
        "seed": 0 <= plain["seed"] < 1 << 63,
        "step": 0 <= plain["step"] < 1 << 63,
    }
    for name, good in rules.items():
        if not good:
            raise CheckpointError(f"{file}: {name} is {plain[name]!a:.80}, which no training run writes")
    return plain | {name: tuple(plain[name]) for name in ("classes", "seen_clips", "generators")}


def _typed(value: dict, name: str, kind: type, file: Path) -> Any:
    found = value.get(name)
    if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
        raise CheckpointError(f"{file}: {name} is {found!a:.40}, expected a {kind.__name__}")
    return found


def _dataclass(kind: type, value: Any, file: Path) -> Any:
    """Rebuild a frozen config from its JSON object; unknown, missing and wrongly typed fields are errors, but fields
    that came later may be missing."""
    assert is_dataclass(kind)
    value = completed(kind, value)
    names = {field.name for field in fields(kind)}
    if not isinstance(value, dict) or value.keys() != names:
        found = sorted(value) if isinstance(value, dict) else value
        raise CheckpointError(f"{file}: {kind.__name__} has {found!r:.200}, expected the fields {sorted(names)}")
    for name, hint in get_type_hints(kind).items():
        entry = value[name]
        if get_origin(hint) is Literal:
            good = entry in get_args(hint)
        elif hint is float:
            good = isinstance(entry, int | float) and not isinstance(entry, bool)
        else:
            good = type(entry) is hint
        if not good:
            raise CheckpointError(f"{file}: {kind.__name__}.{name} is {entry!a:.80}, which the field cannot hold")
    return kind(**value)
