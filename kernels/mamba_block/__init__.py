"""One Mamba-1 block."""
