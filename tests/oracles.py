"""Independent NumPy float64 implementations of the ops, written from their definitions, and plain PyTorch ones that
stay in one dtype throughout: the first are the truth of the references, the second give PyTorch's own error."""

import numpy as np
import torch
import torch.nn.functional as F

# ---------------------------------------------------------------------------------------------------- NumPy, float64


def dct(size):
    k, t = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    matrix = np.sqrt(2 / size) * np.cos(np.pi * (t + 0.5) * k / size)
    matrix[0] = np.sqrt(1 / size)
    return matrix


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def dct_linear(x, weight, bias=None, cls=None, position=None, cls_at="first", transform="dct", lengths=None):
    batch, frames, _ = x.shape
    rows = frames + (cls is not None)
    out = np.zeros((batch, rows, weight.shape[0]))
    for b in range(batch):
        value = dct(frames) @ x[b] if transform == "dct" else x[b]
        token = value @ weight.T + (0 if bias is None else bias)
        count = frames if lengths is None else lengths[b]
        parts = [token[:count]]
        if cls is not None:
            parts.insert(0 if cls_at == "first" else 1, cls[None])
        used = np.concatenate(parts)
        out[b, : len(used)] = used + (0 if position is None else position[: len(used)])
    return out


def adaln_mlp(h, shift, scale, gate, norm_weight, norm_bias, fc_weight, fc_bias):
    mean = h.mean(axis=1, keepdims=True)
    variance = ((h - mean) ** 2).mean(axis=1, keepdims=True)
    n = (h - mean) / np.sqrt(variance + 1e-5) * norm_weight[None, :, None] + norm_bias[None, :, None]
    modulated = n * (1 + scale[:, None]) + shift[:, None]
    return h + gate[:, None] * (np.einsum("bdm,nm->bdn", modulated, fc_weight) + fc_bias)


def adaln_mlp_stack(h, e, p):
    frames = h.shape[2]
    for k in range(e.shape[1]):
        active = e[:, k] * sigmoid(e[:, k])
        mod = active @ p.mod_weight[k].T + p.mod_bias[k]
        shift, scale, gate = mod[:, :frames], mod[:, frames : 2 * frames], mod[:, 2 * frames :]
        h = adaln_mlp(h, shift, scale, gate, p.norm_weight[k], p.norm_bias[k], p.fc_weight[k], p.fc_bias[k])
    return h


def cmlpe(x, e, p):
    matrix = dct(x.shape[1])
    h = (np.einsum("kt,btd->bkd", matrix, x) @ p.in_weight.T + p.in_bias).transpose(0, 2, 1)
    out = adaln_mlp_stack(h, e, p).transpose(0, 2, 1) @ p.out_weight.T + p.out_bias
    return np.einsum("kt,bkd->btd", matrix, out) + x[:, -1:]


