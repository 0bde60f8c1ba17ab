// What a call of the selective scan is given, for every backend: lists of fields as csrc/cpu/entry.h describes them.
// No includes, so that a run-time compiler takes this file as it is.
//
//     delta_t = softplus(delta_t + delta_bias)           (each of the two where given)
//     h_t     = exp(delta_t A) h_{t-1} + delta_t u_t B_t,          h_0 = 0, one h for each of the N states
//     y_t     = (sum_n C_t[n] h_t[n] + D u_t) silu(z_t)
//
// u, delta, z, y and their gradients are (batch, dim, length) in any strides, in elements: u_b, u_d, u_l, ... B and C
// are (batch, groups, state, length) in any strides; channel d belongs to group d / (dim / groups). Constant B and C
// are (dim, state): groups is then 0, B_g the stride of a channel, B_b and B_l are not read. Gradients of B and C lie
// as B and C do, with strides of their own. A (dim, state), D and delta_bias (dim), last states (batch, dim, state) and
// their gradients are contiguous.
//
// "T" is the dtype of the activations, "Compute<T>" what they are computed in: double for double, else float.
#pragma once

#define HANDCRAFT_SCAN_CHANNELS(KIND, SIZE, type, name) KIND(type, name) SIZE(name##_b) SIZE(name##_d) SIZE(name##_l)
#define HANDCRAFT_SCAN_MIXING(STRIDED, SIZE, type, name) \
    STRIDED(type, name) SIZE(name##_b) SIZE(name##_g) SIZE(name##_n) SIZE(name##_l)

#define HANDCRAFT_SCAN_INPUTS(POINTER, OPTIONAL, STRIDED, SIZE)                                                   \
    SIZE(batch) SIZE(dim) SIZE(length) SIZE(state) SIZE(groups_B) SIZE(groups_C) SIZE(delta_softplus)             \
    HANDCRAFT_SCAN_CHANNELS(STRIDED, SIZE, const T, u) HANDCRAFT_SCAN_CHANNELS(STRIDED, SIZE, const T, delta)     \
    POINTER(const Compute<T>, A)                                                                                  \
    HANDCRAFT_SCAN_MIXING(STRIDED, SIZE, const T, B) HANDCRAFT_SCAN_MIXING(STRIDED, SIZE, const T, C)             \
    OPTIONAL(const Compute<T>, D) HANDCRAFT_SCAN_CHANNELS(STRIDED, SIZE, const T, z)                              \
    OPTIONAL(const Compute<T>, delta_bias)

// z and its strides are null and 0 where there is no gate; so is `last` where nobody asks for the last state.
#define HANDCRAFT_SCAN_FORWARD(POINTER, OPTIONAL, STRIDED, SIZE, REAL)       \
    HANDCRAFT_SCAN_INPUTS(POINTER, OPTIONAL, STRIDED, SIZE)                  \
    HANDCRAFT_SCAN_CHANNELS(STRIDED, SIZE, T, y) OPTIONAL(Compute<T>, last)

// dz, dD, ddelta_bias: null where their input is. y: what the forward pass gave, once more, or null.
#define HANDCRAFT_SCAN_BACKWARD(POINTER, OPTIONAL, STRIDED, SIZE, REAL)                                           \
    HANDCRAFT_SCAN_INPUTS(POINTER, OPTIONAL, STRIDED, SIZE)                                                       \
    HANDCRAFT_SCAN_CHANNELS(STRIDED, SIZE, const T, dy) OPTIONAL(const Compute<T>, dlast)                         \
    HANDCRAFT_SCAN_CHANNELS(STRIDED, SIZE, T, du) HANDCRAFT_SCAN_CHANNELS(STRIDED, SIZE, T, ddelta)               \
    POINTER(Compute<T>, dA)                                                                                       \
    HANDCRAFT_SCAN_MIXING(STRIDED, SIZE, T, dB) HANDCRAFT_SCAN_MIXING(STRIDED, SIZE, T, dC)                       \
    OPTIONAL(Compute<T>, dD) HANDCRAFT_SCAN_CHANNELS(STRIDED, SIZE, T, dz) OPTIONAL(Compute<T>, ddelta_bias)      \
    HANDCRAFT_SCAN_CHANNELS(STRIDED, SIZE, T, y)
