// exp, log, sin and cos on vectors of float and double, and what is made of them.
//
// Range reduction as in Cody and Waite (1980); the polynomials are Taylor's, short enough for the reduced range. Errors
// against the exact value, measured by tests/ops/test_native.py: 2 units in the last place at most where not said
// otherwise.
#pragma once

#include "simd.h"

namespace handcraft::HANDCRAFT_ISA {

namespace detail {
template <typename T>
struct Float;
template <>
struct Float<float> {
    static constexpr float shift = 0x1.8p23f;  // x + shift - shift rounds x to an integer
    static constexpr float log2e = 1.44269504088896341f;
    static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
    static constexpr float highest = 100.f, lowest = -105.f;  // exp is infinite and 0 there
    static constexpr int mantissa = 23, bias = 127;
};
template <>
struct Float<double> {
    static constexpr double shift = 0x1.8p52;
    static constexpr double log2e = 1.44269504088896340736;
    static constexpr double ln2_high = 0x1.62e42fefp-1, ln2_low = 0x1.473de6af278edp-34;
    static constexpr double highest = 720., lowest = -747.;
    static constexpr int mantissa = 52, bias = 1023;
};

template <typename T, typename To, typename From>
HANDCRAFT_INLINE To bits(From x) {
    static_assert(sizeof(To) == sizeof(From));
    To y;
    __builtin_memcpy(&y, &x, sizeof(To));
    return y;
}

// 2^n for integers n (as T) in the range of normal numbers.
template <typename T>
HANDCRAFT_INLINE Vec<T> power_of_two(Vec<T> n) {
    Mask<T> i = __builtin_convertvector(n, Mask<T>);
    return bits<T, Vec<T>>((i + Float<T>::bias) << Float<T>::mantissa);
}

// x to the nearest integer, for |x| < 2^22 (floats) or 2^51 (doubles).
template <typename T>
HANDCRAFT_INLINE Vec<T> nearest(Vec<T> x) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) return _mm512_roundscale_ps(x, 8);
    else return _mm512_roundscale_pd(x, 8);
#else
    return (x + Float<T>::shift) - Float<T>::shift;
#endif
}

// p 2^n for integers n (as T) and p in [1/2, 2], subnormal numbers and infinity included.
template <typename T>
HANDCRAFT_INLINE Vec<T> scale(Vec<T> p, Vec<T> n) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) return _mm512_scalef_ps(p, n);
    else return _mm512_scalef_pd(p, n);
#else
    // two factors, so that subnormal results and the largest ones are reached
    Vec<T> half = nearest<T>(n * T(0.5));
    return p * power_of_two<T>(half) * power_of_two<T>(n - half);
#endif
}
}  // namespace detail

template <typename T>
HANDCRAFT_INLINE Vec<T> minimum(Vec<T> a, Vec<T> b) {
    return a < b ? a : b;
}
template <typename T>
HANDCRAFT_INLINE Vec<T> maximum(Vec<T> a, Vec<T> b) {
    return a > b ? a : b;
}

template <typename T>
HANDCRAFT_INLINE Vec<T> square_root(Vec<T> x) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) return _mm512_sqrt_ps(x);
    else return _mm512_sqrt_pd(x);
#elif defined(__AVX__)
    if constexpr (sizeof(T) == 4) return _mm256_sqrt_ps(x);
    else return _mm256_sqrt_pd(x);
#else
    for (int i = 0; i < lanes<T>; ++i) {
        if constexpr (sizeof(T) == 4) x[i] = __builtin_sqrtf(x[i]);
        else x[i] = __builtin_sqrt(x[i]);
    }
    return x;
#endif
}

template <typename T>
HANDCRAFT_INLINE T reciprocal_root(T x) {
    if constexpr (sizeof(T) == 4) {
        return 1 / __builtin_sqrtf(x);
    } else {
        return 1 / __builtin_sqrt(x);
    }
}

namespace detail {
// exp(r) for |r| <= ln(2) / 2.
template <typename T>
HANDCRAFT_INLINE Vec<T> exp_reduced(Vec<T> r) {
    Vec<T> p;
    if constexpr (sizeof(T) == 4) {
        p = broadcast<T>(1.f / 5040);
        p = p * r + 1.f / 720;
        p = p * r + 1.f / 120;
    } else {
        p = broadcast<T>(1. / 6227020800);
        p = p * r + 1. / 479001600;
        p = p * r + 1. / 39916800;
        p = p * r + 1. / 3628800;
        p = p * r + 1. / 362880;
        p = p * r + 1. / 40320;
        p = p * r + 1. / 5040;
        p = p * r + 1. / 720;
        p = p * r + 1. / 120;
    }
    p = p * r + T(1) / 24;
    p = p * r + T(1) / 6;
    p = p * r + T(0.5);
    p = p * r + T(1);
    return p * r + T(1);
}

// x, but not beyond what `scale` takes; NaN stays NaN.
template <typename T>
HANDCRAFT_INLINE Vec<T> between(Vec<T> x, T bottom, T top) {
    const Vec<T> below = x > top ? broadcast<T>(top) : x;
    return below < bottom ? broadcast<T>(bottom) : below;
}
}  // namespace detail

