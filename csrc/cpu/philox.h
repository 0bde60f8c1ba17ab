// Counter-based random numbers: Philox4x32-10 (Salmon et al., 2011), its words and the normal numbers made of them.
//
//     key = (seed low, seed high),
//     counter = (clip_id low, clip_id high, stream << 24 | block << 8 | quad % 256, quad / 256)
//
// The words equal those of kernels/philox.py bit for bit. Several quads of a block are computed side by side.
#pragma once

#include "vecmath.h"

namespace handcraft::HANDCRAFT_ISA {

namespace detail {
typedef uint64_t Words __attribute__((vector_size(vector_bytes)));  // 32-bit words, each in the low half of a lane

// The full products of 32-bit words.
HANDCRAFT_INLINE Words times(Words a, uint32_t b) {
#if defined(__AVX512F__)
    return Words(_mm512_mul_epu32(__m512i(a), _mm512_set1_epi64(int64_t(b))));
#elif defined(__AVX2__)
    return Words(_mm256_mul_epu32(__m256i(a), _mm256_set1_epi64x(int64_t(b))));
#else
    return a * b;
#endif
}
}  // namespace detail

// Quads computed at a time.
constexpr int philox_quads = vector_bytes / 8;

// Words 0..3 of quads quad..quad + philox_quads - 1, where quad is a multiple of philox_quads; word[i][j] is word i of
// quad + j.
HANDCRAFT_INLINE void philox_words(uint64_t seed, int64_t clip_id, uint64_t stream, uint64_t block, uint64_t quad,
                                   detail::Words word[4]) {
    using detail::Words;
    const uint64_t low = 0xffffffff, id = uint64_t(clip_id);
    Words c0 = Words{} + (id & low), c1 = Words{} + (id >> 32), c2 = Words{}, c3 = Words{} + (quad >> 8);
    for (int j = 0; j < philox_quads; ++j) c2[j] = (stream << 24 | block << 8 | (quad & 255)) + j;
    uint64_t k0 = seed & low, k1 = seed >> 32;
    for (int round = 0; round < 10; ++round) {
        const Words p0 = detail::times(c0, 0xD2511F53u), p1 = detail::times(c2, 0xCD9E8D57u);
        c0 = (p1 >> 32) ^ c1 ^ k0;
        c1 = p1 & low;
        c2 = (p0 >> 32) ^ c3 ^ k1;
        c3 = p0 & low;
        k0 = (k0 + 0x9E3779B9u) & low;
        k1 = (k1 + 0xBB67AE85u) & low;
    }
    word[0] = c0, word[1] = c1, word[2] = c2, word[3] = c3;
}

// Standard normal numbers of blocks 0..blocks-1 by Box and Muller: out (blocks,size), quad q gives elements 4q..4q+3.
inline void philox_normals(uint64_t seed, int64_t clip_id, uint64_t stream, int64_t blocks, int64_t size, float* out) {
    constexpr int L = lanes<float>;
    static_assert(L == 2 * philox_quads, "two pairs of a quad fill a vector of floats");
    for (int64_t block = 0; block < blocks; ++block) {
        for (int64_t first = 0; 4 * first < size; first += philox_quads) {
            detail::Words word[4];
            philox_words(seed, clip_id, stream, uint64_t(block), uint64_t(first), word);
            Vec<float> u0, u1;  // lane j is pair j % 2 of quad j / 2
            for (int j = 0; j < philox_quads; ++j) {
                u0[2 * j] = float(uint32_t(word[0][j]) >> 9), u1[2 * j] = float(uint32_t(word[1][j]) >> 9);
                u0[2 * j + 1] = float(uint32_t(word[2][j]) >> 9), u1[2 * j + 1] = float(uint32_t(word[3][j]) >> 9);
            }
            u0 = (u0 + 0.5f) * 0x1p-23f;
            u1 = (u1 + 0.5f) * 0x1p-23f;
            Vec<float> radius = -2.0f * log<float>(u0), sine, cosine;
            for (int j = 0; j < L; ++j) radius[j] = __builtin_sqrtf(radius[j]);
            sincos_turns<float>(u1, sine, cosine);
            const int64_t left = size - 4 * first;
            for (int64_t j = 0; j < L && 2 * j < left; ++j) {
                out[block * size + 4 * first + 2 * j] = radius[j] * cosine[j];
                if (2 * j + 1 < left) out[block * size + 4 * first + 2 * j + 1] = radius[j] * sine[j];
            }
        }
    }
}

}  // namespace handcraft::HANDCRAFT_ISA
