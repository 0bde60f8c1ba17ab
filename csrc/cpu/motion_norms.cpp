// motion_norms: for each frame of a clip the Euclidean norm over D of its error, and of the error's change since the
// frame before; and the gradient. A clip's errors and masks stay in cache, so that memory is read and written once.
//
//     e_m = seen_m ? prediction_m - target_m : 0,    norms[0][m] = |e_m|,
//     norms[1][m] = |seen_m and seen_{m-1} ? e_m - e_{m-1} : 0|,  0 for the first frame
#include "entry.h"
#include "tile.h"

namespace handcraft::HANDCRAFT_ISA {
namespace {

// seen (batch, frames, landmarks), norms (batch, 2, frames), everything else (batch, frames, landmarks * coordinates);
// each clip of the target contiguous, target_b apart.
#define MOTION_INPUTS(POINTER, STRIDED, SIZE)                                                                      \
    POINTER(const T, prediction) STRIDED(const T, target) SIZE(target_b) POINTER(const uint8_t, seen) SIZE(batch) \
    SIZE(frames) SIZE(landmarks) SIZE(coordinates)
#define FORWARD_FIELDS(POINTER, OPTIONAL, STRIDED, SIZE, REAL) MOTION_INPUTS(POINTER, STRIDED, SIZE) POINTER(T, norms)
HANDCRAFT_ARGUMENTS(Forward, FORWARD_FIELDS)

#define BACKWARD_FIELDS(POINTER, OPTIONAL, STRIDED, SIZE, REAL) \
    MOTION_INPUTS(POINTER, STRIDED, SIZE) POINTER(const T, dnorms) POINTER(T, dprediction)
HANDCRAFT_ARGUMENTS(Backward, BACKWARD_FIELDS)

// Rows of a clip, each padded to whole registers: the error (0 where not seen) and 1 where it is seen.
template <typename T>
struct Clip {
    int64_t row;
    T *error, *mask;

    template <typename P>
    explicit Clip(const P& p) : row((p.landmarks * p.coordinates + lanes<T> - 1) / lanes<T> * lanes<T>) {
        error = static_cast<T*>(scratch(size_t(2 * p.frames * row) * sizeof(T)));
        mask = error + p.frames * row;
    }

    template <typename P>
    void load_clip(const P& p, int64_t b) const {
        const int64_t dim = p.landmarks * p.coordinates;
        for (int64_t m = 0; m < p.frames; ++m) {
            const int64_t at = b * p.frames + m;
            const uint8_t* seen = p.seen + at * p.landmarks;
            const T *prediction = p.prediction + at * dim, *target = p.target + b * p.target_b + m * dim;
            T* place = mask + m * row;
            if (m > 0 && __builtin_memcmp(seen, seen - p.landmarks, size_t(p.landmarks)) == 0) {
                for (int64_t d = 0; d < row; d += lanes<T>) store<T>(place + d, load<T>(place - row + d));
            } else {
                for (int64_t j = 0; j < p.landmarks; ++j) {
                    for (int64_t c = 0; c < p.coordinates; ++c) *place++ = T(seen[j] != 0);
                }
                while (place != mask + (m + 1) * row) *place++ = 0;
            }
            for (int64_t d = 0; d < dim; d += lanes<T>) {
                const int n = int(dim - d < lanes<T> ? dim - d : lanes<T>);
                const Vec<T> e = load_first<T>(prediction + d, n) - load_first<T>(target + d, n);
                store<T>(error + m * row + d, select<T>(load<T>(mask + m * row + d) != T(0), e, Vec<T>{}));
            }
        }
    }

    // What the error changes from frame m - 1 to m where both are seen; columns from d on.
    HANDCRAFT_INLINE Vec<T> change(int64_t m, int64_t d) const {
        const T *e = error + m * row + d, *seen = mask + m * row + d;
        const Vec<T> both = load<T>(seen) * load<T>(seen - row);
        return select<T>(both != T(0), load<T>(e) - load<T>(e - row), Vec<T>{});
    }

    T norm(int64_t m) const {
        Vec<T> total{};
        for (int64_t d = 0; d < row; d += lanes<T>) {
            const Vec<T> e = load<T>(error + m * row + d);
            total += e * e;
        }
        return root(sum<T>(total));
    }
    T change_norm(int64_t m) const {
        Vec<T> total{};
        for (int64_t d = 0; m > 0 && d < row; d += lanes<T>) {
            const Vec<T> e = change(m, d);
            total += e * e;
        }
        return root(sum<T>(total));
    }

    static HANDCRAFT_INLINE T root(T x) { return sizeof(T) == 4 ? T(__builtin_sqrtf(float(x))) : T(__builtin_sqrt(x)); }
};

template <typename T>
void forward(const Forward<T>& given) {
    parallel_for(
        given.batch, 16,
        [](int64_t begin, int64_t end, void* context) {
            const Forward<T>& p = *static_cast<const Forward<T>*>(context);
            const Clip<T> clip(p);
            for (int64_t b = begin; b < end; ++b) {
                clip.load_clip(p, b);
                T* norms = p.norms + b * 2 * p.frames;
                for (int64_t m = 0; m < p.frames; ++m) {
                    norms[m] = clip.norm(m);
                    norms[p.frames + m] = clip.change_norm(m);
                }
            }
        },
        const_cast<Forward<T>*>(&given));
}

// The gradient of a norm over the norm; a norm of 0 has gradient 0.
template <typename T>
HANDCRAFT_INLINE T share(T gradient, T norm) {
    return norm == T(0) ? T(0) : gradient / norm;
}

template <typename T>
void backward(const Backward<T>& given) {
    parallel_for(
        given.batch, 16,
        [](int64_t begin, int64_t end, void* context) {
            const Backward<T>& p = *static_cast<const Backward<T>*>(context);
            const Clip<T> clip(p);
            const int64_t dim = p.landmarks * p.coordinates;
            for (int64_t b = begin; b < end; ++b) {
                clip.load_clip(p, b);
                const T* dnorms = p.dnorms + b * 2 * p.frames;
                T pull = 0;  // of the change into frame m, then of the one out of it
                for (int64_t m = 0; m < p.frames; ++m) {
                    const bool last = m + 1 == p.frames;
                    const T own = share(dnorms[m], clip.norm(m));
                    const T next = last ? T(0) : share(dnorms[p.frames + m + 1], clip.change_norm(m + 1));
                    T* out = p.dprediction + (b * p.frames + m) * dim;
                    for (int64_t d = 0; d < dim; d += lanes<T>) {
                        Vec<T> total = own * load<T>(clip.error + m * clip.row + d);
                        if (m > 0) total += pull * clip.change(m, d);
                        if (!last) total -= next * clip.change(m + 1, d);
                        store_first<T>(out + d, total, int(dim - d < lanes<T> ? dim - d : lanes<T>));
                    }
                    pull = next;
                }
            }
        },
        const_cast<Backward<T>*>(&given));
}

constexpr Entry table[] = {
    HANDCRAFT_ENTRY("motion_norms_forward_f32", Forward, float, forward),
    HANDCRAFT_ENTRY("motion_norms_forward_f64", Forward, double, forward),
    HANDCRAFT_ENTRY("motion_norms_backward_f32", Backward, float, backward),
    HANDCRAFT_ENTRY("motion_norms_backward_f64", Backward, double, backward),
};

}  // namespace

extern const Entries motion_norms_entries{table, sizeof(table) / sizeof(table[0])};

}  // namespace handcraft::HANDCRAFT_ISA
