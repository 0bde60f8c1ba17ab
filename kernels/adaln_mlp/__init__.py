"""The conditional MLP block of CMLPe: LayerNorm, modulation, a linear map over coefficients, a gated residual."""
