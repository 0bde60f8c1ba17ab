// A Mamba block of which one row a sequence is wanted, as in a classifier's last block, with the norm before it and the
// residual around it where there are any: everything from the residual stream to that row, a few sequences at a time,
// which stay in the second cache; and its gradients.
//
//     tokens = x r norm with r = 1 / sqrt(mean of x^2 + epsilon), or x itself where there is no norm
//     first = tokens in_u',  u = silu(causal conv(first)),  s, B = columns of u x_proj',  for the wanted row alone
//     z = tokens in_z',  C = u x_C',  y = row of the scan (row_scan.h),  out = y out_proj' (+ x where there is a norm)
//
// Gradients of the parameters are products over all rows of a chunk of sequences; chunks, cut by the batch's size alone,
// are added in order.
#include "conv_silu.h"
#include "product.h"
#include "row_scan.h"

namespace handcraft::HANDCRAFT_ISA {
namespace {

// x (batch, length, width); parameters as MambaParams has them, norm (width).
#define LAYER_INPUTS(POINTER, OPTIONAL, SIZE)                                                                       \
    SIZE(batch) SIZE(length) SIZE(width) SIZE(inner) SIZE(state) SIZE(rank) SIZE(taps) SIZE(chunks)                 \
    POINTER(const T, x) POINTER(const int64_t, at) OPTIONAL(const T, norm) POINTER(const T, in_proj)                \
    POINTER(const T, conv_weight) POINTER(const T, conv_bias) POINTER(const T, x_proj) POINTER(const T, dt_weight)  \
    POINTER(const T, dt_bias) POINTER(const T, A_log) POINTER(const T, D) POINTER(const T, out_proj)
// What the backward pass needs again: first, u (batch, length, inner), mixed (batch, length, rank + state), deviation
// (batch, length), which is r; the others as in row_scan.h.
#define LAYER_KEPT(POINTER, TYPE)                                                                                   \
    POINTER(TYPE, first) POINTER(TYPE, u) POINTER(TYPE, mixed) POINTER(TYPE, z) POINTER(TYPE, C) POINTER(TYPE, h)   \
    POINTER(TYPE, pre) POINTER(TYPE, y) POINTER(TYPE, deviation)
#define LAYER_FORWARD_FIELDS(POINTER, OPTIONAL, STRIDED, SIZE, REAL) \
    LAYER_INPUTS(POINTER, OPTIONAL, SIZE) LAYER_KEPT(POINTER, T) POINTER(T, out)
HANDCRAFT_ARGUMENTS(LayerForward, LAYER_FORWARD_FIELDS)

// gradients: of the parameters from in_proj to out_proj, then of norm. What comes before them is written on the way.
#define LAYER_BACKWARD_FIELDS(POINTER, OPTIONAL, STRIDED, SIZE, REAL)                                               \
    LAYER_INPUTS(POINTER, OPTIONAL, SIZE) LAYER_KEPT(POINTER, const T) POINTER(const T, dout) POINTER(T, dx)        \
    POINTER(T, dfirst) POINTER(T, du) POINTER(T, dmixed) POINTER(T, dz) POINTER(T, dC) POINTER(T, dy)               \
    POINTER(T* const, gradients)
HANDCRAFT_ARGUMENTS(LayerBackward, LAYER_BACKWARD_FIELDS)

constexpr double epsilon = 1e-5;
constexpr int parameters = 9;  // without norm

// The sequences of a chunk, and where they begin in tensors of so many numbers a sequence.
struct Chunk {
    int64_t from, count;

