"""Spills that are accepted: bytes of stores and loads, by case, kernel and target. More fail `make test-aot`."""

ACCEPTED = {
    "adaln_mlp_stack bf16 D180 M64 adaln_backward_kernel sm_90": 36,
    "adaln_mlp_stack fp32 D180 M32 adaln_backward_kernel sm_80": 64,
    "adaln_mlp_stack fp32 D180 M64 adaln_backward_kernel sm_80": 856,
    "adaln_mlp_stack fp32 D180 M64 adaln_backward_kernel sm_90": 448,
    "cmlpe bf16 D180 M64 cmlpe_backward_kernel sm_80": 232,
    "cmlpe bf16 D180 M64 cmlpe_backward_kernel sm_90": 104,
    "cmlpe fp32 D180 M32 cmlpe_backward_kernel sm_80": 184,
    "cmlpe fp32 D180 M32 cmlpe_backward_kernel sm_90": 244,
    "cmlpe fp32 D180 M32 cmlpe_backward_kernel sm_100": 220,
    "cmlpe fp32 D180 M64 cmlpe_backward_kernel sm_80": 1160,
    "cmlpe fp32 D180 M64 cmlpe_backward_kernel sm_90": 552,
}
"""No recipe has these shapes. With M = 32 in fp32, and with M = 64, the (M,M) matrices between two walks over a clip
do not fit beside each other.
"""
