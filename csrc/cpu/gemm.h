// Small matrix products whose operands stay in the first two caches.
//
// Everything is built on one microkernel: sums[r][c] += a(r,k) * b(k,c), where a is broadcast and b is a row of
// registers. Weights are packed so that a(0..R-1,k) lie side by side; activations are rows of `width` numbers, a
// coefficient of a clip in each lane, so that a product over D needs no rearranging and a D that is no multiple of a
// register costs nothing.
#pragma once

#include "simd.h"
#include "tile.h"

namespace handcraft::HANDCRAFT_ISA {

// Rows of sums: with two columns, two registers of b and a broadcast one they fill the register file.
constexpr int tile_rows = vector_registers == 32 ? 12 : 6;
// Rows of weights and activations are padded to a multiple of this.
constexpr int row_multiple = 12;

HANDCRAFT_INLINE int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// sums[r][c] += a[r * a_row + k * a_step] * b[k * b_step + c * lanes ...] over k < depth.
template <typename T, int R, int C>
HANDCRAFT_INLINE void multiply_add(Vec<T> (&sums)[R][C], const T* a, int64_t a_row, int64_t a_step, const T* b,
                                   int64_t b_step, int64_t depth) {
#pragma GCC unroll 2
    for (int64_t k = 0; k < depth; ++k) {
        Vec<T> right[C];
#pragma GCC unroll 8
        for (int c = 0; c < C; ++c) right[c] = load<T>(b + k * b_step + c * lanes<T>);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const T left = a[r * a_row + k * a_step];
#pragma GCC unroll 8
            for (int c = 0; c < C; ++c) sums[r][c] += left * right[c];
        }
    }
}

// A weight (rows, depth), rows padded with zeros to `padded`: tile after tile of tile_rows rows, in each k after k.
// Element (r,k) is read at r * row_stride + k * k_stride.
template <typename T>
void pack_rows(const T* weight, int64_t row_stride, int64_t k_stride, int64_t rows, int64_t padded, int64_t depth,
               T* packed) {
    for (int64_t tile = 0; tile < padded; tile += tile_rows, weight += tile_rows * row_stride) {
        const int64_t count = rows - tile < tile_rows ? (rows > tile ? rows - tile : 0) : tile_rows;
        for (int64_t k = 0; k < depth; ++k, packed += tile_rows) {
            if (count == tile_rows) {
#pragma GCC unroll 16
                for (int r = 0; r < tile_rows; ++r) packed[r] = weight[r * row_stride + k * k_stride];
            } else {
                for (int r = 0; r < tile_rows; ++r) {
                    packed[r] = r < count ? weight[r * row_stride + k * k_stride] : T(0);
                }
            }
        }
    }
}

// out (padded, width) = start + weight (padded, depth) * in (depth, width); width is a multiple of two registers.
// start(r, c) is the register that row r and column c begin with.
template <typename T, int width, typename Start>
void map_rows(const T* packed, const T* in, T* out, int64_t padded, int64_t depth, Start start) {
    constexpr int columns = width / lanes<T>;
    static_assert(columns % 2 == 0);
    for (int64_t tile = 0; tile < padded; tile += tile_rows) {
        for (int c = 0; c < columns; c += 2) {
            Vec<T> sums[tile_rows][2];
#pragma GCC unroll 16
            for (int r = 0; r < tile_rows; ++r) {
                sums[r][0] = start(tile + r, c);
                sums[r][1] = start(tile + r, c + 1);
            }
            multiply_add<T, tile_rows, 2>(sums, packed + tile * depth, 1, tile_rows, in + c * lanes<T>, width, depth);
#pragma GCC unroll 16
            for (int r = 0; r < tile_rows; ++r) {
                store<T>(out + (tile + r) * width + c * lanes<T>, sums[r][0]);
                store<T>(out + (tile + r) * width + (c + 1) * lanes<T>, sums[r][1]);
            }
        }
    }
}

// out[i][j] += sum over k < depth of a[i * step + k] * b[j * step + k], for i, j < padded, a multiple of 4; depth is a
// multiple of the lanes. out has rows of `padded`. The gradient of a weight: a and b are rows of many clips'
// coefficients.
template <typename T>
void add_outer_products(const T* a, const T* b, int64_t step, int64_t depth, int64_t padded, T* out) {
    constexpr int R = 4, C = vector_registers == 32 ? 4 : 2;
    for (int64_t j = 0; j < padded; j += C) {
        for (int64_t i = 0; i < padded; i += R) {
            Vec<T> sums[R][C] = {};
            for (int64_t k = 0; k < depth; k += lanes<T>) {
                Vec<T> right[C];
#pragma GCC unroll 4
                for (int c = 0; c < C; ++c) right[c] = load<T>(b + (j + c) * step + k);
#pragma GCC unroll 4
                for (int r = 0; r < R; ++r) {
                    const Vec<T> left = load<T>(a + (i + r) * step + k);
#pragma GCC unroll 4
                    for (int c = 0; c < C; ++c) sums[r][c] += left * right[c];
                }
            }
            alignas(64) T registers[R * C * lanes<T>], totals[R * C];
#pragma GCC unroll 16
            for (int n = 0; n < R * C; ++n) store<T>(registers + n * lanes<T>, sums[n / C][n % C]);
            for (int n = 0; n < R * C; n += lanes<T>) store<T>(totals + n, lane_sums<T>(registers + n * lanes<T>));
            for (int r = 0; r < R; ++r) {
                for (int c = 0; c < C; ++c) out[(i + r) * padded + j + c] += totals[r * C + c];
            }
        }
    }
}

// out[i] += sum over k < depth of a[i * step + k], for i < padded, a multiple of 4.
template <typename T>
void add_row_sums(const T* a, int64_t step, int64_t depth, int64_t padded, T* out) {
    for (int64_t i = 0; i < padded; i += 4) {
        Vec<T> sums[4] = {};
        for (int64_t k = 0; k < depth; k += lanes<T>) {
#pragma GCC unroll 4
            for (int r = 0; r < 4; ++r) sums[r] += load<T>(a + (i + r) * step + k);
        }
        for (int r = 0; r < 4; ++r) out[i + r] += sum<T>(sums[r]);
    }
}

}  // namespace handcraft::HANDCRAFT_ISA
