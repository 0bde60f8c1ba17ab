// Vectors of one register, in the compiler's own vector types: the same source is AVX-512, AVX2, SSE2 or NEON code.
//
// Included by sources compiled once for each instruction set; HANDCRAFT_ISA names the namespace. a * b + c on these types
// becomes a fused multiply-add where the processor has one (-ffp-contract=fast).
#pragma once

#include <cstddef>
#include <cstdint>

// GCC 12 warns of what its own header leaves undefined on purpose.
#if defined(__AVX__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

#ifndef HANDCRAFT_ISA
#define HANDCRAFT_ISA baseline
#endif

#define HANDCRAFT_INLINE inline __attribute__((always_inline))

namespace handcraft::HANDCRAFT_ISA {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
constexpr int vector_registers = 32;
#elif defined(__AVX__)
constexpr int vector_bytes = 32;
constexpr int vector_registers = 16;
#elif defined(__aarch64__)
constexpr int vector_bytes = 16;
constexpr int vector_registers = 32;
#else
constexpr int vector_bytes = 16;
constexpr int vector_registers = 16;
#endif

struct bf16 {
    uint16_t bits;
};
struct f16 {
    uint16_t bits;
};

namespace detail {
template <typename T>
struct Types;
template <>
struct Types<float> {
    typedef float vector __attribute__((vector_size(vector_bytes)));
    typedef int32_t mask __attribute__((vector_size(vector_bytes)));
    typedef float loose __attribute__((vector_size(vector_bytes), aligned(4), may_alias));
    typedef int32_t integer;
};
template <>
struct Types<double> {
    typedef double vector __attribute__((vector_size(vector_bytes)));
    typedef int64_t mask __attribute__((vector_size(vector_bytes)));
    typedef double loose __attribute__((vector_size(vector_bytes), aligned(8), may_alias));
    typedef int64_t integer;
};
// As many 16-bit numbers as a register has floats.
typedef uint16_t Half __attribute__((vector_size(vector_bytes / 2)));
typedef uint16_t LooseHalf __attribute__((vector_size(vector_bytes / 2), aligned(2), may_alias));
}  // namespace detail

// A register of T (float or double), and one of integers of T's size, as comparisons give.
template <typename T>
using Vec = typename detail::Types<T>::vector;
template <typename T>
using Mask = typename detail::Types<T>::mask;

template <typename T>
constexpr int lanes = vector_bytes / int(sizeof(T));

// What an op of activation type T computes in.
template <typename T>
struct ComputeOf {
    using type = float;
};
template <>
struct ComputeOf<double> {
    using type = double;
};
template <typename T>
using Compute = typename ComputeOf<T>::type;

template <typename T>
HANDCRAFT_INLINE Vec<T> broadcast(T x) {
    return x - Vec<T>{};
}

template <typename T>
HANDCRAFT_INLINE Vec<T> load(const T* p) {
    return *reinterpret_cast<const typename detail::Types<T>::loose*>(p);
}

template <typename T>
HANDCRAFT_INLINE void store(T* p, Vec<T> x) {
    *reinterpret_cast<typename detail::Types<T>::loose*>(p) = x;
}

// mask ? a : b, lane by lane.
template <typename T>
HANDCRAFT_INLINE Vec<T> select(Mask<T> mask, Vec<T> a, Vec<T> b) {
    return mask ? a : b;
}

template <typename T>
HANDCRAFT_INLINE T sum(Vec<T> x) {
    T total = 0;
    for (int i = 0; i < lanes<T>; ++i) total += x[i];
    return total;
}

// One number of any storage type, in the type it is computed with. NaN stays NaN; rounding is to nearest even.
HANDCRAFT_INLINE float to_compute(float x) { return x; }
HANDCRAFT_INLINE double to_compute(double x) { return x; }
HANDCRAFT_INLINE float to_compute(bf16 x) {
    uint32_t bits = uint32_t(x.bits) << 16;
    float value;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}
HANDCRAFT_INLINE float to_compute(f16 x) {
    uint32_t sign = uint32_t(x.bits & 0x8000) << 16, rest = x.bits & 0x7fff, bits;
    float value;
    if (rest >= 0x7c00) {  // infinity and NaN
        bits = sign | 0x7f800000 | (rest & 0x3ff) << 13;
        __builtin_memcpy(&value, &bits, 4);
        return value;
    }
    bits = rest << 13;  // the exponent is 112 too small, which one product mends for subnormal numbers as well
    __builtin_memcpy(&value, &bits, 4);
    value *= 0x1p112f;
    __builtin_memcpy(&bits, &value, 4);
    bits |= sign;
    __builtin_memcpy(&value, &bits, 4);
    return value;
}

template <typename T>
HANDCRAFT_INLINE T from_compute(Compute<T> x) {
    return x;
}
template <>
HANDCRAFT_INLINE bf16 from_compute<bf16>(float x) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, 4);
    if (x != x) return bf16{uint16_t((bits >> 16) | 0x40)};
    return bf16{uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}
