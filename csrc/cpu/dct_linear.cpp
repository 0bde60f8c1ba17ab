// dct_linear: tokens = C_T (x W') + bias with [CLS] and positions, a clip at a time in cache; and its gradients.
//
//     forward    y = x W',  out rows = C y + bias + position
//     backward   g = C' dtokens,  dx = g W,  dW = sum over clips of g' x
//
// Where D < H the matrix is applied on the other side, where rows are shorter: z = C x, dx = C' (dtokens W),
// dW = sum of dtokens' z. Sums over clips are made for fixed chunks of the batch and added in order, so that a result does
// not depend on the number of threads.
#include "entry.h"
#include "product.h"

namespace handcraft::HANDCRAFT_ISA {
namespace {

#define FORWARD_FIELDS(POINTER, OPTIONAL, STRIDED, SIZE, REAL)                                                      \
    POINTER(const T, x) OPTIONAL(const Compute<T>, basis) POINTER(const Compute<T>, weight)                         \
    OPTIONAL(const Compute<T>, bias) OPTIONAL(const Compute<T>, cls) OPTIONAL(const Compute<T>, position)           \
    OPTIONAL(const int64_t, lengths) POINTER(T, out) SIZE(batch) SIZE(frames) SIZE(dim) SIZE(width) SIZE(cls_first)
HANDCRAFT_ARGUMENTS(Forward, FORWARD_FIELDS)

#define BACKWARD_FIELDS(POINTER, OPTIONAL, STRIDED, SIZE, REAL)                                                     \
    POINTER(const T, gradient) POINTER(const T, x) OPTIONAL(const Compute<T>, basis)                                \
    POINTER(const Compute<T>, weight) OPTIONAL(const int64_t, lengths) OPTIONAL(T, dx) POINTER(Compute<T>, dweight) \
    POINTER(Compute<T>, dbias) POINTER(Compute<T>, dcls) POINTER(Compute<T>, dposition) SIZE(batch) SIZE(frames)    \
    SIZE(dim) SIZE(width) SIZE(has_cls) SIZE(cls_first) SIZE(chunk)
HANDCRAFT_ARGUMENTS(Backward, BACKWARD_FIELDS)

// Rows of scratch and of turned weights are padded to this many numbers, the widest register's.
constexpr int64_t padding = 16;

// Rows of `numbers` into rows of `row` numbers, the rest 0.
template <typename S>
void load_rows(const S* from, int64_t numbers, int64_t rows, Compute<S>* to, int64_t row) {
    for (int64_t r = 0; r < rows; ++r) {
        convert<S>(from + r * numbers, to + r * row, numbers);
        for (int64_t i = numbers; i < row; ++i) to[r * row + i] = 0;
    }
}

// Where a clip's rows lie: tokens in rows first..first+used-1, [CLS] in row cls (-1: none), rows from `end` on are 0.
struct Rows {
    int64_t first, used, cls, end;
};

HANDCRAFT_INLINE Rows rows_of(int64_t frames, bool has_cls, bool cls_first, const int64_t* lengths, int64_t b) {
    Rows rows;
    rows.used = lengths != nullptr ? lengths[b] : frames;
    rows.first = has_cls && cls_first ? 1 : 0;
    rows.cls = !has_cls ? -1 : cls_first ? 0 : rows.used;
    rows.end = rows.used + (has_cls ? 1 : 0);
    return rows;
}

template <typename S>
void forward_clip(const Forward<S>& a, const Compute<S>* weight_turned, int64_t b, Compute<S>* memory) {
    using T = Compute<S>;
    const int64_t wide = round_up(a.width, padding), deep = round_up(a.dim, padding), H = a.width;
    const bool has_cls = a.cls != nullptr, after = a.dim >= a.width;
    const Rows rows = rows_of(a.frames, has_cls, a.cls_first != 0, a.lengths, b);
    S* out = a.out + b * (a.frames + (has_cls ? 1 : 0)) * H;
    const int64_t count = a.basis != nullptr ? a.frames : rows.used;

    // bias and position of a token's row, the registers that its sum begins with
    auto start = [&](int64_t r, int64_t c) {
        const int64_t left = H - c * lanes<T>;
        const int n = left < lanes<T> ? int(left) : lanes<T>;
        Vec<T> sum{};
        if (a.bias != nullptr) sum = load_first<T>(a.bias + c * lanes<T>, n);
        if (a.position != nullptr) sum += load_first<T>(a.position + (rows.first + r) * H + c * lanes<T>, n);
        return sum;
    };
    auto finish = into_exact<S>(out + rows.first * H, H);

    const T* x;
    if constexpr (same<S, T>) {
        x = a.x + b * a.frames * a.dim;
    } else {
        convert<S>(a.x + b * a.frames * a.dim, memory, a.frames * a.dim);
        x = memory;
        memory += round_up(a.frames * a.dim, padding);
    }
    if (a.basis == nullptr) {
        product<T>(x, a.dim, 1, weight_turned, wide, count, a.dim, H, start, finish);
    } else if (after) {
        T* y = memory;
        product<T>(x, a.dim, 1, weight_turned, wide, a.frames, a.dim, wide, zero<T>(), into<T>(y, wide));
        product<T>(a.basis, a.frames, 1, y, wide, a.frames, a.frames, H, start, finish);
    } else {
        T* padded = memory;
        T* z = padded + a.frames * deep;
        load_rows<T>(x, a.dim, a.frames, padded, deep);
        product<T>(a.basis, a.frames, 1, padded, deep, a.frames, a.frames, deep, zero<T>(), into<T>(z, deep));
        product<T>(z, deep, 1, weight_turned, wide, a.frames, a.dim, H, start, finish);
    }
    if (has_cls) {
        S* row = out + rows.cls * H;
        for (int64_t h = 0; h < H; ++h) {
            row[h] = from_compute<S>(a.cls[h] + (a.position != nullptr ? a.position[rows.cls * H + h] : T(0)));
        }
    }
    for (int64_t i = rows.end * H; i < (a.frames + (has_cls ? 1 : 0)) * H; ++i) out[i] = from_compute<S>(T(0));
}

template <typename S>
void forward(const Forward<S>& given) {
    using T = Compute<S>;
    struct Call {
        const Forward<S>& a;
        T* weight_turned;  // (dim, width padded)
    } call{given, nullptr};
    const int64_t wide = round_up(given.width, padding);
    call.weight_turned = static_cast<T*>(workspace(size_t(given.dim * wide) * sizeof(T)));
    turn<T>(given.weight, given.width, given.dim, call.weight_turned, wide);
    parallel_for(
        given.batch, 4,
        [](int64_t begin, int64_t end, void* context) {
            const Call& call = *static_cast<const Call*>(context);
            const Forward<S>& a = call.a;
            const int64_t longest = round_up(a.dim > a.width ? a.dim : a.width, padding);
            T* memory = static_cast<T*>(scratch(size_t(3 * a.frames * longest + padding) * sizeof(T)));
            for (int64_t b = begin; b < end; ++b) forward_clip<S>(a, call.weight_turned, b, memory);
        },
        &call);
}

// Sums over the clips of a chunk: dweight (H, deep), dbias and dcls (wide), dposition (rows, wide), chunks `step` apart.
template <typename S>
struct BackwardCall {
    using T = Compute<S>;
    const Backward<S>& a;
    int64_t wide, deep, rows, chunks, step;
    T* sums;