// exp(x); 0 below the smallest subnormal number, infinity above the largest number, NaN for NaN.
template <typename T>
HANDCRAFT_INLINE Vec<T> exp(Vec<T> x) {
    using F = detail::Float<T>;
    x = detail::between<T>(x, F::lowest, F::highest);
    const Vec<T> n = detail::nearest<T>(x * F::log2e);
    Vec<T> r = x - n * F::ln2_high;
    r = r - n * F::ln2_low;
    return detail::scale<T>(detail::exp_reduced<T>(r), n);
}

// 2^x, the cheapest exponential. For floats a polynomial of degree 5, exactly 1 at 0 and its largest relative error on
// [-1/2, 1/2] the least possible one, 9.1e-8 (Remez' algorithm). Infinity and NaN as exp has them; a float below the
// smallest normal number may come out as 0.
template <typename T>
HANDCRAFT_INLINE Vec<T> exp2(Vec<T> x) {
    if constexpr (sizeof(T) == 8) {
        x = detail::between<T>(x, T(-1080), T(1080));
        const Vec<T> n = detail::nearest<T>(x);
        return detail::scale<T>(detail::exp_reduced<T>((x - n) * T(0.69314718055994530942)), n);
    } else {
#if defined(__AVX512F__)
        const Vec<T> n = _mm512_roundscale_ps(x, 8);
        const Vec<T> r = _mm512_reduce_ps(x, 8);  // x - n, and 0 for an infinity
#else
        const T shift = detail::Float<T>::shift;
        const Vec<T> shifted = x + shift, r = x - (shifted - shift);
#endif
        Vec<T> p = broadcast<T>(0x1.5bba14p-10f);
        p = p * r + 0x1.3cea88p-7f;
        p = p * r + 0x1.c6b752p-5f;
        p = p * r + 0x1.ebf9bcp-3f;
        p = p * r + 0x1.62e42ap-1f;
        p = p * r + 1.f;
#if defined(__AVX512F__)
        return _mm512_scalef_ps(p, n);
#else
        // the integer sits in the lowest bits of `shifted`: moved to the exponent's place and added there
        typedef uint32_t Unsigned __attribute__((vector_size(vector_bytes)));  // may wrap, where y is not used
        Vec<T> y = detail::bits<T, Vec<T>>(detail::bits<T, Unsigned>(p) +
                                           (detail::bits<T, Unsigned>(shifted) << detail::Float<T>::mantissa));
        y = x < -126.f ? Vec<T>{} : y;
        return x >= 128.f ? broadcast<T>(__builtin_inff()) : y;
#endif
    }
}

// log(x) for normal x > 0; used on sums like 1 + exp(y) and on uniform numbers.
template <typename T>
HANDCRAFT_INLINE Vec<T> log(Vec<T> x) {
    using F = detail::Float<T>;
    Mask<T> i = detail::bits<T, Mask<T>>(x);
    // exponent such that the mantissa lies in [sqrt(1/2), sqrt(2))
    const Mask<T> offset = detail::bits<T, Mask<T>>(broadcast<T>(T(0.70710678118654752440)));
    Mask<T> n = (i - offset) >> F::mantissa;
    Vec<T> m = detail::bits<T, Vec<T>>(i - (n << F::mantissa));
    Vec<T> e = __builtin_convertvector(n, Vec<T>);
    // log m = 2 atanh(s), s = (m - 1) / (m + 1), |s| < 0.172
    Vec<T> f = m - T(1);
    Vec<T> s = f / (m + T(1));
    Vec<T> z = s * s;
    Vec<T> p;
    if constexpr (sizeof(T) == 4) {
        p = broadcast<T>(T(2) / 9);
    } else {
        p = broadcast<T>(T(2) / 21);
        p = p * z + T(2) / 19;
        p = p * z + T(2) / 17;
        p = p * z + T(2) / 15;
        p = p * z + T(2) / 13;
        p = p * z + T(2) / 11;
        p = p * z + T(2) / 9;
    }
    p = p * z + T(2) / 7;
    p = p * z + T(2) / 5;
    p = p * z + T(2) / 3;
    // 2 s = f - s f, which keeps the leading term exact for m near 1
    Vec<T> tail = s * (z * p - f);
    return e * F::ln2_high + (f + (tail + e * F::ln2_low));
}

