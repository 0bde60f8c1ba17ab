// K conditional MLP blocks on the tile of a few clips: modulation from the embedding, packed weights, gradients.
#pragma once

#include "adaln_tile.h"
#include "entry.h"
#include "vecmath.h"

namespace handcraft::HANDCRAFT_ISA {

// Memory handed out piece by piece, each aligned to 64 bytes; with base null only counted.
template <typename T>
struct Memory {
    T* base = nullptr;
    int64_t used = 0;

    T* take(int64_t count) {
        T* piece = base ? base + used : nullptr;
        used += round_up(count, 64 / sizeof(T));
        return piece;
    }
};

// Numbers that Piece(arguments..., memory) takes, and a Piece in this thread's scratch memory.
template <typename Piece, typename T, typename... Arguments>
int64_t numbers_of(const Arguments&... arguments) {
    Memory<T> counted;
    const Piece piece(arguments..., counted);
    return counted.used;
}
template <typename Piece, typename T, typename... Arguments>
Piece in_scratch(const Arguments&... arguments) {
    Memory<T> memory{static_cast<T*>(scratch(size_t(numbers_of<Piece, T>(arguments...)) * sizeof(T)))};
    return Piece(arguments..., memory);
}

// body(index) for index in 0..count, in torch's threads.
template <typename Body>
void parallel_each(int64_t count, const Body& body) {
    parallel_for(
        count, 1,
        [](int64_t begin, int64_t end, void* context) {
            for (int64_t i = begin; i < end; ++i) (*static_cast<const Body*>(context))(i);
        },
        const_cast<Body*>(&body));
}

// Parameters as the caller has them, contiguous, in the type that is computed with. Where the modulation is given,
// mod_weight and mod_bias are null and E is 0.
template <typename T>
struct StackParameters {
    int64_t dim, blocks, embedding;
    const T* mod_weight;   // (K,3M,E)
    const T* mod_bias;     // (K,3M)
    const T* norm_weight;  // (K,D)
    const T* norm_bias;    // (K,D)
    const T* fc_weight;    // (K,M,M)
    const T* fc_bias;      // (K,M)
};

// The backward pass walks chunks of the batch, cut by its size alone; each has its own sums, which are added in order.
// So gradients do not depend on the number of threads.
HANDCRAFT_INLINE int64_t clips_of_chunk(int64_t batch) {
    constexpr int64_t most_chunks = 32, fewest_clips = 8;
    const int64_t clips = round_up((batch + most_chunks - 1) / most_chunks, 2);
    return clips < fewest_clips ? fewest_clips : clips;
}

// out (rows, columns) = the sums, chunk after chunk, of first[chunk * chunk_step + row * row_step + column].
template <typename T>
void add_chunks(const T* first, int64_t chunk_step, int64_t chunks, int64_t rows, int64_t columns, int64_t row_step,
                T* out) {
    for (int64_t row = 0; row < rows; ++row) {
        const T* from = first + row * row_step;
        T* to = out + row * columns;
        for (int64_t i = 0; i < columns; ++i) to[i] = from[i];
        for (int64_t chunk = 1; chunk < chunks; ++chunk) {
            from += chunk_step;
            for (int64_t i = 0; i < columns; ++i) to[i] += from[i];
        }
    }
}

// Sums over the clips of a chunk; D padded to row_multiple, E to the lanes, M as in AdalnTile.
template <typename T, int M>
struct StackGradients {
    using Tile = AdalnTile<T, M>;
    const StackParameters<T>& given;
    int64_t dim, embedding;  // padded
    T *mod_weight, *mod_bias, *norm_weight, *norm_bias, *fc, *fc_bias;

    StackGradients(const StackParameters<T>& given, Memory<T>& memory)
        : given(given), dim(round_up(given.dim, row_multiple)), embedding(round_up(given.embedding, lanes<T>)) {
        mod_weight = memory.take(given.blocks * Tile::modulation * embedding);
        mod_bias = memory.take(given.blocks * Tile::modulation);
        norm_weight = memory.take(given.blocks * dim);
        norm_bias = memory.take(given.blocks * dim);
        fc = memory.take(given.blocks * M * Tile::padded);
        fc_bias = memory.take(given.blocks * Tile::padded);
    }

    BlockGradients<T> block(int64_t k) const {
        return {norm_weight + k * dim, norm_bias + k * dim, fc + k * M * Tile::padded, fc_bias + k * Tile::padded};
    }

