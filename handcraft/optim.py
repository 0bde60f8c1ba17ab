"""Optimisers, clipping and learning-rate schedules of the training loop: torch's own, on a CPU with a step of one call,
and Lookahead around them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR

from handcraft.config import TrainConfig
from handcraft.errors import ConfigError
from handcraft.kernels import optimizer as compiled
from handcraft.kernels.native import Pointers


@dataclass(frozen=True)
class _Group:
    """Where the tensors of a parameter group lie."""

    parameters: Pointers
    state: list[Pointers]
    """Both moving averages and the steps taken."""
    sizes: torch.Tensor

    def moved(self, parameters: Sequence[nn.Parameter]) -> bool:
        return [value.data_ptr() for value in parameters] != self.parameters.addresses


class _OneCall:
    """Lets the compiled CPU library take the steps of torch's Adam or RAdam where it can. State and arguments are
    torch's; of its options those count that `build_optimizer` uses. The first step, which makes the state, is torch's
    own."""

    rectify: bool
    _groups: list[_Group] | None = None

    @torch.no_grad()
    def step(self, closure=None):
        """One step; see `torch.optim.Optimizer.step`."""
        gradients = [compiled.lists([value.grad for value in group["params"]]) for group in self.param_groups]
        if closure is not None or None in gradients or not self._found():
            return super().step(closure)
        for group, found, (gradient,) in zip(self.param_groups, self._groups, gradients, strict=True):
            compiled.adam(
                found.parameters,
                gradient,
                *found.state,
                found.sizes,
                rectify=self.rectify,
                rate=group["lr"],
                betas=group["betas"],
                epsilon=group["eps"],
                decay=group["weight_decay"],
            )
        return None

    def _found(self) -> bool:
        """Look where the tensors lie, unless that is known; False where the library cannot take them."""
        groups = [group["params"] for group in self.param_groups]
        if self._groups is not None and not any(map(_Group.moved, self._groups, groups)):
            return True
        self._groups, found = None, []
        for values in groups:
            states = [self.state.get(value, {}) for value in values]
            names = ("exp_avg", "exp_avg_sq", "step")
            pointers = compiled.lists(values, *([state.get(name) for state in states] for name in names))
            if pointers is None:
                return False
            found.append(_Group(pointers[0], pointers[1:], compiled.sizes(pointers[0])))
        self._groups = found
        return True

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)  # other tensors from now on
        self._groups = None

    def add_param_group(self, group: dict) -> None:
        """See `torch.optim.Optimizer.add_param_group`."""
        super().add_param_group(group)
        self._groups = None


class Adam(_OneCall, torch.optim.Adam):
    """torch's Adam; on a CPU one call takes the step of all parameters."""

    rectify = False


class RAdam(_OneCall, torch.optim.RAdam):
    """torch's RAdam; on a CPU one call takes the step of all parameters."""

    rectify = True


OPTIMIZERS = {"adam": Adam, "radam": RAdam}


def clip_gradients(parameters: Sequence[nn.Parameter], most: float) -> torch.Tensor:
    """Scale the gradients to a norm over all parameters of at most `most` (0: leave them), and return the norm before,
    (): torch's `clip_grad_norm_`, on a CPU in one call."""
    gradients = [value.grad for value in parameters if value.grad is not None]
    found = compiled.lists(gradients)
    if found is not None:
        return compiled.clip(*found, most or math.inf)
    return nn.utils.clip_grad_norm_(parameters, most or math.inf, foreach=True)


class Lookahead:
    """Lookahead (Zhang et al. 2019, arXiv 1907.08610, algorithm 1) around any torch optimiser.

    After every k-th step of the inner optimiser the slow weights move by `alpha` towards the fast ones, and the fast
    ones restart from there. The model always holds the fast weights; they equal the slow ones after each k-th step.
    The inner optimiser's moments are kept across that restart, as the authors do.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, k: int = 5, alpha: float = 0.5):
        if k < 1 or not 0.0 < alpha <= 1.0:
            raise ConfigError(f"Lookahead: k={k} and alpha={alpha}; expected k >= 1 and 0 < alpha <= 1")
        self.optimizer, self.k, self.alpha = optimizer, k, alpha
        self.count = 0
        self.slow = [parameter.detach().clone() for parameter in self._fast()]

    def _fast(self) -> list[torch.Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    @property
    def param_groups(self) -> list[dict]:
        return self.optimizer.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.optimizer.zero_grad(set_to_none)

    @torch.no_grad()
    def step(self) -> None:
        """One step of the inner optimiser, and the slow weights' step after every k-th."""
        self.optimizer.step()
        self.count += 1
        if self.count % self.k == 0:
            fast = self._fast()
            torch._foreach_lerp_(self.slow, fast, self.alpha)
            torch._foreach_copy_(fast, self.slow)

    def state_dict(self) -> dict:
        """Plain containers and tensors only, as `state_file.save_state` takes them. The tensors are not copied."""
        return {"optimizer": self.optimizer.state_dict(), "slow": self.slow, "count": self.count}

    def load_state_dict(self, state: dict) -> None:
        """Restore `state_dict()`'s value; `ValueError` if the slow weights do not fit the parameters."""
        shapes = [tuple(tensor.shape) for tensor in state["slow"]]
        if shapes != [tuple(tensor.shape) for tensor in self.slow]:
            raise ValueError("the saved Lookahead state belongs to other parameters")
        self.optimizer.load_state_dict(state["optimizer"])
        torch._foreach_copy_(self.slow, list(state["slow"]))
        self.count = int(state["count"])


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer | Lookahead:
    """The optimiser that `config` names, over all parameters; weight decay is L2 in the gradient, as torch has it.

    Parameters marked `_no_weight_decay` (A_log and D of a Mamba block, whose zero is no neutral value) are left out of
    the decay. `foreach` handles all parameters in a few calls: the models here are many small tensors, and the loop
    over them in Python would take longer than the arithmetic.
    """
    if config.optimizer not in OPTIMIZERS:
        raise ConfigError(f"unknown optimizer {config.optimizer!r}; known: {', '.join(OPTIMIZERS)}")
    groups = []
    for marked, decay in ((False, config.weight_decay), (True, 0.0)):
        chosen = [value for value in model.parameters() if getattr(value, "_no_weight_decay", False) == marked]
        if chosen:
            groups.append({"params": chosen, "weight_decay": decay})
    optimizer = OPTIMIZERS[config.optimizer](groups, lr=config.lr, foreach=True)
    return Lookahead(optimizer) if config.lookahead else optimizer


def build_schedule(optimizer: torch.optim.Optimizer | Lookahead, config: TrainConfig, steps: int) -> LRScheduler:
    """The learning-rate schedule over `steps` steps; call its `step()` once after each optimiser step."""
    inner = optimizer.optimizer if isinstance(optimizer, Lookahead) else optimizer
    if config.schedule == "onecycle":
        # Of a warm-up of exactly one step, torch would divide zero by zero.
        warmup = config.warmup * (1 + 1e-9 * (config.warmup * steps == 1))
        return OneCycleLR(inner, max_lr=config.lr, total_steps=steps, pct_start=warmup)
    if config.schedule == "constant":
        return ConstantLR(inner, factor=1.0, total_iters=0)
    raise ConfigError(f"unknown schedule {config.schedule!r}; known: onecycle, constant")
