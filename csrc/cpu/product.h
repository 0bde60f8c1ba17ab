// Products of matrices of any sizes that lie in memory as they are, registers along the columns; what a sum begins with
// and what becomes of it are the caller's.
#pragma once

#include "entry.h"
#include "gemm.h"
#include "tile.h"

namespace handcraft::HANDCRAFT_ISA {

// to[k * row + r] = from[r * columns + k]; rows of `to` are whole registers.
template <typename T>
void turn(const T* from, int64_t rows, int64_t columns, T* to, int64_t row) {
    T* const tile = static_cast<T*>(scratch(size_t(columns * lanes<T>) * sizeof(T)));
    for (int64_t r = 0; r < rows; r += lanes<T>) {
        load_tile<T>(from + r * columns, columns, 1, int(rows - r < lanes<T> ? rows - r : lanes<T>), columns, tile);
        for (int64_t k = 0; k < columns; ++k) store<T>(to + k * row + r, load<T>(tile + k * lanes<T>));
    }
}

// multiply_add whose last register of b has `last` numbers, behind which nothing is read.
template <typename T, int R, int C>
HANDCRAFT_INLINE void multiply_add_edge(Vec<T> (&sums)[R][C], const T* a, int64_t a_row, int64_t a_step, const T* b,
                                        int64_t b_row, int64_t depth, int last) {
    for (int64_t k = 0; k < depth; ++k) {
        Vec<T> right[C];
        for (int c = 0; c + 1 < C; ++c) right[c] = load<T>(b + k * b_row + c * lanes<T>);
        right[C - 1] = load_first<T>(b + k * b_row + (C - 1) * lanes<T>, last);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const T left = a[r * a_row + k * a_step];
#pragma GCC unroll 8
            for (int c = 0; c < C; ++c) sums[r][c] += left * right[c];
        }
    }
}

// out(r,c) = start(r,c) + sum over k < depth of a[r * a_row + k * a_step] * b[k * b_row + c * lanes ...], handed to
// finish(r, c, register), for r < rows and all registers c of `numbers` columns. edge: whether the last one of a row of b
// has no more numbers than are wanted; else rows of b are whole registers.
template <typename T, int R, int C, typename Start, typename Finish>
HANDCRAFT_INLINE void product_tile(const T* a, int64_t a_row, int64_t a_step, const T* b, int64_t b_row, int64_t depth,
                                   int64_t r, int64_t c, int last, Start& start, Finish& finish) {
    Vec<T> sums[R][C];
    for (int i = 0; i < R; ++i) {
        for (int j = 0; j < C; ++j) sums[i][j] = start(r + i, c + j);
    }
    if (last == lanes<T>) {
        multiply_add<T, R, C>(sums, a + r * a_row, a_row, a_step, b + c * lanes<T>, b_row, depth);
    } else {
        multiply_add_edge<T, R, C>(sums, a + r * a_row, a_row, a_step, b + c * lanes<T>, b_row, depth, last);
    }
    for (int i = 0; i < R; ++i) {
        for (int j = 0; j < C; ++j) finish(r + i, c + j, sums[i][j]);
    }
}

template <typename T, int C, typename Start, typename Finish>
HANDCRAFT_INLINE void product_columns(const T* a, int64_t a_row, int64_t a_step, const T* b, int64_t b_row,
                                      int64_t rows, int64_t depth, int64_t c, int last, Start& start,
                                      Finish& finish) {
    constexpr int quarter = tile_rows / 3;
    int64_t r = 0;
    for (; r + tile_rows <= rows; r += tile_rows) {
        product_tile<T, tile_rows, C>(a, a_row, a_step, b, b_row, depth, r, c, last, start, finish);
    }
    for (; r + quarter <= rows; r += quarter) {
        product_tile<T, quarter, C>(a, a_row, a_step, b, b_row, depth, r, c, last, start, finish);
    }
    for (; r < rows; ++r) product_tile<T, 1, C>(a, a_row, a_step, b, b_row, depth, r, c, last, start, finish);
}

template <typename T, bool edge = false, typename Start, typename Finish>
void product(const T* a, int64_t a_row, int64_t a_step, const T* b, int64_t b_row, int64_t rows, int64_t depth,
             int64_t numbers, Start start, Finish finish) {
    const int64_t columns = (numbers + lanes<T> - 1) / lanes<T>;
    const auto last = [&](int64_t c) { return edge && c == columns ? int(numbers - (columns - 1) * lanes<T>) : lanes<T>; };
    int64_t c = 0;
    for (; c + 2 <= columns; c += 2) {
        product_columns<T, 2>(a, a_row, a_step, b, b_row, rows, depth, c, last(c + 2), start, finish);
    }
    if (c < columns) {
        product_columns<T, 1>(a, a_row, a_step, b, b_row, rows, depth, c, last(c + 1), start, finish);
    }
}

template <typename T>
HANDCRAFT_INLINE auto zero() {
    return [](int64_t, int64_t) { return Vec<T>{}; };
}

// Stores into rows of `row` numbers, a multiple of the lanes.
template <typename T>
HANDCRAFT_INLINE auto into(T* to, int64_t row) {
    return [=](int64_t r, int64_t c, Vec<T> v) { store<T>(to + r * row + c * lanes<T>, v); };
}

// Stores the first `numbers` of a row of `numbers`, in the storage type.
template <typename S>
HANDCRAFT_INLINE auto into_exact(S* to, int64_t numbers) {
    return [=](int64_t r, int64_t c, Vec<Compute<S>> v) {
        constexpr int width = lanes<Compute<S>>;
        S* place = to + r * numbers + c * width;
        const int64_t left = numbers - c * width;
        if (left >= width) {
            store_from_compute<S>(place, v);
        } else {
            store_first<S>(place, v, int(left));
        }
    };
}

}  // namespace handcraft::HANDCRAFT_ISA