    template <typename P>
    Chunk(const P& p, int64_t chunk)
        : from(p.batch * chunk / p.chunks), count(p.batch * (chunk + 1) / p.chunks - from) {}
};

// Row at[b] of each sequence, one behind the other.
template <typename T>
void gather(const T* x, int64_t width, int64_t length, const int64_t* at, int64_t count, T* to) {
    for (int64_t b = 0; b < count; ++b) {
        __builtin_memcpy(to + b * width, x + (b * length + at[b]) * width, size_t(width) * sizeof(T));
    }
}

// A product's sums begin with rows of `row` numbers, and become such rows; place(r) is the number of row r.
template <typename T, typename Place>
HANDCRAFT_INLINE auto from_rows(const T* rows, int64_t row, Place place) {
    return [=](int64_t r, int64_t c) {
        return load_first<T>(rows + place(r) * row + c * lanes<T>, int(smaller(lanes<T>, row - c * lanes<T>)));
    };
}
template <typename T, typename Place>
HANDCRAFT_INLINE auto into_rows(T* rows, int64_t row, Place place) {
    return [=](int64_t r, int64_t c, Vec<T> v) {
        store_first<T>(rows + place(r) * row + c * lanes<T>, v, int(smaller(lanes<T>, row - c * lanes<T>)));
    };
}

template <typename T>
HANDCRAFT_INLINE T mean_of_products(const T* a, const T* b, const T* c, int64_t width) {
    Vec<T> sums{};
    for (int64_t i = 0; i < width; i += lanes<T>) {
        const int n = int(smaller(lanes<T>, width - i));
        const Vec<T> product = load_first<T>(a + i, n) * load_first<T>(b + i, n);
        sums += c != nullptr ? product * load_first<T>(c + i, n) : product;
    }
    return sum<T>(sums) / T(width);
}

// tokens = x r norm; r is found first where it is wanted.
template <bool FIND, typename T, typename Root>
void normalise(const T* x, const T* norm, int64_t rows, int64_t width, Root* deviation, T* tokens) {
    for (int64_t row = 0; row < rows; ++row, x += width, tokens += width) {
        if constexpr (FIND) deviation[row] = reciprocal_root<T>(mean_of_products<T>(x, x, nullptr, width) + T(epsilon));
        for (int64_t i = 0; i < width; i += lanes<T>) {
            const int n = int(smaller(lanes<T>, width - i));
            store_first<T>(tokens + i, load_first<T>(x + i, n) * deviation[row] * load_first<T>(norm + i, n), n);
        }
    }
}

// In place: dx of the tokens becomes that of x. dnorm is written.
template <typename T>
void normalise_backward(const T* x, const T* norm, int64_t rows, int64_t width, const T* deviation, T* dx, T* dnorm) {
    clear(dnorm, width);
    for (int64_t row = 0; row < rows; ++row, x += width, dx += width) {
        const T r = deviation[row], pull = mean_of_products<T>(dx, norm, x, width) * r * r;
        for (int64_t i = 0; i < width; i += lanes<T>) {
            const int n = int(smaller(lanes<T>, width - i));
            const Vec<T> value = load_first<T>(x + i, n), gradient = load_first<T>(dx + i, n);
            store_first<T>(dnorm + i, load_first<T>(dnorm + i, n) + gradient * value * r, n);
            store_first<T>(dx + i, r * (gradient * load_first<T>(norm + i, n) - value * pull), n);
        }
    }
}

template <typename T, typename P>
ConvSiluForward<T> conv_of(const P& p, const Chunk& c) {
    const int64_t at = c.from * p.length * p.inner;
    ConvSiluForward<T> conv{};
    conv.batch = c.count, conv.length = p.length, conv.channels = p.inner, conv.taps = p.taps, conv.chunks = 1;
    conv.x = p.first + at, conv.x_b = p.length * p.inner, conv.x_l = p.inner;
    conv.weight = p.conv_weight, conv.bias = p.conv_bias;
    return conv;
}

template <typename T, typename P>
RowInputs<T> scan_of(const P& p, const Chunk& c, const T* A) {
    return {c.count,
            p.length,
            p.inner,
            p.state,
            p.rank,
            p.u + c.from * p.length * p.inner,
            p.mixed + c.from * p.length * (p.rank + p.state),
            p.at + c.from,
            p.z + c.from * p.inner,
            p.C + c.from * p.state,
            p.dt_weight,
            p.dt_bias,
            A,
            p.D};
}

// A = -exp(A_log), in memory for whole registers.
template <typename T, typename P>
void rates_of(const P& p, T* A) {
    for (int64_t i = 0; i < p.inner * p.state; i += lanes<T>) {
        store<T>(A + i, -exp<T>(load_first<T>(p.A_log + i, int(smaller(lanes<T>, p.inner * p.state - i)))));
    }
}

// The weights turned, (depth, columns), and A. Rows of an odd number of cache lines spread over the cache.
template <typename T>
struct ForwardCall {
    const LayerForward<T>& p;
    int64_t in_row, x_row, out_row;
    T *in_proj, *x_proj, *out_proj, *A;

