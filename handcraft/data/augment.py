"""Batched augmentation of training windows: in-plane rotation, scaling, random crops and sub-windows.

Random numbers come from the Philox stream for augmentation with the sample's own counter, so a sample is augmented
alike whatever batch, worker or device it is in, and a resumed run draws the same. One quad of words serves a sample:
rotation, scale, length of the sub-window, its place.
"""

import math

import torch
from torch import Tensor

from handcraft.config import AugmentConfig, WindowConfig
from handcraft.errors import ConfigError
from handcraft.kernels import clip_windows, philox


def augment(x: Tensor, config: AugmentConfig, seed: int, sample_id: Tensor) -> Tensor:
    """Rotate each window in the x, y plane about the origin and scale all its coordinates.

    x (B,W,J,C) centred coordinates, before standardising, NaN = missing and stays so; sample_id (B,) int64. The angle
    is uniform in +-`config.rotation` degrees, the factor uniform in 1 +- `config.scale`; both are the same for all
    frames and landmarks of a window. Returns a new tensor, or `x` itself where both are 0.
    """
    turns = draw_turns(config, seed, sample_id)
    return x if turns is None else turn(x, turns)


def draw_turns(config: AugmentConfig, seed: int, sample_id: Tensor) -> Tensor | None:
    """The random part of `augment`: (B,3) float32, factor * cos(angle), factor * sin(angle), factor; None if off."""
    check(config)
    if config.rotation == 0 and config.scale == 0:
        return None
    u = philox.uniform(seed, sample_id, philox.STREAM_AUGMENT, 0, 1)[:, 0]  # (B,4)
    angle = (2 * u[:, 0] - 1) * math.radians(config.rotation)
    factor = 1 + (2 * u[:, 1] - 1) * config.scale
    return torch.stack((factor * angle.cos(), factor * angle.sin(), factor), dim=1)


def turn(x: Tensor, turns: Tensor) -> Tensor:
    """Apply what `draw_turns` gave. x (B,W,J,C), turns (B,3) -> a new (B,W,J,C). `windows` does it on the way."""
    rows = torch.arange(x.shape[0] * x.shape[1], device=x.device).view(x.shape[:2])
    return clip_windows(x.flatten(0, 1), rows, turns=turns)


def sub_windows(
    length: Tensor, config: AugmentConfig, window: WindowConfig, seed: int, sample_id: Tensor
) -> tuple[Tensor, Tensor]:
    """Which frames a training window reads: `begin` and `span` (B,) for `windows`, in frames, float64.

    resample: a stretch of at least `config.subwindow` of the clip's duration, its share and place uniform.
    wrap, zero: a clip longer than the window is cropped at random, whole frames, every crop alike likely; a shorter
    one is read whole. length, sample_id (B,) int64.
    """
    check(config)
    whole = torch.zeros(length.shape, dtype=torch.float64, device=length.device), length.double()
    if window.mode == "resample" and config.subwindow == 1:
        return whole
    u = philox.uniform(seed, sample_id, philox.STREAM_AUGMENT, 0, 1)[:, 0, 2:].double()
    if window.mode == "resample":
        # Of a clip of T frames a share f of its T-1 steps is f (T-1) steps, which is one frame more.
        span = 1 + (config.subwindow + (1 - config.subwindow) * u[:, 0]) * (length - 1)
        return (length - span) * u[:, 1], span
    span = length.clamp(max=window.frames)
    return ((length - span + 1) * u[:, 1]).floor(), span.double()


def check(config: AugmentConfig) -> None:
    """Refuse values that make no sense: `ConfigError`."""
    if not (config.rotation >= 0 and 0 <= config.scale < 1 and 0 < config.subwindow <= 1):
        raise ConfigError(
            f"augment has rotation {config.rotation}, scale {config.scale}, subwindow {config.subwindow}; expected "
            "rotation >= 0 degrees, 0 <= scale < 1, 0 < subwindow <= 1"
        )
