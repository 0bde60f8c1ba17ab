"""The generators and the two classifiers, each built from its config in `handcraft.config`."""

from torch import nn

from handcraft.config import CMLPeConfig, MambaSLConfig, ModelConfig, SequentialConfig, TransformerSLConfig
from handcraft.errors import ConfigError
from handcraft.models.cmlpe import CMLPe
from handcraft.models.mamba_sl import MambaSL
from handcraft.models.sequential import Sequential
from handcraft.models.transformer_sl import TransformerSL

MODELS: dict[str, tuple[type, type[nn.Module]]] = {
    "cmlpe": (CMLPeConfig, CMLPe),
    "sequential": (SequentialConfig, Sequential),
    "transformer_sl": (TransformerSLConfig, TransformerSL),
    "mamba_sl": (MambaSLConfig, MambaSL),
}
"""Model kind, as checkpoints write it -> its config class and its module class."""


def kind_of(config: ModelConfig) -> str:
    """The name in `MODELS` of the model that `config` describes."""
    for kind, (config_class, _) in MODELS.items():
        if type(config) is config_class:
            return kind
    raise ConfigError(f"no model is built from a {type(config).__name__}; known: {', '.join(MODELS)}")


def build(config: ModelConfig) -> nn.Module:
    """The freshly initialised model (torch's global random state). `classes` and `dim` must be filled in.

    Classifiers map (x (B,T,D), lengths (B,) or None) to logits (B,classes); generators map (x (B,M,D), label (B,),
    noise (B,K,E) or None) to the next M frames (B,M,D), the sequential one in several steps.
    """
    for name in ("classes", "dim"):
        if getattr(config, name) < 1:
            raise ConfigError(f"{type(config).__name__}.{name} is {getattr(config, name)}; expected at least 1")
    if isinstance(config, TransformerSLConfig) and config.width % config.heads:
        raise ConfigError(f"Transformer-SL: width {config.width} is not a multiple of heads {config.heads}")
    return MODELS[kind_of(config)][1](config)


__all__ = ["MODELS", "CMLPe", "MambaSL", "ModelConfig", "Sequential", "TransformerSL", "build", "kind_of"]
