// One conditional MLP block on the tile of a few clips, forward and backward.
//
// A tile holds h as (D, width): row d has, clip after clip, the M coefficients of channel d, in lanes. Sums over D,
// such as those of LayerNorm, are then sums of registers, and every clip keeps to its own lanes: what is computed for
// one does not depend on its neighbour.
//
// With r the reciprocal deviation and mu the mean of a clip's coefficients, LayerNorm and modulation fold into the FC:
//     h_d += alpha_d (h_d G - mu G) + beta_d b + t                                                  for each channel d
//     G = diag(r (1 + scale)) F' diag(gate),  b = gate F (1 + scale),  t = gate (F shift + f)
// which takes one product of a row with an (M,M) matrix, three more multiply-adds, and one for the variance.
//
// Backward, from dh of the output, every gradient but those of h, alpha and beta follows from Q, S and the sums of dh:
//     Q[n][m] = sum_d dh_d[n] alpha_d nhat_d[m]      S[n] = sum_d beta_d dh_d[n]      nhat = r (h - mu)
//     U = (Q + S) (1 + scale) + shift sum_d dh_d[n]                                   the gradient of F before the gate
//     dF = gate U,  dgate = sum_m F U + f sum_d dh_d,  df = gate sum_d dh_d
//     dscale[m] = sum_n gate F (Q + S),  dshift[m] = sum_n gate F sum_d dh_d[n]
// and with v_d = dh_d diag(gate) F diag(1 + scale), the gradient of n:
//     dalpha_d = sum_m v_d nhat_d,  dbeta_d = sum_m v_d
//     dh_d += r (alpha_d v_d - mean_d(alpha v) - nhat_d mean_d(alpha v nhat))        means from Q and sum_d alpha dh
#pragma once

#include "gemm_bf16.h"
#include "vecmath.h"

namespace handcraft::HANDCRAFT_ISA {

// Parameters of one block, in the type that is computed with; F padded with zeros to (M, padded).
template <typename T>
struct BlockWeights {
    const T* norm_weight;  // alpha (D)
    const T* norm_bias;    // beta (D)
    const T* fc;           // fc[n * padded + m] = F[n][m]
    const T* fc_turned;    // fc_turned[m * padded + n] = F[n][m]
    const T* fc_bias;      // f (padded)
};

// Sums over clips of their gradients, shaped alike; D padded to row_multiple.
template <typename T>
struct BlockGradients {
    T* norm_weight;
    T* norm_bias;
    T* fc;
    T* fc_bias;
};

template <typename T, int M>
struct AdalnTile {
    static constexpr int padded = M < lanes<T> ? lanes<T> : M;
    static constexpr int vectors = padded / lanes<T>;    // registers of a clip's row
    static constexpr int clips = vectors >= 2 ? 1 : 2;
    static constexpr int width = clips * padded;         // numbers of a row
    static constexpr int columns = width / lanes<T>;
    static constexpr int modulation = 3 * padded;        // numbers of a clip and block: shift, scale, gate
    static constexpr int statistics = 2 * width;         // numbers of a block: means, reciprocal deviations
    static constexpr int C = vectors >= 2 ? 2 : 1;
    static constexpr T epsilon = T(1e-5);

    // finish(d, c, v): v = start + a(d, .) * b for channel d and register c of the clip, a(d,k) = a[d * a_row + k *
    // a_step] for k < M, b (M, padded), start (padded) or null. All registers of a row are computed before the first is
    // finished.
    template <typename Finish>
    static HANDCRAFT_INLINE void mix(const T* a, int64_t a_row, int64_t a_step, const T* b, const T* start,
                                     int64_t rows, Finish finish) {
        int64_t d = 0;
        for (; d + tile_rows <= rows; d += tile_rows) mix_rows<tile_rows>(a, a_row, a_step, b, start, d, finish);
        for (; d < rows; ++d) mix_rows<1>(a, a_row, a_step, b, start, d, finish);
    }

