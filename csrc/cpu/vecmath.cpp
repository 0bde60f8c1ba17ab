// The functions of vecmath.h and the conversions of simd.h, one by one over an array: for their tests.
#include "vecmath.h"

#include "entry.h"

namespace handcraft::HANDCRAFT_ISA {
namespace {

#define VECMATH_FIELDS(POINTER, OPTIONAL, STRIDED, SIZE, REAL) POINTER(const T, x) POINTER(T, out) SIZE(function) SIZE(count)
HANDCRAFT_ARGUMENTS(Vecmath, VECMATH_FIELDS)

template <typename T>
Vec<T> apply(int64_t function, Vec<T> x) {
    Vec<T> sine, cosine;
    switch (function) {
        case 0: return exp<T>(x);
        case 1: return log<T>(x);
        case 2: return sigmoid<T>(x);
        case 3: return silu<T>(x);
        case 4: return softplus<T>(x);
        case 5: sincos_turns<T>(x, sine, cosine); return sine;
        case 6: sincos_turns<T>(x, sine, cosine); return cosine;
        default: return exp2<T>(x);
    }
}

template <typename T>
void vecmath(const Vecmath<T>& a) {
    for (int64_t i = 0; i < a.count; i += lanes<T>) {
        const int64_t n = a.count - i < lanes<T> ? a.count - i : lanes<T>;
        Vec<T> x = broadcast<T>(T(0.5));
        for (int64_t j = 0; j < n; ++j) x[j] = a.x[i + j];
        x = apply<T>(a.function, x);
        for (int64_t j = 0; j < n; ++j) a.out[i + j] = x[j];
    }
}

#define ROUND_FIELDS(POINTER, OPTIONAL, STRIDED, SIZE, REAL) POINTER(const float, x) POINTER(T, narrow) POINTER(float, out) SIZE(count)
HANDCRAFT_ARGUMENTS(Round, ROUND_FIELDS)

template <typename T>
void round_trip(const Round<T>& a) {
    for (int64_t i = 0; i < a.count; ++i) {
        a.narrow[i] = from_compute<T>(a.x[i]);
        a.out[i] = to_compute(a.narrow[i]);
    }
}

constexpr Entry table[] = {
    HANDCRAFT_ENTRY("vecmath_f32", Vecmath, float, vecmath),
    HANDCRAFT_ENTRY("vecmath_f64", Vecmath, double, vecmath),
    HANDCRAFT_ENTRY("round_trip_bf16", Round, bf16, round_trip),
    HANDCRAFT_ENTRY("round_trip_f16", Round, f16, round_trip),
};

}  // namespace

extern const Entries vecmath_entries{table, sizeof(table) / sizeof(table[0])};

}  // namespace handcraft::HANDCRAFT_ISA
