// Tiles: `lanes` channels over some steps, a register for each step with one channel a lane. Loaded from memory of any
// strides and dtype and stored back; where steps are contiguous the tile is transposed in registers.
#pragma once

#include "simd.h"

#if defined(__AVX__)
#include <immintrin.h>
#endif

#if defined(__clang__)
#define HANDCRAFT_SHUFFLE(T, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define HANDCRAFT_SHUFFLE(T, a, b, ...) __builtin_shuffle(a, b, Mask<T>{__VA_ARGS__})
#endif

namespace handcraft::HANDCRAFT_ISA {

// a0 b0 a1 b1 ... of the lower halves, and of the upper halves.
template <typename T>
HANDCRAFT_INLINE Vec<T> interleave_low(Vec<T> a, Vec<T> b) {
    if constexpr (lanes<T> == 16) {
        return HANDCRAFT_SHUFFLE(T, a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    } else if constexpr (lanes<T> == 8) {
        return HANDCRAFT_SHUFFLE(T, a, b, 0, 8, 1, 9, 2, 10, 3, 11);
    } else if constexpr (lanes<T> == 4) {
        return HANDCRAFT_SHUFFLE(T, a, b, 0, 4, 1, 5);
    } else {
        return HANDCRAFT_SHUFFLE(T, a, b, 0, 2);
    }
}
template <typename T>
HANDCRAFT_INLINE Vec<T> interleave_high(Vec<T> a, Vec<T> b) {
    if constexpr (lanes<T> == 16) {
        return HANDCRAFT_SHUFFLE(T, a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    } else if constexpr (lanes<T> == 8) {
        return HANDCRAFT_SHUFFLE(T, a, b, 4, 12, 5, 13, 6, 14, 7, 15);
    } else if constexpr (lanes<T> == 4) {
        return HANDCRAFT_SHUFFLE(T, a, b, 2, 6, 3, 7);
    } else {
        return HANDCRAFT_SHUFFLE(T, a, b, 1, 3);
    }
}

// Rows become columns. Each round moves the highest bit of a row's number to the lowest of the lane's.
template <typename T>
HANDCRAFT_INLINE void transpose(Vec<T> (&rows)[lanes<T>]) {
    constexpr int half = lanes<T> / 2;
#pragma GCC unroll 4
    for (int round = half; round > 0; round /= 2) {
        Vec<T> next[lanes<T>];
#pragma GCC unroll 8
        for (int i = 0; i < half; ++i) {
            next[2 * i] = interleave_low<T>(rows[i], rows[i + half]);
            next[2 * i + 1] = interleave_high<T>(rows[i], rows[i + half]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < lanes<T>; ++i) rows[i] = next[i];
    }
}

// Lane i: the sum over the lanes of rows[i]. The same rounds, but each adds the two halves.
template <typename T>
HANDCRAFT_INLINE Vec<T> lane_sums(Vec<T> (&rows)[lanes<T>]) {
#pragma GCC unroll 4
    for (int half = lanes<T> / 2; half > 0; half /= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < half; ++i) {
            rows[i] = interleave_low<T>(rows[i], rows[i + half]) + interleave_high<T>(rows[i], rows[i + half]);
        }
    }
    return rows[0];
}

template <typename A, typename B>
constexpr bool same = false;
template <typename A>
constexpr bool same<A, A> = true;

// The first n numbers at p, 0 in the other lanes; memory behind them is not touched.
template <typename S>
HANDCRAFT_INLINE Vec<Compute<S>> load_first(const S* p, int n) {
    using T = Compute<S>;
    if (n == lanes<T>) return load_as_compute<S>(p);
#if defined(__AVX512F__)
    if constexpr (same<S, float>) return _mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p);
    if constexpr (same<S, double>) return _mm512_maskz_loadu_pd(__mmask8((1u << n) - 1), p);
#elif defined(__AVX__)
    if constexpr (same<S, float>) {
        const Mask<float> lane = {0, 1, 2, 3, 4, 5, 6, 7};
        return _mm256_maskload_ps(p, __m256i(lane < n));
    }
#endif
    T row[lanes<T>] = {};
    for (int i = 0; i < n; ++i) row[i] = to_compute(p[i]);
    return load<T>(row);
}

// Writes the first n lanes and nothing behind them.
template <typename S>
HANDCRAFT_INLINE void store_first(S* p, Vec<Compute<S>> x, int n) {
    using T = Compute<S>;
    if (n == lanes<T>) return store_from_compute<S>(p, x);
#if defined(__AVX512F__)
    if constexpr (same<S, float>) return _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), x);
    if constexpr (same<S, double>) return _mm512_mask_storeu_pd(p, __mmask8((1u << n) - 1), x);
#elif defined(__AVX__)
    if constexpr (same<S, float>) {
        const Mask<float> lane = {0, 1, 2, 3, 4, 5, 6, 7};
        return _mm256_maskstore_ps(p, __m256i(lane < n), x);
    }
#endif
    T row[lanes<T>];
    store<T>(row, x);
    for (int i = 0; i < n; ++i) p[i] = from_compute<S>(row[i]);
}

// Steps that are moved one by one: a transposition costs as much as about this many.
constexpr int few_steps = 3;

// tile[t * lanes + c] = x[c * channel_stride + t * step_stride] for c < count; missing channels are 0.
template <typename S>
void load_tile(const S* x, int64_t channel_stride, int64_t step_stride, int count, int64_t steps, Compute<S>* tile) {
    using T = Compute<S>;
    constexpr int width = lanes<T>;
    int64_t t = 0;
    if (channel_stride == 1) {
        for (; t < steps; ++t) store<T>(tile + t * width, load_first<S>(x + t * step_stride, count));
    } else if (step_stride == 1) {
        for (; steps - t > few_steps; t += width) {
            const int n = steps - t < width ? int(steps - t) : width;
            Vec<T> rows[width];
            for (int c = 0; c < width; ++c) {
                rows[c] = c < count ? load_first<S>(x + c * channel_stride + t, n) : Vec<T>{};
            }
            transpose<T>(rows);
            for (int i = 0; i < n; ++i) store<T>(tile + (t + i) * width, rows[i]);
        }
    }
    for (; t < steps; ++t) {
        for (int c = 0; c < width; ++c) {
            tile[t * width + c] = c < count ? to_compute(x[c * channel_stride + t * step_stride]) : T(0);
        }
    }
}

// The way back; missing channels are not written.
template <typename S>
void store_tile(S* x, int64_t channel_stride, int64_t step_stride, int count, int64_t steps, const Compute<S>* tile) {
    using T = Compute<S>;
    constexpr int width = lanes<T>;
    int64_t t = 0;
    if (channel_stride == 1) {
        for (; t < steps; ++t) store_first<S>(x + t * step_stride, load<T>(tile + t * width), count);
    } else if (step_stride == 1) {
        for (; steps - t > few_steps; t += width) {
            const int n = steps - t < width ? int(steps - t) : width;
            Vec<T> rows[width];
            for (int i = 0; i < width; ++i) rows[i] = i < n ? load<T>(tile + (t + i) * width) : Vec<T>{};
            transpose<T>(rows);
            for (int c = 0; c < count; ++c) store_first<S>(x + c * channel_stride + t, rows[c], n);
        }
    }
    for (; t < steps; ++t) {
        for (int c = 0; c < count; ++c) x[c * channel_stride + t * step_stride] = from_compute<S>(tile[t * width + c]);
    }
}

}  // namespace handcraft::HANDCRAFT_ISA
