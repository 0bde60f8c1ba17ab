"""Spills that are accepted: bytes of stores and loads, by case, kernel and target. More fail `make test-aot`."""

ACCEPTED = {
    "adaln_mlp_stack bf16 D180 M8 adaln_forward_kernel sm_100": 16,
    "adaln_mlp_stack bf16 D180 M64 adaln_backward_kernel sm_90": 60,
    "adaln_mlp_stack fp32 D180 M64 adaln_backward_kernel sm_80": 816,
    "adaln_mlp_stack fp32 D180 M64 adaln_backward_kernel sm_90": 408,
    "cmlpe bf16 D180 M64 cmlpe_backward_kernel sm_80": 216,
    "cmlpe bf16 D180 M64 cmlpe_backward_kernel sm_90": 116,
    "cmlpe fp32 D180 M32 cmlpe_backward_kernel sm_80": 152,
    "cmlpe fp32 D180 M32 cmlpe_backward_kernel sm_90": 136,
    "cmlpe fp32 D180 M32 cmlpe_backward_kernel sm_100": 112,
    "cmlpe fp32 D180 M64 cmlpe_backward_kernel sm_80": 1096,
    "cmlpe fp32 D180 M64 cmlpe_backward_kernel sm_90": 520,
}
"""No recipe has these shapes. With M = 32 in fp32, and with M = 64, the (M,M) matrices between two walks over a clip
do not fit beside each other. M = 8 in 16 bits is computed as M = 16, whose mask takes the last registers on sm_100.
"""
