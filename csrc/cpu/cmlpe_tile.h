// The CMLPe generator on the tile of a few clips: transform, map over D, blocks, map over D, transform back.
//
// How to run it: CmlpeTile(parameters, narrow, backward, memory) packs the weights once, into memory that every thread
// reads; CmlpeForward(tile, memory) are one thread's buffers; tile.forward() leaves the predicted frames of `clips`
// clips in a tile, from which store_frames() writes each as (M,D). A clip's result does not depend on the clips beside
// it.
#pragma once

#include "adaln_stack.h"

namespace handcraft::HANDCRAFT_ISA {

// As the caller has them, contiguous, in the type that is computed with.
template <typename T>
struct CmlpeParameters {
    StackParameters<T> stack;
    const T* dct;         // C_M (M,M)
    const T* in_weight;   // (D,D)
    const T* in_bias;     // (D)
    const T* out_weight;  // (D,D)
    const T* out_bias;    // (D)
};

template <typename T, int M>
class CmlpeTile;

// What one thread needs for forward passes.
template <typename T, int M>
struct CmlpeForward {
    using Tile = AdalnTile<T, M>;
    T *active, *mod, *sums, *found;
    T *left, *right;  // tiles
    T* last;          // last frame of each clip, D padded
    T* pairs;         // what the blocks multiply in bf16

    CmlpeForward(const CmlpeTile<T, M>& tile, Memory<T>& memory) {
        active = memory.take(Tile::clips * tile.stack.active_step);
        mod = memory.take(Tile::clips * tile.stack.mod_step);
        sums = memory.take(Tile::width);
        found = memory.take(Tile::statistics);
        left = memory.take(tile.tile_size);
        right = memory.take(tile.tile_size);
        last = memory.take(Tile::clips * tile.rows);
        pairs = memory.take(tile.narrow ? tile.rows * Tile::padded / 2 : 0);
    }
};

template <typename T, int M>
class CmlpeTile {
   public:
    using Tile = AdalnTile<T, M>;
    static constexpr int padded = Tile::padded, width = Tile::width, clips = Tile::clips;
    const int64_t dim, rows;    // D, and D padded
    const int64_t tile_size;    // numbers of a tile
    const bool narrow;          // forward, maps and blocks multiply in bf16: T is float, has_bf16_instructions()
    const AdalnStack<T, M> stack;

    // backward: also packs what only the backward pass needs.
    CmlpeTile(const CmlpeParameters<T>& given, bool narrow, bool backward, Memory<T>& memory)
        : dim(given.stack.dim),
          rows(round_up(dim, row_multiple)),
          tile_size(rows * width),
          narrow(narrow),
          stack(given.stack, memory) {
        dct = memory.take(M * padded);
        dct_turned = memory.take(M * padded);
        dct_sums = memory.take(padded);
        last_frame = memory.take(padded);
        in_bias = memory.take(rows);
        out_bias = memory.take(rows);
        in_weight = memory.take(rows * dim);
        out_weight = memory.take(rows * dim);
        in_turned = memory.take(backward ? rows * dim : 0);
        out_turned = memory.take(backward ? rows * dim : 0);
        if (memory.base) pack(given, backward);
    }

    // x: for each of `count` clips (M,D); e: (count,K,E). The lanes of missing clips hold what a clip of zeros gives.
    // Returns a tile of frames: row d has the M frames of channel d.
    const T* forward(const T* const* x, const T* e, int64_t count, const CmlpeForward<T, M>& own) const {
        stack.modulate(e, count, own.active, own.mod);
        transform(x, count, own.left);
        map_in(own.left, own.right);
        run_blocks(own);
        transform_back(own.right, own.left, [](int64_t, int, Vec<T> v) __attribute__((always_inline)) { return v; });
        clear(own.last, clips * rows);
        for (int64_t clip = 0; clip < count; ++clip) {
            __builtin_memcpy(own.last + clip * rows, x[clip] + (M - 1) * dim, size_t(dim) * sizeof(T));
        }
        map(out_weight, own.left, own.right, [&](int64_t d, int c) __attribute__((always_inline)) {
            const int64_t clip = c / Tile::vectors, at = c % Tile::vectors * lanes<T>;
            return own.last[clip * rows + d] + out_bias[d] * load<T>(dct_sums + at);
        });
        return own.right;
    }

    // Frames of one clip of a tile, as (M,D).
    template <typename S>
    void store_frames(const T* tile, int64_t clip, S* y) const {
        constexpr int steps = 64, frames = M < lanes<T> ? M : lanes<T>;
        alignas(64) T part[steps * lanes<T>];
        for (int c = 0; c < Tile::vectors; ++c) {
            const T* from = tile + clip * padded + c * lanes<T>;
#if defined(__AVX512F__)
            if constexpr (same<S, bf16>) {
                if (narrow && dim % 2 == 0) {  // two channels are one float to be moved
                    for (int64_t d = 0; d < dim; d += 2 * steps) {
                        const int64_t n = dim - d < 2 * steps ? dim - d : 2 * steps;
                        make_pairs<lanes<T>>(from + d * width, width, n, part);
                        store_tile<float>(reinterpret_cast<float*>(y + c * lanes<T> * dim + d), dim / 2, 1, frames,
                                          n / 2, part);
                    }
                    continue;
                }
            }
#endif
            for (int64_t d = 0; d < dim; d += steps) {
                const int64_t n = dim - d < steps ? dim - d : steps;
                for (int64_t i = 0; i < n; ++i) store<T>(part + i * lanes<T>, load<T>(from + (d + i) * width));
                store_tile<S>(y + c * lanes<T> * dim + d, dim, 1, frames, n, part);
            }
        }
    }

