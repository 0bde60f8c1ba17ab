// The mathematics of the selective scan, one step of one channel at a time, forward and backward: the same source for
// the CPU kernel and the CUDA kernel, so that it is tested without a GPU. No includes.
//
// V is a number (float, double) or a register of numbers, one a channel; S is V, or one number for all of them.
// Math supplies exp2, sigmoid and softplus on V. In what order a kernel walks channels, states and steps, and where it
// keeps them, is its own affair.
//
// Forward, for each channel (bias 0 and D 0 where not given):
//     delta = step_size(raw delta, bias), drive = delta u
//     for each state, with rate = A log2(e):  h = advance(decay(delta, rate), h, drive, B);  y += C h
//     y += D u, out = y gate(z)
// Backward, first forward again; then with dy = dout gate(z), dz = dout y gate_slope(z), and for each state from the
// last step on, with carried = dlast at first:
//     dC += dy h                                                            (summed over channels)
//     r = reverse(carried, dy, C, a, h_{t-1})      a_t of this step, h_{t-1} the state before it
//     dB += r.g drive (over channels);  ddrive += r.g B;  pull += r.exponent rate (over states)
//     dA += r.exponent delta
//   and for each channel and step
//     du = delta ddrive + dy D;  dD += dy u
//     ddelta = step_gradient(ln2 pull + u ddrive, raw delta, bias);  ddelta_bias += ddelta
#pragma once

#if defined(__CUDACC__)
#define HANDCRAFT_SCAN_INLINE __host__ __device__ __forceinline__
#else
#define HANDCRAFT_SCAN_INLINE inline __attribute__((always_inline))
#endif

#ifndef HANDCRAFT_ISA
#define HANDCRAFT_ISA baseline
#endif

namespace handcraft::HANDCRAFT_ISA::scan {

constexpr double log2e = 1.44269504088896340736;
constexpr double ln2 = 0.69314718055994530942;

// What multiplies A and u, from the raw delta.
template <class Math, typename V>
HANDCRAFT_SCAN_INLINE V step_size(V delta, V bias, bool softplus) {
    const V sum = delta + bias;
    return softplus ? Math::softplus(sum) : sum;
}

// Derivative of step_size, for the gradient `grad` of its result.
template <class Math, typename V>
HANDCRAFT_SCAN_INLINE V step_gradient(V grad, V delta, V bias, bool softplus) {
    return softplus ? grad * Math::sigmoid(delta + bias) : grad;
}

// exp(delta A), with rate = A log2(e), which costs one product a kernel instead of one an exponential.
template <class Math, typename V>
HANDCRAFT_SCAN_INLINE V decay(V delta, V rate) {
    return Math::exp2(delta * rate);
}

// h_t from h_{t-1}.
template <typename V, typename S>
HANDCRAFT_SCAN_INLINE V advance(V a, V h, V drive, S B) {
    return a * h + drive * B;
}

// silu(z), which multiplies y.
template <class Math, typename V>
HANDCRAFT_SCAN_INLINE V gate(V z) {
    return z * Math::sigmoid(z);
}

// Derivative of gate.
template <class Math, typename V>
HANDCRAFT_SCAN_INLINE V gate_slope(V z) {
    const V s = Math::sigmoid(z);
    return s + z * (s - s * s);
}

// One step of one state backwards. `carried` holds what later steps add to the gradient of h_t, and afterwards what
// this step adds to that of h_{t-1}.
template <typename V>
struct Reversed {
    V g;         // gradient of h_t
    V exponent;  // gradient of delta_t A
};
template <typename V, typename S>
HANDCRAFT_SCAN_INLINE Reversed<V> reverse(V& carried, V dy, S C, V a, V h_before) {
    const V g = dy * C + carried;
    carried = g * a;
    return {g, carried * h_before};
}

}  // namespace handcraft::HANDCRAFT_ISA::scan
