// Tiles: `lanes` channels over some steps, a register for each step with one channel a lane. Loaded from memory of any
// strides and dtype and stored back; where steps are contiguous the tile is transposed on the way.
//
// A register is made of quads of 16 bytes. Shuffles within quads are cheap and quads are put into place by loads and
// stores, which makes a transposition four times as fast as one of shuffles across whole registers.
#pragma once

#include "simd.h"

#if defined(__clang__)
#define HANDCRAFT_SHUFFLE(T, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define HANDCRAFT_SHUFFLE(T, a, b, ...) __builtin_shuffle(a, b, Mask<T>{__VA_ARGS__})
#endif

namespace handcraft::HANDCRAFT_ISA {

// Numbers of a quad, quads of a register.
template <typename T>
constexpr int quad = 16 / int(sizeof(T));
constexpr int quads = vector_bytes / 16;

// Within each quad: the lower halves of a and b interleaved, and the upper halves.
template <typename T>
HANDCRAFT_INLINE Vec<T> interleave_low(Vec<T> a, Vec<T> b) {
    if constexpr (lanes<T> == 16) {
        return HANDCRAFT_SHUFFLE(T, a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
    } else if constexpr (lanes<T> == 8 && quad<T> == 4) {
        return HANDCRAFT_SHUFFLE(T, a, b, 0, 8, 1, 9, 4, 12, 5, 13);
    } else if constexpr (lanes<T> == 8) {
        return HANDCRAFT_SHUFFLE(T, a, b, 0, 8, 2, 10, 4, 12, 6, 14);
    } else if constexpr (lanes<T> == 4 && quad<T> == 4) {
        return HANDCRAFT_SHUFFLE(T, a, b, 0, 4, 1, 5);
    } else if constexpr (lanes<T> == 4) {
        return HANDCRAFT_SHUFFLE(T, a, b, 0, 4, 2, 6);
    } else {
        return HANDCRAFT_SHUFFLE(T, a, b, 0, 2);
    }
}
template <typename T>
HANDCRAFT_INLINE Vec<T> interleave_high(Vec<T> a, Vec<T> b) {
    if constexpr (lanes<T> == 16) {
        return HANDCRAFT_SHUFFLE(T, a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
    } else if constexpr (lanes<T> == 8 && quad<T> == 4) {
        return HANDCRAFT_SHUFFLE(T, a, b, 2, 10, 3, 11, 6, 14, 7, 15);
    } else if constexpr (lanes<T> == 8) {
        return HANDCRAFT_SHUFFLE(T, a, b, 1, 9, 3, 11, 5, 13, 7, 15);
    } else if constexpr (lanes<T> == 4 && quad<T> == 4) {
        return HANDCRAFT_SHUFFLE(T, a, b, 2, 6, 3, 7);
    } else if constexpr (lanes<T> == 4) {
        return HANDCRAFT_SHUFFLE(T, a, b, 1, 5, 3, 7);
    } else {
        return HANDCRAFT_SHUFFLE(T, a, b, 1, 3);
    }
}

// The lower quads of a and b interleaved, and the upper ones. (A register of one quad has nothing to interleave.)
#if defined(__AVX512F__)
#define HANDCRAFT_LOW_QUADS 0, 1, 8, 9, 2, 3, 10, 11
#define HANDCRAFT_HIGH_QUADS 4, 5, 12, 13, 6, 7, 14, 15
#elif defined(__AVX__)
#define HANDCRAFT_LOW_QUADS 0, 1, 4, 5
#define HANDCRAFT_HIGH_QUADS 2, 3, 6, 7
#else
#define HANDCRAFT_LOW_QUADS 0, 1
#define HANDCRAFT_HIGH_QUADS 2, 3
#endif
template <typename T>
HANDCRAFT_INLINE Vec<T> interleave_quads_low(Vec<T> a, Vec<T> b) {
    return Vec<T>(HANDCRAFT_SHUFFLE(double, Vec<double>(a), Vec<double>(b), HANDCRAFT_LOW_QUADS));
}
template <typename T>
HANDCRAFT_INLINE Vec<T> interleave_quads_high(Vec<T> a, Vec<T> b) {
    return Vec<T>(HANDCRAFT_SHUFFLE(double, Vec<double>(a), Vec<double>(b), HANDCRAFT_HIGH_QUADS));
}

// A register of quads that lie `stride` numbers apart, and the way back.
template <typename T>
HANDCRAFT_INLINE Vec<T> load_quads(const T* p, int64_t stride) {
#if defined(__AVX__)
    const auto at = [&](int i) { return _mm_loadu_ps(reinterpret_cast<const float*>(p + i * stride)); };
    const __m256 low = _mm256_insertf128_ps(_mm256_castps128_ps256(at(0)), at(1), 1);
#if defined(__AVX512F__)
    const __m256 high = _mm256_insertf128_ps(_mm256_castps128_ps256(at(2)), at(3), 1);
    return Vec<T>(_mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1));
#else
    return Vec<T>(low);
#endif
#else
    return load<T>(p);
#endif
}
template <typename T>
HANDCRAFT_INLINE void store_quads(T* p, int64_t stride, Vec<T> x) {
#if defined(__AVX__)
    const auto put = [&](int i, __m128 quad) { _mm_storeu_ps(reinterpret_cast<float*>(p + i * stride), quad); };
#if defined(__AVX512F__)
    const __m512 all = __m512(x);
    put(0, _mm512_castps512_ps128(all));
    put(1, _mm512_extractf32x4_ps(all, 1));
    put(2, _mm512_extractf32x4_ps(all, 2));
    put(3, _mm512_extractf32x4_ps(all, 3));
#else
    put(0, _mm256_castps256_ps128(__m256(x)));
    put(1, _mm256_extractf128_ps(__m256(x), 1));
#endif
#else
    store<T>(p, x);
#endif
}

// Rows become columns in each place of a quad. A round moves the highest bit of a row's number to the lowest bit of a
// lane's.
template <typename T>
HANDCRAFT_INLINE void transpose_quads(Vec<T> (&rows)[quad<T>]) {
    constexpr int half = quad<T> / 2;
#pragma GCC unroll 2
    for (int round = half; round > 0; round /= 2) {
        Vec<T> next[quad<T>];
#pragma GCC unroll 2
        for (int i = 0; i < half; ++i) {
            next[2 * i] = interleave_low<T>(rows[i], rows[i + half]);
            next[2 * i + 1] = interleave_high<T>(rows[i], rows[i + half]);
        }
#pragma GCC unroll 4
        for (int i = 0; i < quad<T>; ++i) rows[i] = next[i];
    }
}

// Lane i: the sum over the lanes of the i-th of `lanes` registers that lie one behind the other.
template <typename T>
HANDCRAFT_INLINE Vec<T> lane_sums(const T* registers) {
    // Each round adds the halves of two rows into one row, first within quads. Row i ends in the quad that is its low
    // bits, so that row takes the register which belongs there.
    Vec<T> rows[lanes<T>];
#pragma GCC unroll 16
    for (int i = 0; i < lanes<T>; ++i) rows[i] = load<T>(registers + (i % quads * quad<T> + i / quads) * lanes<T>);
#pragma GCC unroll 2
    for (int half = lanes<T> / 2; half >= quads; half /= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < half; ++i) {
            rows[i] = interleave_low<T>(rows[i], rows[i + half]) + interleave_high<T>(rows[i], rows[i + half]);
        }
    }
#pragma GCC unroll 2
    for (int half = quads / 2; half > 0; half /= 2) {
#pragma GCC unroll 2
        for (int i = 0; i < half; ++i) {
            const Vec<T> a = rows[i], b = rows[i + half];
            rows[i] = interleave_quads_low<T>(a, b) + interleave_quads_high<T>(a, b);
        }
    }
    return rows[0];
}

template <typename T>
void clear(T* numbers, int64_t count) {
    __builtin_memset(numbers, 0, size_t(count) * sizeof(T));
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

// out[i] += the sum of the lanes of the i-th of `count` registers, memory for a multiple of the lanes of them.
template <typename T>
void add_lane_sums(const T* registers, int64_t count, T* out) {
    for (int64_t i = 0; i < count; i += lanes<T>) {
        const int n = int(count - i < lanes<T> ? count - i : lanes<T>);
        store_first<T>(out + i, load_first<T>(out + i, n) + lane_sums<T>(registers + i * lanes<T>), n);
    }
}

// Asks for a tile that load_tile will read later, to be brought into the second cache meanwhile.
template <typename S>
HANDCRAFT_INLINE void prefetch_tile(const S* x, int64_t channel_stride, int64_t step_stride, int count, int64_t steps) {
    constexpr int64_t line = 64 / sizeof(S);
    const bool by_channel = step_stride == 1;
    const int64_t rows = by_channel ? count : steps, size = by_channel ? steps : count;
    const int64_t stride = by_channel ? channel_stride : step_stride;
    for (int64_t row = 0; row < rows; ++row) {
        for (int64_t i = 0; i < size; i += line) __builtin_prefetch(x + row * stride + i, 0, 2);
    }
}

// tile[t * lanes + c] = x[c * channel_stride + t * step_stride] for c < count; missing channels are 0.
template <typename S>
void load_tile(const S* x, int64_t channel_stride, int64_t step_stride, int count, int64_t steps, Compute<S>* tile) {
    using T = Compute<S>;
    constexpr int width = lanes<T>;
    if (channel_stride == 1) {
        for (int64_t t = 0; t < steps; ++t) store<T>(tile + t * width, load_first<S>(x + t * step_stride, count));
    } else if (step_stride != 1 || count < width || steps < quad<T>) {
        for (int64_t t = 0; t < steps; ++t) {
            for (int c = 0; c < width; ++c) {
                tile[t * width + c] = c < count ? to_compute(x[c * channel_stride + t * step_stride]) : T(0);
            }
        }
    } else if constexpr (same<S, T>) {
        for (int64_t next = 0; next < steps; next += quad<T>) {
            const int64_t t = next + quad<T> <= steps ? next : steps - quad<T>;  // the last ones overlap
            Vec<T> rows[quad<T>];
#pragma GCC unroll 4
            for (int i = 0; i < quad<T>; ++i) {
                rows[i] = load_quads<T>(x + i * channel_stride + t, quad<T> * channel_stride);
            }
            transpose_quads<T>(rows);
#pragma GCC unroll 4
            for (int i = 0; i < quad<T>; ++i) store<T>(tile + (t + i) * width, rows[i]);
        }
    } else {
        T wide[width * width];
        for (int64_t t = 0; t < steps; t += width) {
            const int n = steps - t < width ? int(steps - t) : width;
            for (int c = 0; c < width; ++c) store<T>(wide + c * width, load_first<S>(x + c * channel_stride + t, n));
            load_tile<T>(wide, width, 1, width, n, tile + t * width);
        }
    }
}

// The way back; missing channels are not written.
template <typename S>
void store_tile(S* x, int64_t channel_stride, int64_t step_stride, int count, int64_t steps, const Compute<S>* tile) {
    using T = Compute<S>;
    constexpr int width = lanes<T>;
    if (channel_stride == 1) {
        for (int64_t t = 0; t < steps; ++t) store_first<S>(x + t * step_stride, load<T>(tile + t * width), count);
    } else if (step_stride != 1 || count < width || steps < quad<T>) {
        for (int c = 0; c < count; ++c) {
            for (int64_t t = 0; t < steps; ++t) {
                x[c * channel_stride + t * step_stride] = from_compute<S>(tile[t * width + c]);
            }
        }
    } else if constexpr (same<S, T>) {
        for (int64_t next = 0; next < steps; next += quad<T>) {
            const int64_t t = next + quad<T> <= steps ? next : steps - quad<T>;
            Vec<T> rows[quad<T>];
#pragma GCC unroll 4
            for (int i = 0; i < quad<T>; ++i) rows[i] = load<T>(tile + (t + i) * width);
            transpose_quads<T>(rows);
#pragma GCC unroll 4
            for (int i = 0; i < quad<T>; ++i) {
                store_quads<T>(x + i * channel_stride + t, quad<T> * channel_stride, rows[i]);
            }
        }
    } else {
        T wide[width * width];
        for (int64_t t = 0; t < steps; t += width) {
            const int n = steps - t < width ? int(steps - t) : width;
            store_tile<T>(wide, width, 1, width, n, tile + t * width);
            for (int c = 0; c < width; ++c) store_first<S>(x + c * channel_stride + t, load<T>(wide + c * width), n);
        }
    }
}

}  // namespace handcraft::HANDCRAFT_ISA
