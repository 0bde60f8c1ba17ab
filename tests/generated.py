"""A small `cmlpe_generate` and its definition in NumPy: for the tests of all backends."""

import numpy as np
import oracles
import torch

from handcraft.kernels import CMLPeParams, philox

CLASSES, DIM, FRAMES, SEED = 5, 21, 8, 2**40 + 3


def setting(batch, dtype=torch.float32, dim=DIM):
    """Twins with unlike weights, contexts with holes, statistics, and indices for `batch` clips."""
    like = {"generator": torch.Generator("cpu").manual_seed(1), "device": "cpu"}
    context = torch.randn(40, 2 * FRAMES, dim, **like) * 3 + 1
    context[torch.rand(context.shape, **like) < 0.1] = float("nan")
    tensors = {
        "context": context.to(dtype),
        "row": torch.randint(0, 40, (batch,), **like),
        "label": torch.randint(0, CLASSES, (batch,), **like),
        "clip_id": torch.randint(0, 2**62, (batch,), **like),
        "mean": torch.randn(dim, **like),
        "std": torch.rand(dim, **like) + 0.5,
    }
    return {
        "params": CMLPeParams.random(CLASSES, dim, FRAMES, 3, 6, seed=1),
        "reverse_params": CMLPeParams.random(CLASSES, dim, FRAMES, 3, 6, seed=2),
        **{name: value.to(torch.get_default_device()) for name, value in tensors.items()},
    }


def subset(given, index):
    return {name: value[index] if name in ("row", "label", "clip_id") else value for name, value in given.items()}


def oracle(given, noise=0.1):
    """The definition, clip by clip in NumPy float64; the noise is Philox's."""
    forward, backward = (
        CMLPeParams(*(value.double().cpu().numpy() for value in given[name])) for name in ("params", "reverse_params")
    )
    mean, std = (given[name].double().cpu().numpy() for name in ("mean", "std"))
    clips = []
    for row, label, clip in zip(given["row"].tolist(), given["label"].tolist(), given["clip_id"], strict=True):
        window = (given["context"][row].double().cpu().numpy() - mean) / std
        window = np.where(np.isnan(window), 0, window)
        halves = []
        for p, stream, x in ((backward, 1, window[FRAMES:][::-1]), (forward, 0, window[:FRAMES])):
            eps = philox.normal(SEED, clip[None], stream, 3, 6).double().cpu().numpy()
            halves.append(oracles.cmlpe(x[None], p.class_embedding[label] + noise * eps, p)[0])
        clips.append(np.concatenate((halves[0][::-1], halves[1])) * std + mean)
    return torch.from_numpy(np.stack(clips))
