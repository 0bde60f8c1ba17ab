// What the CUDA kernels of the scan need of the device: number formats, functions, shuffles. No includes, so that the
// run-time compiler takes this file as it is.
//
// The same kernels also compile as plain C++ and run on a processor, one coroutine a thread: csrc/tests/emulated.h,
// which comes first then, defines CUDA's words. exp2 and 1/x are exact there and off by an ulp or two on a GPU.
#pragma once

#if !defined(__CUDACC__) && !defined(HANDCRAFT_EMULATED)
#error "for nvcc, NVRTC, or the emulation in csrc/tests/emulated.h"
#endif
#define HANDCRAFT_DEVICE __device__ __forceinline__
#ifndef HANDCRAFT_EMULATED
#define HANDCRAFT_SHARED(name) extern __shared__ __align__(16) float name[]  // as large as the launch says
#endif

namespace handcraft::cuda {

using Size = long long;  // int64_t, without the header

// ----------------------------------------------------------------------------------------------------------- formats

struct bf16 {
    unsigned short bits;
};
struct f16 {
    unsigned short bits;
};

HANDCRAFT_DEVICE float widen(float x) {
    return x;
}
HANDCRAFT_DEVICE float widen(bf16 x) {
    return __uint_as_float(unsigned(x.bits) << 16);
}
HANDCRAFT_DEVICE float widen(f16 x) {
#ifdef HANDCRAFT_EMULATED
    return emulated::from_half(x.bits);
#else
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
    return wide;
#endif
}

template <typename T>
HANDCRAFT_DEVICE T narrow(float x);  // rounds to nearest, ties to even
template <>
HANDCRAFT_DEVICE float narrow<float>(float x) {
    return x;
}
template <>
HANDCRAFT_DEVICE bf16 narrow<bf16>(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
#else
    const unsigned bits = __float_as_uint(x);
    if (x != x) return {0x7fff};
    return {(unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
#endif
}
template <>
HANDCRAFT_DEVICE f16 narrow<f16>(float x) {
#ifdef HANDCRAFT_EMULATED
    return {emulated::to_half(x)};
#else
    f16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
#endif
}

// 16 bytes of memory, moved by one instruction.
template <typename T>
struct Piece {
    static constexpr int count = 16 / sizeof(T);
    uint4 words;
    HANDCRAFT_DEVICE T get(int i) const {
        const unsigned word[4] = {words.x, words.y, words.z, words.w};
        if constexpr (sizeof(T) == 4) {
            return __uint_as_float(word[i]);
        } else {
            return {(unsigned short)(word[i / 2] >> 16 * (i % 2))};
        }
    }
    template <class Get>
    static HANDCRAFT_DEVICE Piece of(Get get) {  // get(i) for i in order
        unsigned word[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if constexpr (sizeof(T) == 4) {
                word[i] = __float_as_uint(get(i));
            } else {
                const T low = get(2 * i), high = get(2 * i + 1);
                word[i] = low.bits | unsigned(high.bits) << 16;
            }
        }
        return {{word[0], word[1], word[2], word[3]}};
    }
};

// N numbers from shared memory, aligned to their size together, in one instruction.
template <int N, typename E>
HANDCRAFT_DEVICE void fetch(float (&x)[N], const E* from) {
    if constexpr (sizeof(E) == 2) {
        static_assert(N == 4);
        const uint2 v = *reinterpret_cast<const uint2*>(from);
        x[0] = widen(E{(unsigned short)v.x}), x[1] = widen(E{(unsigned short)(v.x >> 16)});
        x[2] = widen(E{(unsigned short)v.y}), x[3] = widen(E{(unsigned short)(v.y >> 16)});
    } else if constexpr (N == 4) {
        const float4 v = *reinterpret_cast<const float4*>(from);
        x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
    } else if constexpr (N == 2) {
        const float2 v = *reinterpret_cast<const float2*>(from);
        x[0] = v.x, x[1] = v.y;
    } else {
        static_assert(N == 1);
        x[0] = *from;
    }
}
template <int N>
HANDCRAFT_DEVICE void put(float* to, const float (&x)[N]) {
    if constexpr (N == 4) {
        *reinterpret_cast<float4*>(to) = {x[0], x[1], x[2], x[3]};
    } else if constexpr (N == 2) {
        *reinterpret_cast<float2*>(to) = {x[0], x[1]};
    } else {
        static_assert(N == 1);
        *to = x[0];
    }
}

// --------------------------------------------------------------------------------------------------------- functions

// What scan.h asks for. The special-function unit gives exp2 and 1/x to about 1 and 2 ulp.
struct Math {
    static HANDCRAFT_DEVICE float exp2(float x) {
#ifdef HANDCRAFT_EMULATED
        return emulated::exp2(x);
#else
        float y;
        asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
        return y;
#endif
    }

    static HANDCRAFT_DEVICE float reciprocal(float x) {
#ifdef HANDCRAFT_EMULATED
        return 1 / x;
#else
        float y;
        asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
        return y;
#endif
    }

    // exp(x); the product with log2(e) carries its rounding error along, which would cost |x| ulp.
    static HANDCRAFT_DEVICE float exp(float x) {
        constexpr float high = 1.44269504f, low = 1.92596299e-8f, ln2 = 0.693147181f;  // high + low = log2(e)
        const float product = x * high;
        const float rest = fmaf(x, low, fmaf(x, high, -product));
        const float y = exp2(product);
        return product < -126 || product > 126 ? y : fmaf(y * ln2, rest, y);
    }

    static HANDCRAFT_DEVICE float sigmoid(float x) { return reciprocal(1 + exp(-x)); }

    // log(1 + exp(x)) = max(x, 0) + log(1 + e) with e = exp(-|x|), and log(1 + e) = 2 artanh(e / (2 + e)), whose series
    // in f = e / (2 + e) <= 1/3 is cut where the next term is below 2e-8 of the first.
    static HANDCRAFT_DEVICE float softplus(float x) {
        const float e = exp(-fabsf(x));
        const float f = e * reciprocal(2 + e), square = f * f;
        float series = 1.f / 13;
        series = fmaf(series, square, 1.f / 11);
        series = fmaf(series, square, 1.f / 9);
        series = fmaf(series, square, 1.f / 7);
        series = fmaf(series, square, 1.f / 5);
        series = fmaf(series, square, 1.f / 3);
        const float positive = x > 0 ? x : 0;
        return positive + 2 * fmaf(f * square, series, f);
    }

    // Derivative of softplus from its value y: sigmoid(x) = 1 - exp(-softplus(x)). Below 1/4 by the series of expm1,
    // cut where the next term is below 5e-8 of the first; above, the subtraction loses less than 3 bits.
    static HANDCRAFT_DEVICE float softplus_slope(float y) {
        float series = 1 - y * (1.f / 6);
        series = fmaf(-y * (1.f / 5), series, 1);
        series = fmaf(-y * (1.f / 4), series, 1);
        series = fmaf(-y * (1.f / 3), series, 1);
        series = fmaf(-y * (1.f / 2), series, 1);
        return y < 0.25f ? y * series : 1 - exp(-y);
    }
};

// ---------------------------------------------------------------------------------------------------------- the warp

// Sums x[i] over the lanes that differ in bits LOW..HIGH of their number, and spreads the sums over these lanes: a lane
// keeps max(1, COUNT / lanes) of them in x[0], x[1], ..., which are those of x[first], x[first + 1], ...; returns
// first. COUNT - 1 shuffles instead of COUNT log2(lanes). With more lanes than numbers, lanes that differ in the lowest
// bits hold the same sums: `duplicate` below has those bits.
template <int HIGH, int LOW, int COUNT>
HANDCRAFT_DEVICE int spread_sum(float (&x)[COUNT], int lane) {
    int count = COUNT, first = 0;
#pragma unroll
    for (int bit = HIGH; bit >= LOW; bit /= 2) {
        if (count > 1) {
            count /= 2;
            const bool upper = lane & bit;
#pragma unroll
            for (int i = 0; i < count; ++i) {
                const float kept = upper ? x[i + count] : x[i], given = upper ? x[i] : x[i + count];
                x[i] = kept + __shfl_xor_sync(0xffffffffu, given, bit);
            }
            first += upper ? count : 0;
        } else {
            x[0] += __shfl_xor_sync(0xffffffffu, x[0], bit);
        }
    }
    return first;
}

// The bits of `spread_sum` in which lanes hold the same: lanes of numbers that were left over, times the lowest bit.
template <int HIGH, int LOW, int COUNT>
inline constexpr int duplicate = 2 * HIGH / LOW > COUNT ? (2 * HIGH / LOW / COUNT - 1) * LOW : 0;

}  // namespace handcraft::cuda