    template <int R, typename Finish>
    static HANDCRAFT_INLINE void mix_rows(const T* a, int64_t a_row, int64_t a_step, const T* b, const T* start,
                                          int64_t d, Finish finish) {
        if constexpr (vectors == C) {
            Vec<T> sums[R][C];
            mix_columns<R>(sums, a + d * a_row, a_row, a_step, b, start, 0);
            finish_columns<R>(sums, d, 0, finish);
        } else {  // finish may overwrite a
            T copy[R * M];
            for (int r = 0; r < R; ++r) {
                for (int k = 0; k < M; ++k) copy[r * M + k] = a[(d + r) * a_row + k * a_step];
            }
            for (int c = 0; c < vectors; c += C) {
                Vec<T> sums[R][C];
                mix_columns<R>(sums, copy, M, 1, b, start, c);
                finish_columns<R>(sums, d, c, finish);
            }
        }
    }

    template <int R>
    static HANDCRAFT_INLINE void mix_columns(Vec<T> (&sums)[R][C], const T* a, int64_t a_row, int64_t a_step,
                                             const T* b, const T* start, int first) {
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            for (int c = 0; c < C; ++c) sums[r][c] = start ? load<T>(start + (first + c) * lanes<T>) : Vec<T>{};
        }
        multiply_add<T, R, C>(sums, a, a_row, a_step, b + first * lanes<T>, padded, M);
    }

    template <int R, typename Finish>
    static HANDCRAFT_INLINE void finish_columns(const Vec<T> (&sums)[R][C], int64_t d, int first, Finish finish) {
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            for (int c = 0; c < C; ++c) finish(d + r, first + c, sums[r][c]);
        }
    }

    // sums (width): h summed over the channels.
    static void add_channels(const T* h, int64_t dim, T* sums) {
        for (int c = 0; c < columns; ++c) {
            Vec<T> part[4] = {};
            int64_t d = 0;
            for (; d + 4 <= dim; d += 4) {
#pragma GCC unroll 4
                for (int i = 0; i < 4; ++i) part[i] += load<T>(h + (d + i) * width + c * lanes<T>);
            }
            for (; d < dim; ++d) part[0] += load<T>(h + d * width + c * lanes<T>);
            store<T>(sums + c * lanes<T>, (part[0] + part[1]) + (part[2] + part[3]));
        }
    }

    // Means and reciprocal deviations over the channels, from h and its sums.
    static void norm_statistics(const T* h, int64_t dim, const T* sums, T* found) {
        for (int c = 0; c < columns; ++c) {
            const Vec<T> mean = load<T>(sums + c * lanes<T>) / T(dim);
            Vec<T> part[4] = {};
            int64_t d = 0;
            for (; d + 4 <= dim; d += 4) {
#pragma GCC unroll 4
                for (int i = 0; i < 4; ++i) {
                    const Vec<T> centred = load<T>(h + (d + i) * width + c * lanes<T>) - mean;
                    part[i] += centred * centred;
                }
            }
            for (; d < dim; ++d) {
                const Vec<T> centred = load<T>(h + d * width + c * lanes<T>) - mean;
                part[0] += centred * centred;
            }
            const Vec<T> variance = ((part[0] + part[1]) + (part[2] + part[3])) / T(dim);
            store<T>(found + c * lanes<T>, mean);
            for (int lane = 0; lane < lanes<T>; ++lane) {
                found[width + c * lanes<T> + lane] = reciprocal_root<T>(variance[lane] + epsilon);
            }
        }
    }

    // Of one clip: G, -mu G, b and t.
    static void fold(const BlockWeights<T>& weights, const T* mod, const T* mean, const T* deviation, T* G, T* centre,
                     Vec<T> (&b)[vectors], Vec<T> (&t)[vectors]) {
        for (int c = 0; c < vectors; ++c) {
            const int64_t at = c * lanes<T>;
            const Vec<T> gate = load<T>(mod + 2 * padded + at);
            Vec<T> minus_mean = {}, constant = load<T>(weights.fc_bias + at);
            b[c] = Vec<T>{};
            for (int m = 0; m < M; ++m) {
                const Vec<T> f = load<T>(weights.fc_turned + m * padded + at);
                const T factor = 1 + mod[padded + m];
                const Vec<T> g = f * gate * (deviation[m] * factor);
                store<T>(G + m * padded + at, g);
                minus_mean -= mean[m] * g;
                b[c] += factor * f;
                constant += mod[m] * f;
            }
            b[c] *= gate;
            t[c] = constant * gate;
            store<T>(centre + at, minus_mean);
        }
    }

    // to = block(from), which may be the same tile. sums: of `from` before, of `to` after. found: `statistics` numbers.
    // mod: of the first clip; the next one's is mod_step further.
    static void forward(const BlockWeights<T>& weights, const T* mod, int64_t mod_step, int64_t dim, const T* from,
                        T* to, T* sums, T* found) {
        norm_statistics(from, dim, sums, found);
        for (int clip = 0; clip < clips; ++clip, mod += mod_step) {
            const int64_t first = clip * padded;
            const T *mean = found + first, *deviation = found + width + first;
            alignas(64) T G[M * padded], centre[padded];
            Vec<T> b[vectors], t[vectors], total[vectors] = {};
            fold(weights, mod, mean, deviation, G, centre, b, t);
            const T *alpha = weights.norm_weight, *beta = weights.norm_bias;
            mix(from + first, width, 1, G, centre, dim, [&](int64_t d, int c, Vec<T> v) __attribute__((always_inline)) {
                const int64_t at = d * width + first + c * lanes<T>;
                const Vec<T> h = load<T>(from + at) + t[c] + beta[d] * b[c] + alpha[d] * v;
                store<T>(to + at, h);
                total[c] += h;
            });
            for (int c = 0; c < vectors; ++c) store<T>(sums + first + c * lanes<T>, total[c]);
        }
    }