template <>
HANDCRAFT_INLINE f16 from_compute<f16>(float x) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, 4);
    const uint16_t sign = uint16_t((bits >> 16) & 0x8000);
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return f16{uint16_t(sign | 0x7e00 | ((bits >> 13) & 0x3ff))};
    if (bits >= 0x477ff000) return f16{uint16_t(sign | 0x7c00)};  // rounds to more than 65504
    if (bits < 0x38800000) {                                       // subnormal: the adder rounds
        float value;
        __builtin_memcpy(&value, &bits, 4);
        value += 0.5f;
        __builtin_memcpy(&bits, &value, 4);
        return f16{uint16_t(sign | (bits - 0x3f000000))};
    }
    bits += 0xfff + ((bits >> 13) & 1);
    return f16{uint16_t(sign | ((bits - 0x38000000) >> 13))};
}

// lanes<Compute<S>> numbers of storage type S, in the type they are computed with.
template <typename S>
HANDCRAFT_INLINE Vec<Compute<S>> load_as_compute(const S* p) {
    return load<S>(p);
}
template <>
HANDCRAFT_INLINE Vec<float> load_as_compute<bf16>(const bf16* p) {
    detail::Half bits = *reinterpret_cast<const detail::LooseHalf*>(p);
    const Mask<float> wide = __builtin_convertvector(bits, Mask<float>) << 16;
    Vec<float> value;
    __builtin_memcpy(&value, &wide, sizeof(value));
    return value;
}
template <>
HANDCRAFT_INLINE Vec<float> load_as_compute<f16>(const f16* p) {
#if defined(__AVX512F__)
    return _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__)
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
    Vec<float> value;
    for (int i = 0; i < lanes<float>; ++i) value[i] = to_compute(p[i]);
    return value;
#endif
}

// The upper halves of the lanes, rounded to nearest even as bf16, in the upper halves again; NaN stays NaN.
HANDCRAFT_INLINE Mask<float> round_to_bf16(Vec<float> x) {
    Mask<float> bits;
    __builtin_memcpy(&bits, &x, sizeof(bits));
    const Mask<float> rounded = bits + 0x7fff + ((bits >> 16) & 1);
    return x != x ? bits | 0x400000 : rounded;
}

template <typename S>
HANDCRAFT_INLINE void store_from_compute(S* p, Vec<Compute<S>> x) {
    store<S>(p, x);
}
template <>
HANDCRAFT_INLINE void store_from_compute<bf16>(bf16* p, Vec<float> x) {
    *reinterpret_cast<detail::LooseHalf*>(p) = __builtin_convertvector(round_to_bf16(x) >> 16, detail::Half);
}
template <>
HANDCRAFT_INLINE void store_from_compute<f16>(f16* p, Vec<float> x) {
#if defined(__AVX512F__)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_maskz_cvtps_ph(0xffff, x, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
#else
    for (int i = 0; i < lanes<float>; ++i) p[i] = from_compute<f16>(x[i]);
#endif
}

// `count` numbers from one type to another, one of which is what the other is computed in.
template <typename S>
HANDCRAFT_INLINE void convert(const S* from, Compute<S>* to, int64_t count) {
    constexpr int width = lanes<Compute<S>>;
    int64_t i = 0;
    for (; i + width <= count; i += width) store<Compute<S>>(to + i, load_as_compute<S>(from + i));
    for (; i < count; ++i) to[i] = to_compute(from[i]);
}
template <typename S>
HANDCRAFT_INLINE void convert_back(const Compute<S>* from, S* to, int64_t count) {
    constexpr int width = lanes<Compute<S>>;
    int64_t i = 0;
    for (; i + width <= count; i += width) store_from_compute<S>(to + i, load<Compute<S>>(from + i));
    for (; i < count; ++i) to[i] = from_compute<S>(from[i]);
}

}  // namespace handcraft::HANDCRAFT_ISA