    // Of the first chunk: adds those of the others, into tensors of the parameters' shapes.
    void add_up(int64_t chunk_step, int64_t chunks, T* dmod_weight, T* dmod_bias, T* dnorm_weight, T* dnorm_bias,
                T* dfc_weight, T* dfc_bias) const {
        const auto add = [&](const T* from, int64_t rows, int64_t columns, int64_t row_step, T* out) {
            add_chunks<T>(from, chunk_step, chunks, rows, columns, row_step, out);
        };
        const int64_t blocks = given.blocks;
        add(norm_weight, blocks, given.dim, dim, dnorm_weight);
        add(norm_bias, blocks, given.dim, dim, dnorm_bias);
        add(fc, blocks * M, M, Tile::padded, dfc_weight);
        add(fc_bias, blocks, M, Tile::padded, dfc_bias);
        if (!given.mod_weight) return;
        add(mod_bias, blocks * 3, M, Tile::padded, dmod_bias);
        for (int64_t part = 0; part < blocks * 3; ++part) {
            add(mod_weight + part * Tile::padded * embedding, M, given.embedding, embedding,
                dmod_weight + part * M * given.embedding);
        }
    }
};

template <typename T, int M>
class AdalnStack {
   public:
    using Tile = AdalnTile<T, M>;
    static constexpr int padded = Tile::padded;
    static constexpr int clips = Tile::clips;
    const int64_t dim, blocks, embedding, padded_embedding;
    const int64_t active_step, mod_step;  // numbers of a clip: SiLU(e) as (K, E padded), modulation as (K, 3, padded)

    AdalnStack(const StackParameters<T>& given, Memory<T>& memory)
        : dim(given.dim),
          blocks(given.blocks),
          embedding(given.embedding),
          padded_embedding(round_up(embedding, lanes<T>)),
          active_step(blocks * padded_embedding),
          mod_step(blocks * Tile::modulation),
          norm_weight(given.norm_weight),
          norm_bias(given.norm_bias) {
        const int64_t start = memory.used;
        fc = memory.take(blocks * M * padded);
        fc_turned = memory.take(blocks * M * padded);
        fc_bias = memory.take(blocks * padded);
        mod_weight = memory.take(blocks * Tile::modulation * padded_embedding);
        mod_turned = memory.take(blocks * Tile::modulation * embedding);
        mod_bias = memory.take(blocks * Tile::modulation);
        if (!memory.base) return;
        clear(memory.base + start, memory.used - start);
        pack(given);
    }

    // Of `count` clips, the other ones of the tile as if e were 0. e: (count,K,E). active: clips * active_step, mod:
    // clips * mod_step numbers.
    void modulate(const T* e, int64_t count, T* active, T* mod) const {
        for (int64_t row = 0; row < clips * blocks; ++row) {
            for (int64_t i = 0; i < padded_embedding; i += lanes<T>) {
                const int64_t left = row < count * blocks ? embedding - i : 0;
                const int n = int(left < lanes<T> ? left : lanes<T>);
                store<T>(active + row * padded_embedding + i, silu<T>(load_first<T>(e + row * embedding + i, n)));
            }
        }
        for (int64_t k = 0; k < blocks; ++k) {
            for (int c = 0; c < 3 * Tile::vectors; c += 3) {
                const int64_t at = k * Tile::modulation + c * lanes<T>;
                Vec<T> sums[clips][3];
                for (int i = 0; i < clips; ++i) {
                    for (int j = 0; j < 3; ++j) sums[i][j] = load<T>(mod_bias + at + j * lanes<T>);
                }
                multiply_add<T, clips, 3>(sums, active + k * padded_embedding, active_step, 1,
                                          mod_turned + k * Tile::modulation * embedding + c * lanes<T>,
                                          Tile::modulation, embedding);
                for (int i = 0; i < clips; ++i) {
                    for (int j = 0; j < 3; ++j) store<T>(mod + i * mod_step + at + j * lanes<T>, sums[i][j]);
                }
            }
        }
    }

    // All blocks on a tile, in place. sums: `width` numbers for itself; found: `statistics` numbers.
    void forward(const T* mod, T* h, T* sums, T* found) const {
        Tile::add_channels(h, dim, sums);
        for (int64_t k = 0; k < blocks; ++k) {
            Tile::forward(block(k), mod + k * Tile::modulation, mod_step, dim, h, h, sums, found);
        }
    }

#if defined(__AVX512F__)
    // The same with products of bf16 numbers; pairs: dim * padded of them.
    void forward_narrow(const T* mod, T* h, T* sums, T* found, bf16* pairs) const {
        Tile::add_channels(h, dim, sums);
        for (int64_t k = 0; k < blocks; ++k) {
            Tile::forward_narrow(block(k), mod + k * Tile::modulation, mod_step, dim, h, sums, found, pairs);
        }
    }
#endif

    // `forward` from tile to tile, each tile_step further; found: for each block.
    void forward_keeping(const T* mod, T* h, int64_t tile_step, T* sums, T* found) const {
        Tile::add_channels(h, dim, sums);
        for (int64_t k = 0; k < blocks; ++k, h += tile_step) {
            Tile::forward(block(k), mod + k * Tile::modulation, mod_step, dim, h, h + tile_step, sums,
                          found + k * Tile::statistics);
        }
    }