    // The parts of the backward pass: h = in_weight coefficients + in_bias, and the products with turned weights.
    void map_in(T* coefficients, T* h) const {
        map(in_weight, coefficients, h, [&](int64_t d, int) __attribute__((always_inline)) {
            return in_bias[d] - Vec<T>{};
        });
    }
    void map_in_turned(const T* dh, T* dcoefficients) const { map_turned(in_turned, dh, dcoefficients); }
    void map_out_turned(const T* dout, T* dh) const { map_turned(out_turned, dout, dh); }

    // coefficients = C_M x of each clip, as a tile; 0 for missing clips.
    void transform(const T* const* x, int64_t count, T* coefficients) const {
        for (int64_t clip = 0; clip < clips; ++clip) {
            T* const to = coefficients + clip * padded;
            if (clip >= count) {
                for (int64_t d = 0; d < dim; ++d) clear(to + d * width, padded);
                continue;
            }
            Tile::mix(x[clip], 1, dim, dct_turned, nullptr, dim,
                      [&](int64_t d, int c, Vec<T> v) __attribute__((always_inline)) {
                          store<T>(to + d * width + c * lanes<T>, v);
                      });
        }
    }

    // frames = C_M' coefficients, each register passed through finish(d, column, v).
    template <typename Finish>
    void transform_back(const T* coefficients, T* frames, Finish finish) const {
        for (int clip = 0; clip < clips; ++clip) {
            const int64_t first = clip * padded;
            Tile::mix(coefficients + first, width, 1, dct, nullptr, dim,
                      [&](int64_t d, int c, Vec<T> v) __attribute__((always_inline)) {
                          store<T>(frames + d * width + first + c * lanes<T>, finish(d, clip * Tile::vectors + c, v));
                      });
        }
    }

    // dx = C_M' dcoefficients, and on the last frame the sum of dy over the frames, which is sqrt(M) times the first of
    // dout = C_M dy.
    void transform_back_residual(const T* dcoefficients, const T* dout, T* dx) const {
        transform_back(dcoefficients, dx, [&](int64_t d, int column, Vec<T> v) __attribute__((always_inline)) {
            const int64_t clip = column / Tile::vectors, at = column % Tile::vectors * lanes<T>;
            return v + dout[d * width + clip * padded] * load<T>(last_frame + at);
        });
    }

   private:
    T *dct, *dct_turned;  // C[k][t] at [k * padded + t], and at [t * padded + k]
    T* dct_sums;          // of each column: what a constant in all coefficients adds to each frame
    T* last_frame;        // sqrt(M) in the last frame's lane
    T *in_bias, *out_bias, *in_weight, *out_weight, *in_turned, *out_turned;

    void run_blocks(const CmlpeForward<T, M>& own) const {
#if defined(__AVX512F__)
        if constexpr (same<T, float>) {
            if (narrow) {
                bf16* const pairs = reinterpret_cast<bf16*>(own.pairs);
                return stack.forward_narrow(own.mod, own.right, own.sums, own.found, pairs);
            }
        }
#endif
        stack.forward(own.mod, own.right, own.sums, own.found);
    }

    // narrow: `in` becomes pairs.
    template <typename Start>
    void map(const T* weight, T* in, T* out, Start start) const {
#if defined(__AVX512F__)
        if constexpr (same<T, float>) {
            if (narrow) {
                make_pairs<width>(in, width, dim, in);
                return map_pairs<width>(weight, in, out, rows, dim, start);
            }
        }
#endif
        map_rows<T, width>(weight, in, out, rows, dim, start);
    }
    void map_turned(const T* weight, const T* in, T* out) const {
        map_rows<T, width>(weight, in, out, rows, dim,
                           [](int64_t, int) __attribute__((always_inline)) { return Vec<T>{}; });
    }

    void pack(const CmlpeParameters<T>& given, bool backward) {
        clear(dct, M * padded);
        clear(dct_turned, M * padded);
        clear(dct_sums, padded);
        clear(last_frame, padded);
        clear(in_bias, rows);
        clear(out_bias, rows);
        for (int64_t k = 0; k < M; ++k) {
            for (int64_t t = 0; t < M; ++t) {
                const T value = given.dct[k * M + t];
                dct[k * padded + t] = dct_turned[t * padded + k] = value;
                dct_sums[t] += value;
                if (k == 0) last_frame[M - 1] += value;
            }
        }
        for (int64_t d = 0; d < dim; ++d) {
            in_bias[d] = given.in_bias[d];
            out_bias[d] = given.out_bias[d];
        }
        pack_map(given.in_weight, in_weight);
        pack_map(given.out_weight, out_weight);
        if (!backward) return;
        pack_rows<T>(given.in_weight, 1, dim, dim, rows, dim, in_turned);
        pack_rows<T>(given.out_weight, 1, dim, dim, rows, dim, out_turned);
    }
    void pack_map(const T* weight, T* packed) const {
        if constexpr (same<T, float>) {
            if (narrow) return pack_pairs(weight, dim, rows, dim, packed);
        }
        pack_rows<T>(weight, dim, 1, dim, rows, dim, packed);
    }
};

}  // namespace handcraft::HANDCRAFT_ISA
