"""Where a stopped training goes on: one training a folder, the newest checkpoint that is whole, the same settings."""

import contextlib
import logging
import shutil
from pathlib import Path

import torch

from handcraft import checkpoint as checkpoints
from handcraft.config import AugmentConfig, TrainConfig, completed
from handcraft.errors import CheckpointError, TrainingError
from handcraft.locks import held
from handcraft.models import MODELS
from handcraft.words import some

logger = logging.getLogger("handcraft")

LOCK = ".lock"
REMEDY = "restore the folder of this training from a copy, or delete it to train anew"
_STATE = {
    "fingerprint": dict,
    "optimizer": dict,
    "schedule": dict,
    "random": list,
    "weights": dict | None,
    "best_step": int,
    "best_metrics": dict | None,
    "metrics": dict | None,
}
"""What a checkpoint's resume state holds, see `handcraft.engine`."""
_SINCE_2 = {"generators"}
"""Fields of a fingerprint that version 1 lacks; its training clips, which it has, come from those generators."""


def locked(out: Path) -> contextlib.AbstractContextManager[bool]:
    """Hold the folder against a second training or a second run of all stages, `TrainingError` in that one."""
    out.mkdir(parents=True, exist_ok=True)
    (out / LOCK).touch()
    return held(
        out / LOCK, TrainingError(f"{out}: another process works in this folder; wait for it, or choose another one")
    )


def newest_whole(out: Path) -> int | None:
    """Step of the newest checkpoint in `out` whose files are all as they were written; None if there is none at all.

    Newer ones, which a full disk or a crash of the machine has damaged, are removed, and a warning says so.
    `CheckpointError` if every one is damaged.
    """
    damaged = {}
    for step in reversed(checkpoints.list_steps(out)):
        try:
            checkpoints.verify(checkpoints.step_folder(out, step))
        except CheckpointError as error:
            damaged[step] = error
            continue
        for bad, error in damaged.items():
            logger.warning("%s; it is removed, and the training continues from step %d", error, step)
            shutil.rmtree(checkpoints.step_folder(out, bad))
        return step
    if damaged:
        raise CheckpointError(f"{out}: no checkpoint is whole: {some([str(e) for e in damaged.values()], 3)}; {REMEDY}")
    return None


def read(folder: Path) -> dict:
    """The resume state of a checkpoint, complete and in the form of today's version; `CheckpointError` if it is not."""
    state = checkpoints.load_resume(folder)
    if isinstance(state.get("random"), torch.Tensor):  # version 1: one process, no moving average
        state |= {"random": [{"cpu": state["random"], "cuda": None}], "weights": None}
    for name, kinds in _STATE.items():
        if not isinstance(state.get(name), kinds):
            raise CheckpointError(f"{folder}: the state to resume from has no usable {name!r}; {REMEDY}")
    saved = state["fingerprint"]
    if saved.get("kind") in MODELS:
        kinds = {"model": MODELS[saved["kind"]][0], "train": TrainConfig, "augment": AugmentConfig}
        state["fingerprint"] = saved | {name: completed(kind, saved.get(name)) for name, kind in kinds.items()}
    if state["best_step"] not in checkpoints.list_steps(folder.parent):
        raise CheckpointError(f"{folder}: the best checkpoint, step {state['best_step']}, is not there; {REMEDY}")
    return state


def require_same(out: Path, saved: dict, now: dict, prefix: str = "") -> None:
    """Raise `TrainingError` naming the first field in which a resumed run differs from the one it continues."""
    for name in {**now, **saved}:
        if name in _SINCE_2 and name not in saved:
            continue
        then, current = saved.get(name), now.get(name)
        if isinstance(then, dict) and isinstance(current, dict):
            require_same(out, then, current, f"{prefix}{name}.")
        elif then != current:
            raise TrainingError(
                f"{out}: cannot resume: {prefix}{name} was {then!r} when the run was started and is {current!r} now; "
                "resume with the same settings and data, or train in another folder"
            )