    explicit ForwardCall(const LayerForward<T>& p) : p(p) {
        const auto row_of = [](int64_t columns) { return (ceiling(columns, lanes<T>) | 1) * lanes<T>; };
        const int64_t mixed = p.rank + 2 * p.state;
        in_row = row_of(2 * p.inner), x_row = row_of(mixed), out_row = row_of(p.width);
        Places<T> places;
        // a register behind each, since z and C begin anywhere in a row
        const int64_t at_in = places.take(p.width * in_row + lanes<T>), at_x = places.take(p.inner * x_row + lanes<T>),
                      at_out = places.take(p.inner * out_row), at_A = places.take(p.inner * p.state);
        T* const memory = static_cast<T*>(workspace(size_t(places.used) * sizeof(T)));
        in_proj = memory + at_in, x_proj = memory + at_x, out_proj = memory + at_out, A = memory + at_A;
        turn<T>(p.in_proj, 2 * p.inner, p.width, in_proj, in_row);
        turn<T>(p.x_proj, mixed, p.inner, x_proj, x_row);
        turn<T>(p.out_proj, p.width, p.inner, out_proj, out_row);
        rates_of<T>(p, A);
    }

    void run(int64_t number) const {
        const Chunk chunk(p, number);
        const int64_t L = p.length, H = p.width, I = p.inner, columns = p.rank + p.state, rows = chunk.count * L;
        const int64_t* const at = p.at + chunk.from;
        const T* const x = p.x + chunk.from * L * H;
        const auto wanted = [=](int64_t b) { return b * L + at[b]; };
        const auto own_memory = [&] {
            return static_cast<T*>(scratch(size_t((p.norm ? rows * H : 0) + chunk.count * larger(H, I)) * sizeof(T)));
        };
        T *one_row = own_memory(), *const first = p.first + chunk.from * L * I, *const u = p.u + chunk.from * L * I;
        const T* tokens = x;
        if (p.norm != nullptr) {
            normalise<true>(x, p.norm, rows, H, p.deviation + chunk.from * L, one_row);
            tokens = one_row;
            one_row += rows * H;
        }
        product<T>(tokens, H, 1, in_proj, in_row, rows, H, I, zero<T>(), into_exact<T>(first, I));
        gather(tokens, H, L, at, chunk.count, one_row);
        product<T>(one_row, H, 1, in_proj + I, in_row, chunk.count, H, I, zero<T>(),
                   into_exact<T>(p.z + chunk.from * I, I));

        ConvSiluForward<T> conv = conv_of<T>(p, chunk);
        conv.u = u;
        conv_forward_chunk<T>(conv, 0);
        product<T>(u, I, 1, x_proj, x_row, rows, I, columns, zero<T>(),
                   into_exact<T>(p.mixed + chunk.from * L * columns, columns));
        one_row = own_memory();
        gather(u, I, L, at, chunk.count, one_row);
        product<T>(one_row, I, 1, x_proj + columns, x_row, chunk.count, I, p.state, zero<T>(),
                   into_exact<T>(p.C + chunk.from * p.state, p.state));

        T* const y = p.y + chunk.from * I;
        row_scan_forward<T>({scan_of<T>(p, chunk, A), p.h + chunk.from * p.state * I, p.pre + chunk.from * I, y});
        const auto residual = from_rows<T>(x, H, wanted);
        product<T>(
            y, I, 1, out_proj, out_row, chunk.count, I, H,
            [&](int64_t r, int64_t c) { return p.norm != nullptr ? residual(r, c) : Vec<T>{}; },
            into_exact<T>(p.out + chunk.from * H, H));
    }
};

// The sums of each chunk, a parameter's behind the other's, and A.
template <typename T>
struct BackwardCall {
    const LayerBackward<T>& p;
    int64_t begin[parameters + 2];  // where each parameter's begin
    int64_t step;                   // from a chunk's sums to the next one's
    T *sums, *A;

