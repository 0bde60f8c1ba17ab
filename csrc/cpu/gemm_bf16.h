// The map over D of gemm.h with AVX512-BF16: products of bf16 numbers, summed in float. Two rows of the operands make
// one row of pairs, a bf16 number of each in the lower and the upper half of 32 bits.
#pragma once

#include "gemm.h"

namespace handcraft::HANDCRAFT_ISA {

typedef uint32_t Pair __attribute__((may_alias));

// As pack_rows, of a contiguous weight and with depth rounded up to pairs: at most as much memory.
inline void pack_pairs(const float* weight, int64_t rows, int64_t padded, int64_t depth, float* packed) {
    constexpr int64_t most = 64;
    Pair* to = reinterpret_cast<Pair*>(packed);
    for (int64_t tile = 0; tile < padded; tile += tile_rows, to += (depth + 1) / 2 * tile_rows) {
        for (int64_t r = 0; r < tile_rows; ++r) {
            for (int64_t k = 0; k < depth; k += most) {
                const int64_t count = depth - k < most ? depth - k : most;
                bf16 piece[most] = {};
                if (tile + r < rows) convert_back<bf16>(weight + (tile + r) * depth + k, piece, count);
                for (int64_t i = 0; i < count; i += 2) __builtin_memcpy(to + (k + i) / 2 * tile_rows + r, piece + i, 4);
            }
        }
    }
}

#if defined(__AVX512F__)

// Rows 2i and 2i + 1 of `in` become row i of pairs in `out`, which may be the same memory. Rows are `step` numbers apart,
// of which `width` are taken. An odd last row is paired with zeros.
template <int width>
__attribute__((target("avx512bf16"))) void make_pairs(const float* in, int64_t step, int64_t depth, float* out) {
    alignas(64) uint16_t order[32];
    for (int i = 0; i < 32; ++i) order[i] = uint16_t(i / 2 + i % 2 * 16);
    const __m512i interleaved = _mm512_load_si512(order);
    for (int64_t k = 0; k < depth; k += 2) {
        for (int at = 0; at < width; at += lanes<float>) {
            const __m512 low = load<float>(in + k * step + at);
            const __m512 high = k + 1 < depth ? load<float>(in + (k + 1) * step + at) : Vec<float>{};
            const __m512i both = __m512i(_mm512_cvtne2ps_pbh(high, low));
            _mm512_storeu_si512(out + k / 2 * width + at, _mm512_permutexvar_epi16(interleaved, both));
        }
    }
}

// As map_rows, for what pack_pairs and make_pairs have made.
template <int width, typename Start>
__attribute__((target("avx512bf16"))) void map_pairs(const float* packed, const float* in, float* out, int64_t padded,
                                                     int64_t depth, Start start) {
    constexpr int columns = width / lanes<float>;
    const Pair* left = reinterpret_cast<const Pair*>(packed);
    for (int64_t tile = 0; tile < padded; tile += tile_rows, left += (depth + 1) / 2 * tile_rows) {
        for (int c = 0; c < columns; c += 2) {
            __m512 sums[tile_rows][2];
#pragma GCC unroll 16
            for (int r = 0; r < tile_rows; ++r) {
                sums[r][0] = start(tile + r, c);
                sums[r][1] = start(tile + r, c + 1);
            }
            const float* right = in + c * lanes<float>;
            for (int64_t k = 0; k < (depth + 1) / 2; ++k) {
                const __m512bh first = __m512bh(_mm512_loadu_si512(right + k * width));
                const __m512bh second = __m512bh(_mm512_loadu_si512(right + k * width + lanes<float>));
#pragma GCC unroll 16
                for (int r = 0; r < tile_rows; ++r) {
                    const __m512bh pair = __m512bh(_mm512_set1_epi32(int(left[k * tile_rows + r])));
                    sums[r][0] = _mm512_dpbf16_ps(sums[r][0], pair, first);
                    sums[r][1] = _mm512_dpbf16_ps(sums[r][1], pair, second);
                }
            }
#pragma GCC unroll 16
            for (int r = 0; r < tile_rows; ++r) {
                store<float>(out + (tile + r) * width + c * lanes<float>, sums[r][0]);
                store<float>(out + (tile + r) * width + (c + 1) * lanes<float>, sums[r][1]);
            }
        }
    }
}

#endif

}  // namespace handcraft::HANDCRAFT_ISA
