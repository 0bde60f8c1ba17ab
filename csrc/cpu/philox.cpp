// The random words and normal numbers of philox.h as entries, for their tests.
#include "philox.h"

#include "entry.h"

namespace handcraft::HANDCRAFT_ISA {
namespace {

#define WORDS_FIELDS(POINTER, OPTIONAL, STRIDED, SIZE, REAL) \
    POINTER(const int64_t, clip_id) POINTER(int64_t, out) SIZE(batch) SIZE(seed) SIZE(stream) SIZE(block) SIZE(quads)
HANDCRAFT_ARGUMENTS(Words, WORDS_FIELDS)

template <typename T>
void words(const Words<T>& a) {
    for (int64_t b = 0; b < a.batch; ++b) {
        for (int64_t first = 0; first < a.quads; first += philox_quads) {
            detail::Words word[4];
            philox_words(uint64_t(a.seed), a.clip_id[b], uint64_t(a.stream), uint64_t(a.block), uint64_t(first), word);
            for (int64_t j = 0; j < philox_quads && first + j < a.quads; ++j) {
                for (int i = 0; i < 4; ++i) a.out[(b * a.quads + first + j) * 4 + i] = int64_t(word[i][j]);
            }
        }
    }
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
    HANDCRAFT_ENTRY("philox_normal_f32", Normal, float, normal),
};

}  // namespace

extern const Entries philox_entries{table, sizeof(table) / sizeof(table[0])};

}  // namespace handcraft::HANDCRAFT_ISA