    explicit BackwardCall(const LayerBackward<T>& p) : p(p) {
        const int64_t I = p.inner;
        const int64_t sizes[parameters + 1] = {2 * I * p.width, I * p.taps,   I, (p.rank + 2 * p.state) * I,
                                               I * p.rank,      I,            I * p.state, I,
                                               p.width * I,     p.norm ? p.width : 0};
        begin[0] = 0;
        for (int i = 0; i <= parameters; ++i) begin[i + 1] = begin[i] + sizes[i];
        Places<T> places;
        step = ceiling(begin[parameters + 1], lanes<T>) * lanes<T>;
        const int64_t at_A = places.take(I * p.state), at_sums = places.take(p.chunks * step);
        T* const memory = static_cast<T*>(workspace(size_t(places.used) * sizeof(T)));
        A = memory + at_A, sums = memory + at_sums;
        rates_of<T>(p, A);
    }

    void run(int64_t number) const {
        const Chunk chunk(p, number);
        const int64_t L = p.length, H = p.width, I = p.inner, N = p.state, columns = p.rank + N, count = chunk.count;
        const int64_t rows = count * L, first_row = chunk.from * L;
        const int64_t* const at = p.at + chunk.from;
        const auto wanted = [=](int64_t b) { return b * L + at[b]; };
        const auto sums_of = [&](int parameter) { return sums + number * step + begin[parameter]; };
        const T *const dout = p.dout + chunk.from * H, *const x = p.x + first_row * H, *const u = p.u + first_row * I;
        T *const dy = p.dy + chunk.from * I, *const du = p.du + first_row * I, *const dz = p.dz + chunk.from * I;
        T *const dC = p.dC + chunk.from * N, *const dmixed = p.dmixed + first_row * columns;
        T *const dfirst = p.dfirst + first_row * I, *const dx = p.dx + first_row * H;

        product<T, true>(dout, H, 1, p.out_proj, I, count, H, I, zero<T>(), into_exact<T>(dy, I));
        product<T, true>(dout, 1, H, p.y + chunk.from * I, I, H, count, I, zero<T>(), into_exact<T>(sums_of(8), I));
        RowBackward<T> scan{};
        static_cast<RowInputs<T>&>(scan) = scan_of<T>(p, chunk, A);
        scan.h = p.h + chunk.from * N * I, scan.pre = p.pre + chunk.from * I, scan.dy = dy;
        scan.du = du, scan.dmixed = dmixed, scan.dz = dz, scan.dC = dC;
        scan.ddt_weight = sums_of(4), scan.ddt_bias = sums_of(5), scan.dA = sums_of(6), scan.dD = sums_of(7);
        row_scan_backward<T>(scan);

        const auto each = [](int64_t r) { return r; };
        const T* const C_proj = p.x_proj + columns * I;
        product<T, true>(dmixed, columns, 1, p.x_proj, I, rows, columns, I, from_rows<T>(du, I, each),
                         into_exact<T>(du, I));
        product<T, true>(dC, N, 1, C_proj, I, count, N, I, from_rows<T>(du, I, wanted), into_rows<T>(du, I, wanted));
        product<T, true>(dmixed, 1, columns, u, I, columns, rows, I, zero<T>(), into_exact<T>(sums_of(3), I));
        T* one_row = static_cast<T*>(scratch(size_t(count * I) * sizeof(T)));
        gather(u, I, L, at, count, one_row);
        product<T, true>(dC, 1, N, one_row, I, N, count, I, zero<T>(), into_exact<T>(sums_of(3) + columns * I, I));

        const ConvSiluForward<T> forward = conv_of<T>(p, chunk);
        ConvSiluBackward<T> conv{};
        conv.batch = forward.batch, conv.length = L, conv.channels = I, conv.taps = p.taps, conv.chunks = 1;
        conv.x = forward.x, conv.x_b = forward.x_b, conv.x_l = forward.x_l;
        conv.weight = forward.weight, conv.bias = forward.bias, conv.du = du;
        conv.dx = dfirst, conv.dx_b = forward.x_b, conv.dx_l = I;
        conv.partial_weight = sums_of(1), conv.partial_bias = sums_of(2);
        conv_backward_chunk<T>(conv, 0);

        one_row = static_cast<T*>(scratch(size_t((p.norm ? rows * H : 0) + count * H) * sizeof(T)));
        const T* tokens = x;
        if (p.norm != nullptr) {
            normalise<false>(x, p.norm, rows, H, p.deviation + first_row, one_row);
            tokens = one_row;
            one_row += rows * H;
        }
        gather(tokens, H, L, at, count, one_row);
        const T* const z_proj = p.in_proj + I * H;
        product<T, true>(dfirst, 1, I, tokens, H, I, rows, H, zero<T>(), into_exact<T>(sums_of(0), H));
        product<T, true>(dz, 1, I, one_row, H, I, count, H, zero<T>(), into_exact<T>(sums_of(0) + I * H, H));
        product<T, true>(dfirst, I, 1, p.in_proj, H, rows, I, H, zero<T>(), into_exact<T>(dx, H));
        product<T, true>(dz, I, 1, z_proj, H, count, I, H, from_rows<T>(dx, H, wanted), into_rows<T>(dx, H, wanted));
        if (p.norm == nullptr) return;
        normalise_backward(x, p.norm, rows, H, p.deviation + first_row, dx, sums_of(parameters));
        for (int64_t b = 0; b < count; ++b) {
            for (int64_t i = 0; i < H; ++i) dx[wanted(b) * H + i] += dout[b * H + i];
        }
    }