    // dh: of the result of `forward_keeping`, becomes that of the first tile. dmod: laid out as mod.
    void backward(const T* mod, const T* h, int64_t tile_step, const T* found, T* dh, const StackGradients<T, M>& grads,
                  T* dmod, T* spare) const {
        for (int64_t k = blocks - 1; k >= 0; --k) {
            Tile::backward(block(k), mod + k * Tile::modulation, mod_step, dim, h + k * tile_step,
                           found + k * Tile::statistics, dh, grads.block(k), dmod + k * Tile::modulation, spare);
        }
    }

    // Of `count` clips: e and de (count,K,E), active and dmod as `modulate` and `backward` left them.
    void backward_modulation(const T* e, const T* active, const T* dmod, int64_t count, T* de,
                             const StackGradients<T, M>& grads) const {
        for (int64_t row = 0; row < mod_step; row += lanes<T>) {
            Vec<T> total = load<T>(grads.mod_bias + row);
            for (int64_t clip = 0; clip < count; ++clip) total += load<T>(dmod + clip * mod_step + row);
            store<T>(grads.mod_bias + row, total);
        }
        for (int64_t k = 0; k < blocks; ++k) {
            T* const dweight = grads.mod_weight + k * Tile::modulation * padded_embedding;
            for (int64_t at = 0; at < padded_embedding; at += lanes<T>) {
                for (int64_t row = 0; row < Tile::modulation; row += tile_rows) {
                    Vec<T> sums[tile_rows][1];
                    T* const to = dweight + row * padded_embedding + at;
                    for (int r = 0; r < tile_rows; ++r) sums[r][0] = load<T>(to + r * padded_embedding);
                    multiply_add<T, tile_rows, 1>(sums, dmod + k * Tile::modulation + row, 1, mod_step,
                                                  active + k * padded_embedding + at, active_step, count);
                    for (int r = 0; r < tile_rows; ++r) store<T>(to + r * padded_embedding, sums[r][0]);
                }
                int64_t clip = 0;
                for (; clip + 4 <= count; clip += 4) embedding_gradient<4>(e, dmod, k, at, clip, de);
                for (; clip < count; ++clip) embedding_gradient<1>(e, dmod, k, at, clip, de);
            }
        }
    }

   private:
    const T *norm_weight, *norm_bias;
    T *fc, *fc_turned, *fc_bias;
    T* mod_weight;  // (K, 3, padded, E padded)
    T* mod_turned;  // (K, E, 3, padded)
    T* mod_bias;    // (K, 3, padded)

    BlockWeights<T> block(int64_t k) const {
        return {norm_weight + k * dim, norm_bias + k * dim, fc + k * M * padded, fc_turned + k * M * padded,
                fc_bias + k * padded};
    }

    void pack(const StackParameters<T>& given) {
        for (int64_t k = 0; k < blocks; ++k) {
            for (int64_t n = 0; n < M; ++n) {
                fc_bias[k * padded + n] = given.fc_bias[k * M + n];
                for (int64_t m = 0; m < M; ++m) {
                    const T value = given.fc_weight[(k * M + n) * M + m];
                    fc[(k * M + n) * padded + m] = fc_turned[(k * M + m) * padded + n] = value;
                }
            }
            for (int64_t row = 0; row < (embedding ? 3 * M : 0); ++row) {
                const int64_t to = row / M * padded + row % M;
                mod_bias[k * Tile::modulation + to] = given.mod_bias[k * 3 * M + row];
                for (int64_t i = 0; i < embedding; ++i) {
                    const T value = given.mod_weight[(k * 3 * M + row) * embedding + i];
                    mod_weight[(k * Tile::modulation + to) * padded_embedding + i] = value;
                    mod_turned[(k * embedding + i) * Tile::modulation + to] = value;
                }
            }
        }
    }

    // de of R clips, block k and the lanes from `at` on: (dmod A) times the slope of SiLU.
    template <int R>
    void embedding_gradient(const T* e, const T* dmod, int64_t k, int64_t at, int64_t clip, T* de) const {
        const int64_t left = embedding - at;
        const int n = int(left < lanes<T> ? left : lanes<T>);
        Vec<T> sums[R][1] = {};
        multiply_add<T, R, 1>(sums, dmod + clip * mod_step + k * Tile::modulation, mod_step, 1,
                              mod_weight + k * Tile::modulation * padded_embedding + at, padded_embedding,
                              Tile::modulation);
        for (int r = 0; r < R; ++r) {
            const int64_t place = ((clip + r) * blocks + k) * embedding + at;
            const Vec<T> x = load_first<T>(e + place, n), s = sigmoid<T>(x);
            store_first<T>(de + place, sums[r][0] * s * (T(1) + x * (T(1) - s)), n);
        }
    }
};

}  // namespace handcraft::HANDCRAFT_ISA
