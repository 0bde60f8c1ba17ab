// One step of Adam or RAdam for all parameters of a model in one pass, and the clipping of their gradients.
//
//     g += decay p,  m += (1 - beta1) (g - m),  v = beta2 v + (1 - beta2) g^2,  t = step + 1
//     Adam   (Kingma and Ba, 2015):    p -= rate / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + epsilon)
//     RAdam  (Liu et al., 2020):       p -= rate / (1 - beta1^t) m r sqrt(1 - beta2^t) / (sqrt(v) + epsilon), where
//            r = sqrt((rho - 4) (rho - 2) rho8 / ((rho8 - 4) (rho8 - 2) rho)) is there once rho > 5, with
//            rho8 = 2 / (1 - beta2) - 1 and rho = rho8 - 2 t beta2^t / (1 - beta2^t); until then
//                                      p -= rate / (1 - beta1^t) m
//
// The tensors are walked as if they lay one behind the other, in pieces of one size, whatever the number of threads.
#include "entry.h"
#include "tile.h"
#include "vecmath.h"

namespace handcraft::HANDCRAFT_ISA {
namespace {

// `count` tensors of `sizes` numbers.
#define ADAM_FIELDS(POINTER, OPTIONAL, STRIDED, SIZE, REAL)                                                         \
    SIZE(count) POINTER(const int64_t, sizes) POINTER(T* const, parameters) POINTER(const T* const, gradients)      \
    POINTER(T* const, first) POINTER(T* const, second) POINTER(float* const, steps) SIZE(rectify) REAL(rate)        \
    REAL(beta1) REAL(beta2) REAL(epsilon) REAL(decay)
HANDCRAFT_ARGUMENTS(Adam, ADAM_FIELDS)

#define CLIP_FIELDS(POINTER, OPTIONAL, STRIDED, SIZE, REAL) \
    SIZE(count) POINTER(const int64_t, sizes) POINTER(T* const, gradients) REAL(most) POINTER(T, norm)
HANDCRAFT_ARGUMENTS(Clip, CLIP_FIELDS)

constexpr int64_t piece = 4096;        // numbers
constexpr int64_t thread_pieces = 4;   // below which another thread costs more than it brings

int64_t pieces_of(int64_t size) { return (size + piece - 1) / piece; }

// run(tensor, from, to, number) for the pieces begin .. end - 1 of all tensors, number after number.
template <typename P, typename Run>
void walk(const P& p, int64_t begin, int64_t end, const Run& run) {
    int64_t before = 0;
    for (int64_t i = 0; i < p.count && before < end; ++i) {
        const int64_t own = pieces_of(p.sizes[i]);
        for (int64_t k = begin > before ? begin - before : 0; k < own && before + k < end; ++k) {
            const int64_t from = k * piece, left = p.sizes[i] - from;
            run(i, from, from + (left < piece ? left : piece), before + k);
        }
        before += own;
    }
}

template <typename P, typename Run>
void walk_all(const P& p, const Run& run) {
    struct Context {
        const P& p;
        const Run& run;
    } context{p, run};
    int64_t all = 0;
    for (int64_t i = 0; i < p.count; ++i) all += pieces_of(p.sizes[i]);
    parallel_for(
        all, thread_pieces,
        [](int64_t begin, int64_t end, void* given) {
            const Context& c = *static_cast<const Context*>(given);
            walk(c.p, begin, end, c.run);
        },
        &context);
}

// What multiplies m: plain + factor / (root sqrt(v) + epsilon).
template <typename T>
struct Factors {
    T plain, factor, root;
};

template <typename T>
Factors<T> factors_of(const Adam<T>& p, double t) {
    const double power = __builtin_pow(p.beta2, t), second = 1 - power;
    const double rate = p.rate / (1 - __builtin_pow(p.beta1, t));
    if (!p.rectify) return {0, T(rate), T(1 / __builtin_sqrt(second))};
    const double longest = 2 / (1 - p.beta2) - 1, rho = longest - 2 * t * power / second;
    if (rho <= 5) return {T(rate), 0, 1};
    const double r = __builtin_sqrt((rho - 4) * (rho - 2) * longest / ((longest - 4) * (longest - 2) * rho));
    return {0, T(rate * r * __builtin_sqrt(second)), 1};
}

template <typename T>
void adam_step(const Adam<T>& p) {
    Factors<T>* const factors = static_cast<Factors<T>*>(workspace(size_t(p.count) * sizeof(Factors<T>)));
    for (int64_t i = 0; i < p.count; ++i) factors[i] = factors_of(p, double(*p.steps[i] += 1));
    const T epsilon = T(p.epsilon), decay = T(p.decay);
    const T share1 = T(1 - p.beta1), share2 = T(1 - p.beta2), beta2 = T(p.beta2);
    walk_all(p, [&](int64_t i, int64_t from, int64_t to, int64_t) {
        const Factors<T> f = factors[i];
        T *const parameter = p.parameters[i], *const first = p.first[i], *const second = p.second[i];
        const T* const gradient = p.gradients[i];
        for (int64_t at = from; at < to; at += lanes<T>) {
            const int n = int(to - at < lanes<T> ? to - at : lanes<T>);
            const Vec<T> old = load_first<T>(parameter + at, n);
            const Vec<T> g = load_first<T>(gradient + at, n) + decay * old;
            Vec<T> m = load_first<T>(first + at, n), v = load_first<T>(second + at, n);
            m += share1 * (g - m);
            v = beta2 * v + share2 * (g * g);
            store_first<T>(first + at, m, n);
            store_first<T>(second + at, v, n);
            const Vec<T> by = f.plain + f.factor / (f.root * square_root<T>(v) + epsilon);
            store_first<T>(parameter + at, old - by * m, n);
        }
    });
}

// norm = the Euclidean norm of all gradients; where it is above `most`, they are scaled to it.
template <typename T>
void clip_norm(const Clip<T>& p) {
    int64_t all = 0;
    for (int64_t i = 0; i < p.count; ++i) all += pieces_of(p.sizes[i]);
    double* const parts = static_cast<double*>(workspace(size_t(all) * sizeof(double)));
    walk_all(p, [&](int64_t i, int64_t from, int64_t to, int64_t number) {
        Vec<T> sums[4] = {};
        int64_t at = from;
        for (; at + 4 * lanes<T> <= to; at += 4 * lanes<T>) {
#pragma GCC unroll 4
            for (int j = 0; j < 4; ++j) {
                const Vec<T> g = load<T>(p.gradients[i] + at + j * lanes<T>);
                sums[j] += g * g;
            }
        }
        for (; at < to; at += lanes<T>) {
            const Vec<T> g = load_first<T>(p.gradients[i] + at, int(to - at < lanes<T> ? to - at : lanes<T>));
            sums[0] += g * g;
        }
        parts[number] = double(sum<T>((sums[0] + sums[1]) + (sums[2] + sums[3])));
    });
    double total = 0;
    for (int64_t i = 0; i < all; ++i) total += parts[i];
    const double norm = __builtin_sqrt(total);
    *p.norm = T(norm);
    const T factor = T(p.most / (norm + 1e-6));  // as torch.nn.utils.clip_grad_norm_ has it
    if (!(factor < T(1))) return;
    walk_all(p, [&](int64_t i, int64_t from, int64_t to, int64_t) {
        T* const gradient = p.gradients[i];
        for (int64_t at = from; at < to; at += lanes<T>) {
            const int n = int(to - at < lanes<T> ? to - at : lanes<T>);
            store_first<T>(gradient + at, factor * load_first<T>(gradient + at, n), n);
        }
    });
}

constexpr Entry table[] = {
    HANDCRAFT_ENTRY("adam_step_f32", Adam, float, adam_step),
    HANDCRAFT_ENTRY("adam_step_f64", Adam, double, adam_step),
    HANDCRAFT_ENTRY("clip_norm_f32", Clip, float, clip_norm),
    HANDCRAFT_ENTRY("clip_norm_f64", Clip, double, clip_norm),
};

}  // namespace

extern const Entries optimizer_entries{table, sizeof(table) / sizeof(table[0])};

}  // namespace handcraft::HANDCRAFT_ISA
