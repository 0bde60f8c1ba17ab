// clip_windows: rows of frames gathered, or mixed from two, then turned, scaled and standardised while a window is in
// cache, so that its source is read once and what a model sees is written once.
#include "entry.h"
#include "tile.h"

namespace handcraft::HANDCRAFT_ISA {
namespace {

// frames (rows, landmarks * coordinates), first, second and weight (batch, width), turns (batch, 3), mean and std
// (landmarks * coordinates), out (batch, width, landmarks * coordinates), present (batch, width, landmarks). Without
// second a row of -1 is one of missing landmarks. weight goes with second, std with mean.
#define WINDOWS_FIELDS(POINTER, OPTIONAL, STRIDED, SIZE, REAL)                                                     \
    POINTER(const T, frames) POINTER(const int64_t, first) OPTIONAL(const int64_t, second)                         \
    OPTIONAL(const Compute<T>, weight) OPTIONAL(const Compute<T>, turns) OPTIONAL(const Compute<T>, mean)          \
    OPTIONAL(const Compute<T>, std) POINTER(Compute<T>, out) OPTIONAL(uint8_t, present) SIZE(batch) SIZE(width)    \
    SIZE(landmarks) SIZE(coordinates)
HANDCRAFT_ARGUMENTS(Windows, WINDOWS_FIELDS)

// body(d, n) for the numbers d to d + n of a row, a register at a time.
template <typename T, typename Body>
HANDCRAFT_INLINE void each_register(int64_t count, const Body& body) {
    int64_t d = 0;
    for (; d + lanes<T> <= count; d += lanes<T>) body(d, lanes<T>);
    if (d < count) body(d, int(count - d));
}

// Frame `at` of all windows as it is in the clips, or between two of their frames.
template <typename S>
void read_frame(const Windows<S>& a, int64_t at, Compute<S>* to) {
    using T = Compute<S>;
    const int64_t dim = a.landmarks * a.coordinates, first = a.first[at], second = a.second ? a.second[at] : first;
    if (first < 0) {
        for (int64_t d = 0; d < dim; ++d) to[d] = T(__builtin_nanf(""));
        return;
    }
    if (first == second) {
        convert<S>(a.frames + first * dim, to, dim);
        return;
    }
    // From the nearer one, so that it makes no difference which of both is called the first.
    const bool turned = a.weight[at] >= T(0.5);
    const S* const near = a.frames + (turned ? second : first) * dim;
    const S* const far = a.frames + (turned ? first : second) * dim;
    const T weight = turned ? T(1) - a.weight[at] : a.weight[at];
    each_register<T>(dim, [&](int64_t d, int n) __attribute__((always_inline)) {
        const Vec<T> one = load_first<S>(near + d, n), other = load_first<S>(far + d, n);
        const Vec<T> mixed = one + weight * (other - one);
        store_first<T>(to + d, select<T>(mixed == mixed, mixed, select<T>(one == one, one, other)), n);
    });
}

// One window's frames, and what each number of a row is turned with: own * itself + other * its neighbour, which is the
// next number where side is 1, the one before where it is -1, and itself where it is 0.
template <typename T>
struct Window {
    int64_t dim, stride;
    T *own, *other, *side, *frames;  // frames: (width, stride), with a register before and behind

    template <typename S>
    explicit Window(const Windows<S>& a) : dim(a.landmarks * a.coordinates) {
        stride = (dim + lanes<T> - 1) / lanes<T> * lanes<T>;
        own = static_cast<T*>(scratch(size_t((3 + a.width) * stride + 2 * lanes<T>) * sizeof(T)));
        other = own + stride;
        side = other + stride;
        frames = side + stride + lanes<T>;
        for (int64_t d = 0; d < stride; ++d) side[d] = T(d % a.coordinates == 0) - T(d % a.coordinates == 1);
    }

    void set_turn(const T* turn) const {
        for (int64_t d = 0; d < stride; ++d) {
            own[d] = side[d] == T(0) ? turn[2] : turn[0];
            other[d] = -side[d] * turn[1];
        }
    }

    // A register of columns at a time down all frames, so that what they are turned with stays in registers.
    template <typename S>
    void finish(const Windows<S>& a, T* out) const {
        each_register<T>(dim, [&](int64_t d, int n) __attribute__((always_inline)) {
            const Vec<T> zero{}, at = load<T>(side + d), mine = load<T>(own + d), beside = load<T>(other + d);
            const Vec<T> mean = a.mean ? load_first<T>(a.mean + d, n) : zero;
            const Vec<T> std = a.std ? load_first<T>(a.std + d, n) : zero;
            for (int64_t t = 0; t < a.width; ++t) {
                const T* const from = frames + t * stride + d;
                Vec<T> v = load<T>(from);
                if (a.turns) {
                    const Vec<T> before = select<T>(at < zero, load<T>(from - 1), v);
                    v = mine * v + beside * select<T>(at > zero, load<T>(from + 1), before);
                }
                if (a.mean) {
                    v = (v - mean) / std;
                    v = select<T>(v == v, v, zero);
                }
                store_first<T>(out + t * dim + d, v, n);
            }
        });
    }
};

template <typename S>
void clip_windows(const Windows<S>& given) {
    parallel_for(
        given.batch, 8,
        [](int64_t begin, int64_t end, void* context) {
            using T = Compute<S>;
            const Windows<S>& a = *static_cast<const Windows<S>*>(context);
            const Window<T> window(a);
            const bool as_it_is = a.turns == nullptr && a.mean == nullptr;
            for (int64_t b = begin; b < end; ++b) {
                T* const out = a.out + b * a.width * window.dim;
                if (a.turns) window.set_turn(a.turns + b * 3);
                for (int64_t t = 0; t < a.width; ++t) {
                    T* const frame = as_it_is ? out + t * window.dim : window.frames + t * window.stride;
                    read_frame<S>(a, b * a.width + t, frame);
                    uint8_t* const present = a.present ? a.present + (b * a.width + t) * a.landmarks : nullptr;
                    for (int64_t j = 0; present && j < a.landmarks; ++j) {
                        present[j] = frame[j * a.coordinates] == frame[j * a.coordinates];
                    }
                }
                if (!as_it_is) window.finish(a, out);
            }
        },
        const_cast<Windows<S>*>(&given));
}

constexpr Entry table[] = {
    HANDCRAFT_ENTRY("clip_windows_f32", Windows, float, clip_windows),
    HANDCRAFT_ENTRY("clip_windows_f64", Windows, double, clip_windows),
    HANDCRAFT_ENTRY("clip_windows_bf16", Windows, bf16, clip_windows),
    HANDCRAFT_ENTRY("clip_windows_f16", Windows, f16, clip_windows),
};

}  // namespace

extern const Entries clip_windows_entries{table, sizeof(table) / sizeof(table[0])};

}  // namespace handcraft::HANDCRAFT_ISA