    explicit BackwardCall(const Backward<S>& a)
        : a(a),
          wide(round_up(a.width, padding)),
          deep(round_up(a.dim, padding)),
          rows(a.frames + (a.has_cls != 0 ? 1 : 0)),
          chunks((a.batch + a.chunk - 1) / a.chunk),
          step(a.width * deep + (2 + rows) * wide) {
        sums = static_cast<T*>(workspace(size_t(chunks * step) * sizeof(T)));
    }

    T* dweight(int64_t chunk) const { return sums + chunk * step; }
    T* dbias(int64_t chunk) const { return dweight(chunk) + a.width * deep; }
    T* dcls(int64_t chunk) const { return dbias(chunk) + wide; }
    T* dposition(int64_t chunk) const { return dcls(chunk) + wide; }

    // out (numbers) = the chunks' sums that begin at `first` in the first chunk's.
    void add_up(const T* first, int64_t numbers, T* out) const {
        for (int64_t i = 0; i < numbers; i += lanes<T>) {
            Vec<T> total{};
            for (int64_t chunk = 0; chunk < chunks; ++chunk) total += load<T>(first + chunk * step + i);
            store_first<T>(out + i, total, int(numbers - i < lanes<T> ? numbers - i : lanes<T>));
        }
    }
};

template <typename S>
void backward_chunk(const BackwardCall<S>& call, int64_t chunk, Compute<S>* memory) {
    using T = Compute<S>;
    const Backward<S>& a = call.a;
    const int64_t wide = call.wide, deep = call.deep, H = a.width, F = a.frames, out_rows = call.rows;
    const bool has_cls = a.has_cls != 0, after = a.dim >= a.width;
    T *const dweight = call.dweight(chunk), *const dbias = call.dbias(chunk), *const dcls = call.dcls(chunk);
    T* const dposition = call.dposition(chunk);
    clear(dweight, call.step);
    T* tokens = memory;                  // gradients of the tokens (F, wide)
    T* mixed = tokens + F * wide;        // g (F, wide)
    T* x = mixed + F * wide;             // (F, deep)
    T* turned = x + F * deep;            // z, or dz (F, deep)

    const int64_t last = (chunk + 1) * a.chunk < a.batch ? (chunk + 1) * a.chunk : a.batch;
    for (int64_t b = chunk * a.chunk; b < last; ++b) {
        const Rows rows = rows_of(F, has_cls, a.cls_first != 0, a.lengths, b);
        const S* gradient = a.gradient + b * out_rows * H;
        load_rows<S>(gradient + rows.first * H, H, rows.used, tokens, wide);
        for (int64_t i = rows.used * wide; i < F * wide; ++i) tokens[i] = 0;
        for (int64_t r = 0; r < rows.used; ++r) {
            for (int64_t h = 0; h < wide; h += lanes<T>) {
                const Vec<T> v = load<T>(tokens + r * wide + h);
                T* place = dposition + (rows.first + r) * wide + h;
                store<T>(place, load<T>(place) + v);
                store<T>(dbias + h, load<T>(dbias + h) + v);
            }
        }
        if (has_cls) {
            for (int64_t h = 0; h < H; ++h) {
                const T v = to_compute(gradient[rows.cls * H + h]);
                dcls[h] += v;
                dposition[rows.cls * wide + h] += v;
            }
        }
        load_rows<S>(a.x + b * F * a.dim, a.dim, F, x, deep);
        S* dx = a.dx != nullptr ? a.dx + b * F * a.dim : nullptr;
        const T* left = tokens;  // dW = left' right
        const T* right = x;
        if (a.basis != nullptr && after) {
            product<T>(a.basis, 1, F, tokens, wide, F, F, wide, zero<T>(), into<T>(mixed, wide));
            left = mixed;
        } else if (a.basis != nullptr) {
            product<T>(a.basis, F, 1, x, deep, F, F, deep, zero<T>(), into<T>(turned, deep));
            right = turned;
        }
        product<T>(
            left, 1, wide, right, deep, H, F, deep,
            [=](int64_t r, int64_t c) { return load<T>(dweight + r * deep + c * lanes<T>); }, into<T>(dweight, deep));
        if (dx == nullptr) continue;
        if (a.basis == nullptr || after) {
            product<T, true>(left, wide, 1, a.weight, a.dim, F, H, a.dim, zero<T>(), into_exact<S>(dx, a.dim));
        } else {
            product<T, true>(tokens, wide, 1, a.weight, a.dim, F, H, a.dim, zero<T>(), into<T>(turned, deep));
            product<T>(a.basis, 1, F, turned, deep, F, F, a.dim, zero<T>(), into_exact<S>(dx, a.dim));
        }
    }
}

template <typename S>
void backward(const Backward<S>& given) {
    using Call = BackwardCall<S>;
    Call call(given);
    parallel_for(
        call.chunks, 1,
        [](int64_t begin, int64_t end, void* context) {
            using T = Compute<S>;
            const Call& call = *static_cast<const Call*>(context);
            T* memory = static_cast<T*>(scratch(size_t(2 * call.a.frames * (call.wide + call.deep)) * sizeof(T)));
            for (int64_t chunk = begin; chunk < end; ++chunk) backward_chunk<S>(call, chunk, memory);
        },
        &call);
    parallel_for(
        given.width, 16,
        [](int64_t begin, int64_t end, void* context) {
            const Call& call = *static_cast<const Call*>(context);
            for (int64_t h = begin; h < end; ++h) {
                call.add_up(call.dweight(0) + h * call.deep, call.a.dim, call.a.dweight + h * call.a.dim);
            }
        },
        &call);
    call.add_up(call.dbias(0), given.width, given.dbias);
    call.add_up(call.dcls(0), given.width, given.dcls);
    for (int64_t row = 0; row < call.rows; ++row) {
        call.add_up(call.dposition(0) + row * call.wide, given.width, given.dposition + row * given.width);
    }
}

constexpr Entry table[] = {
    HANDCRAFT_ENTRY("dct_linear_forward_f32", Forward, float, forward),
    HANDCRAFT_ENTRY("dct_linear_forward_f64", Forward, double, forward),
    HANDCRAFT_ENTRY("dct_linear_forward_bf16", Forward, bf16, forward),
    HANDCRAFT_ENTRY("dct_linear_forward_f16", Forward, f16, forward),
    HANDCRAFT_ENTRY("dct_linear_backward_f32", Backward, float, backward),
    HANDCRAFT_ENTRY("dct_linear_backward_f64", Backward, double, backward),
    HANDCRAFT_ENTRY("dct_linear_backward_bf16", Backward, bf16, backward),
    HANDCRAFT_ENTRY("dct_linear_backward_f16", Backward, f16, backward),
};

}  // namespace

extern const Entries dct_linear_entries{table, sizeof(table) / sizeof(table[0])};

}  // namespace handcraft::HANDCRAFT_ISA
