"""The CMLPe generator, differentiable (`op`) and for generation (`generate`)."""