def selective_scan(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False):
    """Returns y and the last state; one number at a time, as the definition reads."""
    batch, dim, length = u.shape
    state = A.shape[1]

    def entry(x, b, d, t):
        if x.ndim == 2:
            return x[d]
        if x.ndim == 3:
            return x[b, :, t]
        return x[b, d // (dim // x.shape[1]), :, t]

    y, last = np.zeros((batch, dim, length)), np.zeros((batch, dim, state))
    for b in range(batch):
        for d in range(dim):
            h = np.zeros(state)
            for t in range(length):
                step = delta[b, d, t] + (0 if delta_bias is None else delta_bias[d])
                if delta_softplus:
                    step = np.log1p(np.exp(step))
                h = np.exp(step * A[d]) * h + step * entry(B, b, d, t) * u[b, d, t]
                y[b, d, t] = entry(C, b, d, t) @ h + (0 if D is None else D[d] * u[b, d, t])
                if z is not None:
                    y[b, d, t] *= z[b, d, t] * sigmoid(z[b, d, t])
            last[b, d] = h
    return y, last


def mamba_block(x, p):
    batch, length, _ = x.shape
    inner, rank = p.dt_proj_weight.shape
    state, taps = p.A_log.shape[1], p.conv1d_weight.shape[2]
    projected = x @ p.in_proj_weight.T
    u, z = projected[..., :inner], projected[..., inner:]
    convolved = np.zeros((batch, length, inner))
    for t in range(length):
        for i in range(taps):
            past = t - (taps - 1) + i
            if past >= 0:
                convolved[:, t] += u[:, past] * p.conv1d_weight[:, 0, i]
    convolved += p.conv1d_bias
    u = convolved * sigmoid(convolved)
    mixed = u @ p.x_proj_weight.T
    step, B, C = np.split(mixed, [rank, rank + state], axis=-1)
    delta = step @ p.dt_proj_weight.T
    last_axis = [a.transpose(0, 2, 1) for a in (u, delta, B, C, z)]
    y, _ = selective_scan(
        last_axis[0],
        last_axis[1],
        -np.exp(p.A_log),
        last_axis[2],
        last_axis[3],
        p.D,
        last_axis[4],
        p.dt_proj_bias,
        True,
    )
    return y.transpose(0, 2, 1) @ p.out_proj_weight.T


# ------------------------------------------------------------------------------------- plain PyTorch, one dtype only


def motion_norms(prediction, target, seen):
    batch, frames = prediction.shape[:2]
    error = (prediction - target).reshape(batch, frames, seen.shape[2], -1)
    norms = np.zeros((batch, 2, frames))
    for b in range(batch):
        for m in range(frames):
            norms[b, 0, m] = np.sqrt((error[b, m][seen[b, m]] ** 2).sum())
            if m:
                both = seen[b, m] & seen[b, m - 1]
                norms[b, 1, m] = np.sqrt(((error[b, m] - error[b, m - 1])[both] ** 2).sum())
    return norms


def plain_dct(size, like):
    return torch.from_numpy(dct(size)).to(like)


def plain_dct_linear(x, weight, bias, cls, position):
    token = F.linear(plain_dct(x.shape[1], x) @ x, weight, bias)
    return torch.cat((cls.expand(x.shape[0], 1, -1), token), 1) + position


def plain_adaln_mlp(h, shift, scale, gate, norm_weight, norm_bias, fc_weight, fc_bias):
    n = F.layer_norm(h.transpose(1, 2), norm_weight.shape, norm_weight, norm_bias).transpose(1, 2)
    return h + gate[:, None] * F.linear(n * (1 + scale[:, None]) + shift[:, None], fc_weight, fc_bias)


def plain_adaln_mlp_stack(h, e, p):
    for k in range(e.shape[1]):
        mod = F.linear(F.silu(e[:, k]), p.mod_weight[k], p.mod_bias[k]).chunk(3, dim=-1)
        h = plain_adaln_mlp(h, *mod, p.norm_weight[k], p.norm_bias[k], p.fc_weight[k], p.fc_bias[k])
    return h


def plain_cmlpe(x, e, p):
    matrix = plain_dct(x.shape[1], x)
    h = F.linear(matrix @ x, p.in_weight, p.in_bias).transpose(1, 2)
    out = F.linear(plain_adaln_mlp_stack(h, e, p).transpose(1, 2), p.out_weight, p.out_bias)
    return matrix.T @ out + x[:, -1:]


def plain_selective_scan(u, delta, A, B, C, D, z, delta_bias):
    delta = F.softplus(delta + delta_bias[:, None])
    h, rows = torch.zeros(*u.shape[:2], A.shape[1], dtype=u.dtype), []
    for t in range(u.shape[2]):
        h = torch.exp(delta[:, :, t, None] * A) * h + (delta[:, :, t] * u[:, :, t])[..., None] * B[:, None, :, t]
        rows.append((h * C[:, None, :, t]).sum(-1))
    return (torch.stack(rows, 2) + D[:, None] * u) * F.silu(z)


def plain_mamba_block(x, p):
    rank, state = p.dt_proj_weight.shape[1], p.A_log.shape[1]
    u, z = F.linear(x, p.in_proj_weight).transpose(1, 2).chunk(2, dim=1)
    taps = p.conv1d_weight.shape[2]
    u = F.silu(F.conv1d(F.pad(u, (taps - 1, 0)), p.conv1d_weight, p.conv1d_bias, groups=u.shape[1]))
    step, B, C = F.linear(u.transpose(1, 2), p.x_proj_weight).transpose(1, 2).split((rank, state, state), dim=1)
    delta = p.dt_proj_weight @ step
    y = plain_selective_scan(u, delta, -torch.exp(p.A_log), B, C, p.D, z, p.dt_proj_bias)
    return F.linear(y.transpose(1, 2), p.out_proj_weight)


def plain_motion_norms(prediction, target, seen):
    error = (prediction - target).unflatten(2, (seen.shape[2], -1))
    own = torch.where(seen[..., None], error, 0).flatten(2).norm(dim=2)
    both = torch.cat((torch.zeros_like(seen[:, :1]), seen[:, 1:] & seen[:, :-1]), dim=1)
    return torch.stack((own, torch.where(both[..., None], error - error.roll(1, 1), 0).flatten(2).norm(dim=2)), dim=1)