// sin and cos of 2 pi x for x in [0, 1].
template <typename T>
HANDCRAFT_INLINE void sincos_turns(Vec<T> x, Vec<T>& sine, Vec<T>& cosine) {
    using F = detail::Float<T>;
    Vec<T> quarter = (x * T(4) + F::shift) - F::shift;  // 0..4
    Vec<T> r = (x - quarter * T(0.25)) * T(6.28318530717958647692);  // |r| <= pi/4
    Vec<T> z = r * r;
    Vec<T> s, c;
    if constexpr (sizeof(T) == 4) {
        s = broadcast<T>(1.f / 362880);
        c = broadcast<T>(-1.f / 3628800);
        c = c * z + 1.f / 40320;
    } else {
        s = broadcast<T>(1. / 355687428096000);
        s = s * z - 1. / 1307674368000;
        s = s * z + 1. / 6227020800;
        s = s * z - 1. / 39916800;
        s = s * z + 1. / 362880;
        c = broadcast<T>(-1. / 6402373705728000);
        c = c * z + 1. / 20922789888000;
        c = c * z - 1. / 87178291200;
        c = c * z + 1. / 479001600;
        c = c * z - 1. / 3628800;
        c = c * z + 1. / 40320;
    }
    s = s * z - T(1) / 5040;
    s = s * z + T(1) / 120;
    s = s * z - T(1) / 6;
    s = s * z * r + r;
    c = c * z - T(1) / 720;
    c = c * z + T(1) / 24;
    c = c * z - T(0.5);
    c = c * z + T(1);
    Mask<T> q = __builtin_convertvector(quarter, Mask<T>);
    Mask<T> odd = (q & 1) != 0;
    Vec<T> a = odd ? c : s, b = odd ? s : c;
    sine = (q & 2) != 0 ? -a : a;
    cosine = ((q + 1) & 2) != 0 ? -b : b;
}

// 1 / (1 + exp(-x))
namespace detail {
// 1 / x for x in [1, 4].
template <typename T>
HANDCRAFT_INLINE Vec<T> reciprocal(Vec<T> x) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) {  // one step of Newton's after 14 bits: four times as fast as the division
        const Vec<T> y = _mm512_rcp14_ps(x);
        return y + y * (T(1) - x * y);
    }
#endif
    return T(1) / x;
}
}  // namespace detail

template <typename T>
HANDCRAFT_INLINE Vec<T> sigmoid(Vec<T> x) {
    const Vec<T> e = exp<T>(x < T(0) ? x : -x), y = detail::reciprocal<T>(e + T(1));
    return x < T(0) ? e * y : y;
}

template <typename T>
HANDCRAFT_INLINE Vec<T> silu(Vec<T> x) {
    return x * sigmoid<T>(x);
}

// log(1 + exp(x)), without overflow and without loss for very negative x.
template <typename T>
HANDCRAFT_INLINE Vec<T> softplus(Vec<T> x) {
    // max(x, 0) + log(1 + e), e = exp(-|x|) <= 1; log(1 + e) = 2 atanh(s), s = e / (2 + e) <= 1/3
    const Vec<T> e = exp<T>(x < T(0) ? x : -x);
    const Vec<T> s = e * detail::reciprocal<T>(e + T(2)), z = s * s;
    Vec<T> p;
    if constexpr (sizeof(T) == 4) {
        p = broadcast<T>(T(2) / 13);
    } else {
        p = broadcast<T>(T(2) / 31);
        p = p * z + T(2) / 29;
        p = p * z + T(2) / 27;
        p = p * z + T(2) / 25;
        p = p * z + T(2) / 23;
        p = p * z + T(2) / 21;
        p = p * z + T(2) / 19;
        p = p * z + T(2) / 17;
        p = p * z + T(2) / 15;
        p = p * z + T(2) / 13;
    }
    p = p * z + T(2) / 11;
    p = p * z + T(2) / 9;
    p = p * z + T(2) / 7;
    p = p * z + T(2) / 5;
    p = p * z + T(2) / 3;
    const Vec<T> positive = x < T(0) ? Vec<T>{} : x;
    return positive + (s * z * p + s * T(2));
}

}  // namespace handcraft::HANDCRAFT_ISA