    // The numbers first .. last - 1 of all parameters' gradients, from the chunks' sums.
    void add_up(int64_t first, int64_t last) const {
        for (int i = 0; i < parameters + (p.norm != nullptr); ++i) {
            const int64_t end = smaller(last, begin[i + 1]);
            for (int64_t at = larger(first, begin[i]); at < end; at += lanes<T>) {
                const int n = int(smaller(lanes<T>, end - at));
                Vec<T> total = load_first<T>(sums + at, n);
                for (int64_t c = 1; c < p.chunks; ++c) total += load_first<T>(sums + c * step + at, n);
                // the derivative of -exp(A_log) is itself
                if (i == 6) total *= load_first<T>(A + at - begin[i], n);
                store_first<T>(p.gradients[i] + at - begin[i], total, n);
            }
        }
    }
};

template <typename T, void (T::*METHOD)(int64_t) const>
void run_each(const T& call) {
    parallel_for(
        call.p.chunks, 1,
        [](int64_t begin, int64_t end, void* given) {
            for (int64_t chunk = begin; chunk < end; ++chunk) (static_cast<const T*>(given)->*METHOD)(chunk);
        },
        const_cast<T*>(&call));
}

template <typename T>
void mamba_row_forward(const LayerForward<T>& p) {
    run_each<ForwardCall<T>, &ForwardCall<T>::run>(ForwardCall<T>(p));
}

template <typename T>
void mamba_row_backward(const LayerBackward<T>& p) {
    const BackwardCall<T> call(p);
    run_each<BackwardCall<T>, &BackwardCall<T>::run>(call);
    parallel_for(
        call.step, 4096,
        [](int64_t begin, int64_t end, void* given) {
            static_cast<const BackwardCall<T>*>(given)->add_up(begin, end);
        },
        const_cast<BackwardCall<T>*>(&call));
}

constexpr Entry table[] = {
    HANDCRAFT_ENTRY("mamba_row_forward_f32", LayerForward, float, mamba_row_forward),
    HANDCRAFT_ENTRY("mamba_row_forward_f64", LayerForward, double, mamba_row_forward),
    HANDCRAFT_ENTRY("mamba_row_backward_f32", LayerBackward, float, mamba_row_backward),
    HANDCRAFT_ENTRY("mamba_row_backward_f64", LayerBackward, double, mamba_row_backward),
};

}  // namespace

extern const Entries mamba_row_entries{table, sizeof(table) / sizeof(table[0])};

}  // namespace handcraft::HANDCRAFT_ISA
