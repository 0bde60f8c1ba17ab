"""Generators and classifiers for tests, with weights that do something: no training, no degenerate start."""

from dataclasses import replace

import torch
from small_clips import small_task

from handcraft.checkpoint import Checkpoint
from handcraft.kernels import CMLPeParams


def twin(clips, *, reverse: bool, recipe=None, scale: float = 0.3) -> Checkpoint:
    """A generator of `clips` with random weights; `scale` keeps its steps of the size of real ones."""
    task = small_task("cmlpe", clips=clips, recipe=recipe, reverse=reverse)
    config = task.model_config
    weights = CMLPeParams.random(
        config.classes, config.dim, config.context, config.blocks, config.embedding, seed=1 + reverse
    )
    weights = weights._replace(out_weight=scale * weights.out_weight, out_bias=scale * weights.out_bias)
    task.model.load_state_dict(weights._asdict())
    return _identified(task.checkpoint())


def classifier(clips, kind: str = "transformer_sl", seed: int = 4) -> Checkpoint:
    """A classifier of `clips` with random weights, its output layer included; with seed 4 it names every class."""
    task = small_task(kind, clips=clips)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in task.model.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) / max(parameter.shape[-1], 4) ** 0.5
    return _identified(task.checkpoint())


def _identified(checkpoint: Checkpoint) -> Checkpoint:
    """`save` gives weights their SHA-256; here a sum of them does, which differs as they do."""
    total = sum(float(tensor.double().sum()) for tensor in checkpoint.model.state_dict().values())
    checkpoint.model.eval()
    return replace(checkpoint, sha256=f"{total:+.12e}", path=None)