#if defined(__AVX512F__)
    // `forward` in place with a product of bf16 numbers, h - mu and G rounded once; all else is in float. pairs: dim *
    // padded bf16 numbers, which hold the h - mu of one clip.
    __attribute__((target("avx512bf16"))) static void forward_narrow(const BlockWeights<T>& weights, const T* mod,
                                                                     int64_t mod_step, int64_t dim, T* h, T* sums,
                                                                     T* found, bf16* pairs) {
        for (int clip = 0; clip < clips; ++clip, mod += mod_step) {
            T* const own = h + clip * padded;
            T *const mean = found + clip * padded, *const deviation = mean + width;
            for (int c = 0; c < vectors; ++c) {
                const Vec<T> middle = load<T>(sums + clip * padded + c * lanes<T>) / T(dim);
                Vec<T> part[4] = {};
                const auto centre_row = [&](int64_t d, Vec<T>& squares)
                                            __attribute__((always_inline, target("avx512bf16"))) {
                    const Vec<T> centred = load<T>(own + d * width + c * lanes<T>) - middle;
                    squares += centred * centred;
                    const __m256i narrow = __m256i(_mm512_cvtneps_pbh(centred));
                    _mm256_storeu_si256(reinterpret_cast<__m256i*>(pairs + d * padded + c * lanes<T>), narrow);
                };
                int64_t d = 0;
                for (; d + 4 <= dim; d += 4) {
#pragma GCC unroll 4
                    for (int i = 0; i < 4; ++i) centre_row(d + i, part[i]);
                }
                for (; d < dim; ++d) centre_row(d, part[0]);
                store<T>(mean + c * lanes<T>, middle);
                const Vec<T> variance = ((part[0] + part[1]) + (part[2] + part[3])) / T(dim);
                store<T>(deviation + c * lanes<T>, T(1) / square_root<T>(variance + epsilon));
            }
            alignas(64) T G[M * padded], centre[padded];
            Vec<T> b[vectors], t[vectors], total[vectors] = {};
            fold(weights, mod, mean, deviation, G, centre, b, t);
            make_pairs<padded>(G, padded, M, G);
            const T *alpha = weights.norm_weight, *beta = weights.norm_bias;
            const auto rows = [&](auto count, int64_t d) __attribute__((always_inline, target("avx512bf16"))) {
                constexpr int R = decltype(count)::value;
                for (int first = 0; first < vectors; first += C) {
                    __m512 products[R][C] = {};
#pragma GCC unroll 8
                    for (int k = 0; k < M / 2; ++k) {
                        __m512bh right[C];
                        for (int c = 0; c < C; ++c) {
                            right[c] = __m512bh(_mm512_loadu_si512(G + k * padded + (first + c) * lanes<T>));
                        }
#pragma GCC unroll 16
                        for (int r = 0; r < R; ++r) {
                            const Pair* left = reinterpret_cast<const Pair*>(pairs + (d + r) * padded);
                            const __m512bh pair = __m512bh(_mm512_set1_epi32(int(left[k])));
#pragma GCC unroll 2
                            for (int c = 0; c < C; ++c) {
                                products[r][c] = _mm512_dpbf16_ps(products[r][c], pair, right[c]);
                            }
                        }
                    }
#pragma GCC unroll 16
                    for (int r = 0; r < R; ++r) {
                        for (int c = 0; c < C; ++c) {
                            T* const to = own + (d + r) * width + (first + c) * lanes<T>;
                            const Vec<T> made = load<T>(to) + t[first + c] + beta[d + r] * b[first + c] +
                                                alpha[d + r] * Vec<T>(products[r][c]);
                            store<T>(to, made);
                            total[first + c] += made;
                        }
                    }
                }
            };
            int64_t d = 0;
            for (; d + tile_rows <= dim; d += tile_rows) rows(Rows<tile_rows>{}, d);
            for (; d < dim; ++d) rows(Rows<1>{}, d);
            for (int c = 0; c < vectors; ++c) store<T>(sums + clip * padded + c * lanes<T>, total[c]);
        }
    }
    template <int R>
    struct Rows {
        static constexpr int value = R;
    };
