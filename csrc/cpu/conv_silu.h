// The causal depthwise convolution of a Mamba block and its SiLU, one channel a lane, forward and backward:
//
//     v_t = bias + sum_k weight[k] x_{t-K+1+k},   u_t = silu(v_t),   x before the first step is 0
//
// x is (batch, length, channels) in any strides of batch and step, u contiguous. The block's matrix products are
// torch's, its scan is selective_scan.cpp.
#pragma once

#include "scan_tasks.h"

namespace handcraft::HANDCRAFT_ISA {
namespace {

// chunks: pieces of the batch, each with its own partial sums (channels, taps) and (channels) in the backward pass.
#define CONV_SILU_INPUTS(POINTER, STRIDED, SIZE)                                        \
    SIZE(batch) SIZE(length) SIZE(channels) SIZE(taps) SIZE(chunks)                     \
    STRIDED(const T, x) SIZE(x_b) SIZE(x_l) POINTER(const T, weight) POINTER(const T, bias)
#define CONV_SILU_FORWARD_FIELDS(POINTER, OPTIONAL, STRIDED, SIZE, REAL) \
    CONV_SILU_INPUTS(POINTER, STRIDED, SIZE) POINTER(T, u)
HANDCRAFT_ARGUMENTS(ConvSiluForward, CONV_SILU_FORWARD_FIELDS)

#define CONV_SILU_BACKWARD_FIELDS(POINTER, OPTIONAL, STRIDED, SIZE, REAL)                                   \
    CONV_SILU_INPUTS(POINTER, STRIDED, SIZE) POINTER(const T, du) STRIDED(T, dx) SIZE(dx_b) SIZE(dx_l)      \
    POINTER(T, dweight) POINTER(T, dbias) POINTER(T, partial_weight) POINTER(T, partial_bias)
HANDCRAFT_ARGUMENTS(ConvSiluBackward, CONV_SILU_BACKWARD_FIELDS)

// v_t of `count` channels; x and weight (taps, lane) from the first of them on.
template <typename T>
HANDCRAFT_INLINE Vec<T> convolve(const T* x, int64_t step, const T* weight, Vec<T> bias, int64_t taps, int64_t t,
                                 int count) {
    Vec<T> v = bias;
    for (int64_t k = taps - 1 < t ? 0 : taps - 1 - t; k < taps; ++k) {
        v += load<T>(weight + k * lanes<T>) * load_first<T>(x + (t - taps + 1 + k) * step, count);
    }
    return v;
}

template <typename T>
void conv_forward_chunk(const ConvSiluForward<T>& p, int64_t chunk) {
    constexpr int width = lanes<T>;
    T* const weight = static_cast<T*>(scratch(p.taps * width * sizeof(T)));
    for (int64_t channel = 0; channel < p.channels; channel += width) {
        const int count = int(smaller(width, p.channels - channel));
        load_tile<T>(p.weight + channel * p.taps, p.taps, 1, count, p.taps, weight);
        const Vec<T> bias = load_first<T>(p.bias + channel, count);
        for (int64_t b = p.batch * chunk / p.chunks; b < p.batch * (chunk + 1) / p.chunks; ++b) {
            const T* x = p.x + b * p.x_b + channel;
            T* u = p.u + b * p.length * p.channels + channel;
            for (int64_t t = 0; t < p.length; ++t) {
                const Vec<T> v = convolve<T>(x, p.x_l, weight, bias, p.taps, t, count);
                store_first<T>(u + t * p.channels, scan::gate<Math<T>>(v), count);
            }
        }
    }
}

// One sequence backwards in one pass, for a convolution of TAPS steps, what the next steps need again in registers: dx of
// the step TAPS - 1 ago is complete. x, du and dx are those of the first of `count` channels; dweight is added to.
template <typename T, int TAPS>
Vec<T> backward_taps(const ConvSiluBackward<T>& p, const T* x, const T* du, T* dx, const T* weight, Vec<T> bias,
                     T* dweight, int count) {
    constexpr int width = lanes<T>;
    Vec<T> w[TAPS], dw[TAPS], before[TAPS] = {}, grad[TAPS] = {}, dbias{};  // of the last TAPS steps, this one last
    for (int k = 0; k < TAPS; ++k) {
        w[k] = load<T>(weight + k * width);
        dw[k] = load<T>(dweight + k * width);
    }
    for (int64_t t = 0; t < p.length + TAPS - 1; ++t) {
#pragma GCC unroll 8
        for (int k = 0; k + 1 < TAPS; ++k) {
            before[k] = before[k + 1];
            grad[k] = grad[k + 1];
        }
        grad[TAPS - 1] = Vec<T>{};
        if (t < p.length) {
            before[TAPS - 1] = load_first<T>(x + t * p.x_l, count);
            Vec<T> v = bias;
#pragma GCC unroll 8
            for (int k = 0; k < TAPS; ++k) v += w[k] * before[k];
            grad[TAPS - 1] = load_first<T>(du + t * p.channels, count) * scan::gate_slope<Math<T>>(v);
            dbias += grad[TAPS - 1];
#pragma GCC unroll 8
            for (int k = 0; k < TAPS; ++k) dw[k] += grad[TAPS - 1] * before[k];
        }
        if (t >= TAPS - 1) {
            Vec<T> sum{};
#pragma GCC unroll 8
            for (int k = 0; k < TAPS; ++k) sum += w[TAPS - 1 - k] * grad[k];
            store_first<T>(dx + (t - TAPS + 1) * p.dx_l, sum, count);
        }
    }
    for (int k = 0; k < TAPS; ++k) store<T>(dweight + k * width, dw[k]);
    return dbias;
}

template <typename T>
void conv_backward_chunk(const ConvSiluBackward<T>& p, int64_t chunk) {
    constexpr int width = lanes<T>;
    T* const weight = static_cast<T*>(scratch((2 * p.taps + p.length) * width * sizeof(T)));
    T* const dweight = weight + p.taps * width;
    T* const dv = dweight + p.taps * width;
    for (int64_t channel = 0; channel < p.channels; channel += width) {
        const int count = int(smaller(width, p.channels - channel));
        load_tile<T>(p.weight + channel * p.taps, p.taps, 1, count, p.taps, weight);
        const Vec<T> bias = load_first<T>(p.bias + channel, count);
        Vec<T> dbias{};
        for (int64_t k = 0; k < p.taps; ++k) store<T>(dweight + k * width, Vec<T>{});
        for (int64_t b = p.batch * chunk / p.chunks; b < p.batch * (chunk + 1) / p.chunks; ++b) {
            const T* x = p.x + b * p.x_b + channel;
            const T* du = p.du + b * p.length * p.channels + channel;
            T* dx = p.dx + b * p.dx_b + channel;
            if (p.taps == 4) {  // what every model has
                dbias += backward_taps<T, 4>(p, x, du, dx, weight, bias, dweight, count);
                continue;
            }
            for (int64_t t = 0; t < p.length; ++t) {
                const Vec<T> v = convolve<T>(x, p.x_l, weight, bias, p.taps, t, count);
                const Vec<T> slope = scan::gate_slope<Math<T>>(v);
                const Vec<T> grad = load_first<T>(du + t * p.channels, count) * slope;
                store<T>(dv + t * width, grad);
                dbias += grad;
            }
            for (int64_t k = 0; k < p.taps; ++k) {
                const int64_t lag = p.taps - 1 - k;
                Vec<T> sum = load<T>(dweight + k * width);
                for (int64_t t = lag; t < p.length; ++t) {
                    sum += load<T>(dv + t * width) * load_first<T>(x + (t - lag) * p.x_l, count);
                }
                store<T>(dweight + k * width, sum);
            }
            for (int64_t t = 0; t < p.length; ++t) {
                Vec<T> sum{};
                for (int64_t lag = 0; lag < p.taps && t + lag < p.length; ++lag) {
                    sum += load<T>(weight + (p.taps - 1 - lag) * width) * load<T>(dv + (t + lag) * width);
                }
                store_first<T>(dx + t * p.dx_l, sum, count);
            }
        }
        const int64_t row = chunk * p.channels + channel;
        store_tile<T>(p.partial_weight + row * p.taps, p.taps, 1, count, p.taps, dweight);
        store_first<T>(p.partial_bias + row, dbias, count);
    }
}

}  // namespace
}  // namespace handcraft::HANDCRAFT_ISA
