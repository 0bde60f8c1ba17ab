// The random words of philox.h, what drops out of a network, and, for their tests, the normal numbers, as entries.
#include "philox.h"

#include "entry.h"
#include "tile.h"

namespace handcraft::HANDCRAFT_ISA {
namespace {

// out (batch, blocks, quads, 4): blocks from `block` on.
#define WORDS_FIELDS(POINTER, OPTIONAL, STRIDED, SIZE, REAL)                                                  \
    POINTER(const int64_t, clip_id) POINTER(int64_t, out) SIZE(batch) SIZE(seed) SIZE(stream) SIZE(block) SIZE(blocks) \
    SIZE(quads)
HANDCRAFT_ARGUMENTS(Words, WORDS_FIELDS)

template <typename T>
void words(const Words<T>& a) {
    for (int64_t row = 0; row < a.batch * a.blocks; ++row) {
        const uint64_t block = uint64_t(a.block + row % a.blocks);
        for (int64_t first = 0; first < a.quads; first += philox_quads) {
            detail::Words word[4];
            philox_words(uint64_t(a.seed), a.clip_id[row / a.blocks], uint64_t(a.stream), block, uint64_t(first), word);
            for (int64_t j = 0; j < philox_quads && first + j < a.quads; ++j) {
                for (int i = 0; i < 4; ++i) a.out[(row * a.quads + first + j) * 4 + i] = int64_t(word[i][j]);
            }
        }
    }
}

// out (batch, size): `scale` for each half of a word, the low one first, that is at least `threshold`, else 0.
#define KEEP_FIELDS(POINTER, OPTIONAL, STRIDED, SIZE, REAL)                                                 \
    POINTER(const int64_t, clip_id) POINTER(T, out) SIZE(batch) SIZE(seed) SIZE(stream) SIZE(size) SIZE(threshold) \
    REAL(scale)
HANDCRAFT_ARGUMENTS(Keep, KEEP_FIELDS)

template <typename T>
void keep(const Keep<T>& given) {
    parallel_for(
        given.batch, 1 + (1 << 14) / (given.size + 1),
        [](int64_t begin, int64_t end, void* context) {
            const Keep<T>& a = *static_cast<const Keep<T>*>(context);
            constexpr int64_t halves = 8 * philox_quads;
            for (int64_t b = begin; b < end; ++b) {
                for (int64_t first = 0; first < a.size; first += halves) {
                    detail::Words word[4], pairs[2];
                    philox_words(uint64_t(a.seed), a.clip_id[b], uint64_t(a.stream), 0, uint64_t(first / 8), word);
                    for (int i = 0; i < 2; ++i) pairs[i] = word[2 * i] | word[2 * i + 1] << 32;
                    uint64_t ordered[2 * philox_quads];
                    for (int j = 0; j < philox_quads; ++j) {
                        ordered[2 * j] = pairs[0][j];
                        ordered[2 * j + 1] = pairs[1][j];
                    }
                    for (int64_t i = 0; i < halves && first + i < a.size; i += lanes<T>) {
                        detail::Half half;
                        __builtin_memcpy(&half, reinterpret_cast<const uint16_t*>(ordered) + i, sizeof(half));
                        const Mask<T> kept = __builtin_convertvector(half, Mask<T>) >= int32_t(a.threshold);
                        const int64_t left = a.size - first - i;
                        store_first<T>(a.out + b * a.size + first + i, kept ? broadcast<T>(T(a.scale)) : Vec<T>{},
                                       int(left < lanes<T> ? left : lanes<T>));
                    }
                }
            }
        },
        const_cast<Keep<T>*>(&given));
}

#define NORMAL_FIELDS(POINTER, OPTIONAL, STRIDED, SIZE, REAL) \
    POINTER(const int64_t, clip_id) POINTER(T, out) SIZE(batch) SIZE(seed) SIZE(stream) SIZE(blocks) SIZE(size)
HANDCRAFT_ARGUMENTS(Normal, NORMAL_FIELDS)

template <typename T>
void normal(const Normal<T>& a) {
    for (int64_t b = 0; b < a.batch; ++b) {
        T* out = a.out + b * a.blocks * a.size;
        philox_normals(uint64_t(a.seed), a.clip_id[b], uint64_t(a.stream), a.blocks, a.size, out);
    }
}

constexpr Entry table[] = {
    HANDCRAFT_ENTRY("philox_words_f32", Words, float, words),
    HANDCRAFT_ENTRY("philox_keep_f32", Keep, float, keep),
    HANDCRAFT_ENTRY("philox_normal_f32", Normal, float, normal),
};

}  // namespace

extern const Entries philox_entries{table, sizeof(table) / sizeof(table[0])};

}  // namespace handcraft::HANDCRAFT_ISA