#endif

    // Numbers of `spare` that `backward` needs.
    static int64_t spare(int64_t dim) { return dim * padded + 2 * round_up(dim, lanes<T>) * lanes<T>; }

    // dh: of the output, becomes that of the input h, in place. found: as `forward` left it. The gradients of the
    // parameters are added up; dmod is laid out as mod and written.
    static void backward(const BlockWeights<T>& weights, const T* mod, int64_t mod_step, int64_t dim, const T* h,
                         const T* found, T* dh, const BlockGradients<T>& grads, T* dmod, T* spare) {
        T *weighted = spare, *sums_alpha = spare + dim * padded;
        T* sums_beta = sums_alpha + round_up(dim, lanes<T>) * lanes<T>;
        for (int clip = 0; clip < clips; ++clip, mod += mod_step, dmod += mod_step) {
            const int64_t first = clip * padded;
            alignas(64) T Q[M * padded], G[M * padded];
            alignas(64) T sum_dh[padded], sum_alpha[padded], sum_beta[padded], c1[padded], c2[padded];
            contract(weights, dim, h + first, found + first, dh + first, weighted, Q, sum_dh, sum_alpha, sum_beta);
            modulate(weights, mod, dim, Q, sum_dh, sum_alpha, sum_beta, G, c1, c2, grads, dmod);
            Vec<T> mean[vectors], deviation[vectors], shift[vectors], slope[vectors];
            for (int c = 0; c < vectors; ++c) {
                mean[c] = load<T>(found + first + c * lanes<T>);
                deviation[c] = load<T>(found + width + first + c * lanes<T>);
                shift[c] = deviation[c] * load<T>(c1 + c * lanes<T>);
                slope[c] = deviation[c] * load<T>(c2 + c * lanes<T>);
            }
            const T* alpha = weights.norm_weight;
            const auto finish = [&](int64_t d, int c, Vec<T> v) __attribute__((always_inline)) {
                const int64_t at = d * width + first + c * lanes<T>;
                const Vec<T> normal = (load<T>(h + at) - mean[c]) * deviation[c];
                store<T>(dh + at, load<T>(dh + at) - shift[c] - normal * slope[c] + deviation[c] * alpha[d] * v);
                Vec<T> by_alpha = v * normal, by_beta = v;
                if (clip + c > 0) {
                    by_alpha += load<T>(sums_alpha + d * lanes<T>);
                    by_beta += load<T>(sums_beta + d * lanes<T>);
                }
                store<T>(sums_alpha + d * lanes<T>, by_alpha);
                store<T>(sums_beta + d * lanes<T>, by_beta);
            };
            mix(dh + first, width, 1, G, nullptr, dim, finish);
        }
        add_lane_sums<T>(sums_alpha, dim, grads.norm_weight);
        add_lane_sums<T>(sums_beta, dim, grads.norm_bias);
    }

   private:
    // For one clip: Q, and over the channels the sums of dh, alpha dh and beta dh.
    static void contract(const BlockWeights<T>& weights, int64_t dim, const T* h, const T* found, const T* dh,
                         T* weighted, T* Q, T* sum_dh, T* sum_alpha, T* sum_beta) {
        for (int c = 0; c < vectors; ++c) {
            const int64_t at = c * lanes<T>;
            const Vec<T> mean = load<T>(found + at);
            Vec<T> plain = {}, by_alpha = {}, by_beta = {};
            for (int64_t d = 0; d < dim; ++d) {
                const T alpha = weights.norm_weight[d];
                const Vec<T> g = load<T>(dh + d * width + at);
                plain += g;
                by_alpha += alpha * g;
                by_beta += weights.norm_bias[d] * g;
                store<T>(weighted + d * padded + at, (load<T>(h + d * width + at) - mean) * alpha);
            }
            store<T>(sum_dh + at, plain);
            store<T>(sum_alpha + at, by_alpha);
            store<T>(sum_beta + at, by_beta);
        }
        constexpr int R = C == 1 ? (M >= 16 && vector_registers == 32 ? 16 : 8) : vector_registers / 4;
        for (int n = 0; n < M; n += R) {
            for (int c = 0; c < vectors; c += C) {
                Vec<T> sums[R][C] = {};
                multiply_add<T, R, C>(sums, dh + n, 1, width, weighted + c * lanes<T>, padded, dim);
                for (int r = 0; r < R; ++r) {
                    for (int i = 0; i < C; ++i) {
                        const int64_t at = (c + i) * lanes<T>;
                        store<T>(Q + (n + r) * padded + at, sums[r][i] * load<T>(found + width + at));
                    }
                }
            }
        }
    }

    // For one clip, from what `contract` found: the gradients that are sums over the channels, the matrix
    // G = diag(gate) F diag(1 + scale), and the means c1 of alpha v and c2 of alpha v nhat.
    static void modulate(const BlockWeights<T>& weights, const T* mod, int64_t dim, const T* Q, const T* sum_dh,
                         const T* sum_alpha, const T* sum_beta, T* G, T* c1, T* c2, const BlockGradients<T>& grads,
                         T* dmod) {
        const T *gate = mod + 2 * padded, share = 1 / T(dim);
        alignas(64) T by_gate[padded * lanes<T>] = {};
        for (int c = 0; c < vectors; ++c) {
            const int64_t at = c * lanes<T>;
            const Vec<T> shift = load<T>(mod + at), factor = load<T>(mod + padded + at) + T(1);
            Vec<T> dshift = {}, dscale = {}, first = {}, second = {};
            for (int n = 0; n < M; ++n) {
                const Vec<T> f = load<T>(weights.fc + n * padded + at), q = load<T>(Q + n * padded + at);
                const Vec<T> full = q + sum_beta[n], u = full * factor + shift * sum_dh[n], gated = gate[n] * f;
                T* dfc = grads.fc + n * padded + at;
                store<T>(dfc, load<T>(dfc) + gate[n] * u);
                store<T>(by_gate + n * lanes<T>, load<T>(by_gate + n * lanes<T>) + f * u);
                dscale += gated * full;
                dshift += gated * sum_dh[n];
                first += gated * sum_alpha[n];
                second += gated * q;
                store<T>(G + n * padded + at, gated * factor);
            }
            store<T>(dmod + at, dshift);
            store<T>(dmod + padded + at, dscale);
            store<T>(c1 + at, first * factor * share);
            store<T>(c2 + at, second * factor * share);
        }
        for (int at = 0; at < padded; at += lanes<T>) {
            const Vec<T> total = load<T>(sum_dh + at), by_bias = load<T>(weights.fc_bias + at) * total;
            store<T>(dmod + 2 * padded + at, lane_sums<T>(by_gate + at * lanes<T>) + by_bias);
            store<T>(grads.fc_bias + at, load<T>(grads.fc_bias + at) + load<T>(gate + at) * total);
        }
    }
};

}  // namespace handcraft::HANDCRAFT_ISA
