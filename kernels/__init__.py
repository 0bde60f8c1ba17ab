"""The operations of handcraft, each with a plain PyTorch reference that is its oracle, its baseline and its fallback.

Imported as `handcraft.kernels`; needs torch alone. Every function takes `backend="auto"`; see `dispatch` for how a
backend is picked and `env` for what this machine can run.
"""

if __name__ != "handcraft.kernels":
    raise ImportError(
        f"this folder was imported as {__name__!r}; import it as 'handcraft.kernels' (install handcraft with "
        "`pip install -e .`): under a second name every operation would register twice"
    )

from handcraft.kernels import dispatch, env, modules, philox
from handcraft.kernels.adaln_mlp.op import adaln_mlp, adaln_mlp_stack
from handcraft.kernels.clip_windows.op import clip_windows
from handcraft.kernels.cmlpe.generate import cmlpe_generate
from handcraft.kernels.cmlpe.op import cmlpe
from handcraft.kernels.dct_linear.op import dct_linear
from handcraft.kernels.mamba_block.op import mamba_block
from handcraft.kernels.motion_norms.op import motion_norms
from handcraft.kernels.params import CMLPeParams, MambaParams
from handcraft.kernels.selective_scan.op import selective_scan

__all__ = [
    "CMLPeParams",
    "MambaParams",
    "adaln_mlp",
    "adaln_mlp_stack",
    "clip_windows",
    "cmlpe",
    "cmlpe_generate",
    "dct_linear",
    "dispatch",
    "env",
    "mamba_block",
    "modules",
    "motion_norms",
    "philox",
    "selective_scan",
]
