// Causal attention for training on a CPU, forward and backward, tile by tile: see native_attention.py, which prepares
// what it reads and says when it is used.
//
// TILE queries meet TILE keys; their scores never leave the first caches. The forward pass keeps, besides its output,
// the logarithm of each row's sum; the backward pass makes the probabilities of a tile again from it (arXiv 2307.08691).
// A task is one query head of one text. Every sum runs in an order of its own, so bits do not depend on threads.
//
// Shapes: B batch, N query heads, K key-value heads, T tokens, D head_dim (a multiple of PANEL). A tensor (B, heads, T,
// D) comes with its steps over texts, heads and tokens; a head's D numbers are neighbours.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include <omp.h>

#include "vectors.h"

namespace {

constexpr int64_t TILE = 64, PANEL = 32;

// sums (M, PANEL) += left (M, depth) right (depth, PANEL); left's element (r, k) is at r * row + k * column
template <int M>
inline void panel(const float* left, int64_t row, int64_t column, const float* right, int64_t right_step, int64_t depth,
                  float* sums, int64_t sums_step) {
    constexpr int W = PANEL / LANES;
    vec s[M][W];
    for (int r = 0; r < M; r++)
        for (int w = 0; w < W; w++) s[r][w] = load(sums + r * sums_step + w * LANES);
    for (int64_t k = 0; k < depth; k++, right += right_step, left += column) {
        vec b[W];
        for (int w = 0; w < W; w++) b[w] = load(right + w * LANES);
        for (int r = 0; r < M; r++)
            for (int w = 0; w < W; w++) s[r][w] += left[r * row] * b[w];
    }
    for (int r = 0; r < M; r++)
        for (int w = 0; w < W; w++) store(sums + r * sums_step + w * LANES, s[r][w]);
}

template <int M = ROWS>
inline void rest(int64_t rows, const float* left, int64_t row, int64_t column, const float* right, int64_t right_step,
                 int64_t depth, float* sums, int64_t sums_step) {
    if constexpr (M > 0) {
        if (rows == M) return panel<M>(left, row, column, right, right_step, depth, sums, sums_step);
        rest<M - 1>(rows, left, row, column, right, right_step, depth, sums, sums_step);
    }
}

// sums (rows, columns) += left (rows, depth) right (depth, columns); columns is a multiple of PANEL
inline void multiply(int64_t rows, int64_t columns, int64_t depth, const float* left, int64_t row, int64_t column,
                     const float* right, int64_t right_step, float* sums, int64_t sums_step) {
    for (int64_t c = 0; c < columns; c += PANEL) {
        int64_t r = 0;
        for (; r + ROWS <= rows; r += ROWS)
            panel<ROWS>(left + r * row, row, column, right + c, right_step, depth, sums + r * sums_step + c, sums_step);
        rest(rows - r, left + r * row, row, column, right + c, right_step, depth, sums + r * sums_step + c, sums_step);
    }
}

}  // namespace

extern "C" {

struct Sizes {
    int64_t batch, heads, key_values, tokens, size;
};

struct Heads {
    float* at;
    int64_t text, head, token;  // steps
};

}  // extern "C"

namespace {

inline float* of(const Heads& x, int64_t text, int64_t head, int64_t token = 0) {
    return x.at + text * x.text + head * x.head + token * x.token;
}

// (T, D) -> tiles of (D, TILE), the last one filled up with zeros
void turn(const float* x, int64_t step, int64_t tokens, int64_t size, float* found) {
    for (int64_t first = 0; first < tokens; first += TILE, found += size * TILE)
        for (int64_t d = 0; d < size; d++)
            for (int64_t t = 0; t < TILE; t++)
                found[d * TILE + t] = first + t < tokens ? x[(first + t) * step + d] : 0.0f;
}

// found (rows, D) = x (rows, D), times a factor
inline void copy(const float* x, int64_t step, int64_t rows, int64_t size, float factor, float* found) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t d = 0; d < size; d += LANES) store(found + r * size + d, load(x + r * step + d) * factor);
}

// Scores of a tile that a query may not see become LOWEST. mask: (T, T) of one text, or null where only the future is
// hidden. Returns whether anything is left.
bool hide(float* scores, const uint8_t* mask, int64_t tokens, int64_t query, int64_t rows, int64_t key) {
    const int64_t keys = std::min(TILE, tokens - key);
    bool seen = mask == nullptr;
    for (int64_t r = 0; r < rows; r++, scores += TILE) {
        int64_t end = std::min(keys, query + r + 1 - key);
        if (mask != nullptr) {
            const uint8_t* allowed = mask + (query + r) * tokens + key;
            for (int64_t k = 0; k < end; k++) {
                if (!allowed[k]) scores[k] = LOWEST;
                seen |= allowed[k] != 0;
            }
        }
        for (int64_t k = std::max<int64_t>(end, 0); k < TILE; k++) scores[k] = LOWEST;
    }
    return seen;
}

// Whether the tile is hidden as a whole; documents that follow one another leave most tiles so.
bool hidden(const uint8_t* mask, int64_t tokens, int64_t query, int64_t rows, int64_t key) {
    if (mask == nullptr) return false;
    for (int64_t r = 0; r < rows; r++) {
        const int64_t end = std::min({TILE, tokens - key, query + r + 1 - key});
        const uint8_t* allowed = mask + (query + r) * tokens + key;
        for (int64_t k = 0; k < end; k++)
            if (allowed[k]) return false;
    }
    return true;
}

struct Space {
    std::vector<float> held;
    float *query, *scores, *slopes, *most, *mass;

    Space(int64_t size, int64_t tokens) : held(tokens * size + 2 * TILE * TILE + 2 * TILE) {
        query = held.data(), scores = query + tokens * size, slopes = scores + TILE * TILE;
        most = slopes + TILE * TILE, mass = most + TILE;
    }
};

// Output and log-sums of one head's queries from `first` on.
void attend(const Sizes& s, const float* queries, int64_t query_step, const float* turned_keys, const float* values,
            int64_t value_step, const uint8_t* mask, int64_t first, float* output, int64_t output_step, float* log_sums,
            Space& space) {
    const int64_t rows = std::min(TILE, s.tokens - first);
    copy(queries, query_step, rows, s.size, 1.0f / std::sqrt((float)s.size), space.query);
    for (int64_t r = 0; r < rows; r++) std::fill_n(output + r * output_step, s.size, 0.0f);
    std::fill_n(space.most, TILE, LOWEST);
    std::fill_n(space.mass, TILE, 0.0f);
    for (int64_t key = 0; key < first + rows; key += TILE) {
        if (hidden(mask, s.tokens, first, rows, key)) continue;
        std::fill_n(space.scores, rows * TILE, 0.0f);
        multiply(rows, TILE, s.size, space.query, s.size, 1, turned_keys + key * s.size, TILE, space.scores, TILE);
        if (mask != nullptr || key + TILE > first) hide(space.scores, mask, s.tokens, first, rows, key);
        for (int64_t r = 0; r < rows; r++) {
            float* row = space.scores + r * TILE;
            vec high = load(row);
            for (int64_t k = LANES; k < TILE; k += LANES) {
                const vec other = load(row + k);
                high = high > other ? high : other;
            }
            const float before = space.most[r], now = std::max(before, largest(high));
            if (now == LOWEST) {  // nothing seen so far
                std::fill_n(row, TILE, 0.0f);
                continue;
            }
            vec sum{};
            for (int64_t k = 0; k < TILE; k += LANES) {
                const vec p = exponential(load(row + k) - now);
                store(row + k, p);
                sum += p;
            }
            const float fade = before == now ? 1.0f : exponential(splat(before - now))[0];
            space.mass[r] = space.mass[r] * fade + total(sum);
            space.most[r] = now;
            if (fade != 1.0f)
                for (int64_t d = 0; d < s.size; d += LANES)
                    store(output + r * output_step + d, load(output + r * output_step + d) * fade);
        }
        multiply(rows, s.size, std::min(TILE, s.tokens - key), space.scores, TILE, 1, values + key * value_step,
                 value_step, output, output_step);
    }
    for (int64_t r = 0; r < rows; r++) {
        float* row = output + r * output_step;
        for (int64_t d = 0; d < s.size; d += LANES) store(row + d, load(row + d) / space.mass[r]);
        log_sums[r] = space.most[r] + std::log(space.mass[r]);
    }
}

}  // namespace

extern "C" {

// turned: K^T in tiles, room for (B, K, tiles, D, TILE). log_sums: (B, N, T). mask: (B, T, T) or null.
void attention(const Sizes* sizes, const Heads* query, const Heads* key, const Heads* value, const uint8_t* mask,
               int threads, float* turned, const Heads* output, float* log_sums) {
    const Sizes s = *sizes;
    const int64_t tiles = (s.tokens + TILE - 1) / TILE, share = s.heads / s.key_values, turned_size = tiles * TILE * s.size;
#pragma omp parallel num_threads(threads)
    {
        Space space(s.size, TILE);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < s.batch * s.key_values; i++)
            turn(of(*key, i / s.key_values, i % s.key_values), key->token, s.tokens, s.size, turned + i * turned_size);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < s.batch * s.heads * tiles; i++) {
            const int64_t first = (tiles - 1 - i % tiles) * TILE, head = i / tiles % s.heads, text = i / tiles / s.heads;
            const int64_t shared = head / share;
            attend(s, of(*query, text, head, first), query->token,
                   turned + (text * s.key_values + shared) * turned_size, of(*value, text, shared), value->token,
                   mask == nullptr ? nullptr : mask + text * s.tokens * s.tokens, first, of(*output, text, head, first),
                   output->token, log_sums + (text * s.heads + head) * s.tokens + first, space);
        }
    }
}

// Gradients of all three. turned: room for K^T and V^T in tiles, 2 (B, K, tiles, D, TILE); parts: room for each query
// head's gradients of keys and values, 2 (B, N, T, D).
void attention_backward(const Sizes* sizes, const Heads* query, const Heads* key, const Heads* value,
                        const uint8_t* mask, const Heads* output, const float* log_sums, const Heads* grad, int threads,
                        float* turned, float* parts, const Heads* grad_query, const Heads* grad_key,
                        const Heads* grad_value) {
    const Sizes s = *sizes;
    const int64_t tiles = (s.tokens + TILE - 1) / TILE, share = s.heads / s.key_values, turned_size = tiles * TILE * s.size;
    const int64_t pairs = s.batch * s.key_values, part_size = s.tokens * s.size;
    const float scale = 1.0f / std::sqrt((float)s.size);
#pragma omp parallel num_threads(threads)
    {
        Space space(s.size, s.tokens);
        std::vector<float> inner(s.tokens);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < 2 * pairs; i++) {
            const Heads& x = i < pairs ? *key : *value;
            turn(of(x, i % pairs / s.key_values, i % s.key_values), x.token, s.tokens, s.size, turned + i * turned_size);
        }
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < s.batch * s.heads; i++) {
            const int64_t text = i / s.heads, head = i % s.heads, shared = head / share;
            const float* turned_keys = turned + (text * s.key_values + shared) * turned_size;
            const float *turned_values = turned_keys + pairs * turned_size, *sums = log_sums + i * s.tokens;
            const float *keys = of(*key, text, shared), *upstream = of(*grad, text, head);
            const uint8_t* allowed = mask == nullptr ? nullptr : mask + text * s.tokens * s.tokens;
            float *to_query = of(*grad_query, text, head), *to_key = parts + i * part_size;
            float* to_value = to_key + s.batch * s.heads * part_size;
            std::fill_n(to_key, part_size, 0.0f);
            std::fill_n(to_value, part_size, 0.0f);
            copy(of(*query, text, head), query->token, s.tokens, s.size, scale, space.query);
            for (int64_t t = 0; t < s.tokens; t++) {
                const float *a = upstream + t * grad->token, *b = of(*output, text, head, t);
                vec sum{};
                for (int64_t d = 0; d < s.size; d += LANES) sum += load(a + d) * load(b + d);
                inner[t] = total(sum);
                std::fill_n(to_query + t * grad_query->token, s.size, 0.0f);
            }
            for (int64_t first = 0; first < s.tokens; first += TILE) {
                const int64_t rows = std::min(TILE, s.tokens - first);
                for (int64_t k = 0; k < first + rows; k += TILE) {
                    if (hidden(allowed, s.tokens, first, rows, k)) continue;
                    const int64_t some = std::min(TILE, s.tokens - k);
                    const float *queries = space.query + first * s.size, *above = upstream + first * grad->token;
                    std::fill_n(space.scores, rows * TILE, 0.0f);
                    std::fill_n(space.slopes, rows * TILE, 0.0f);
                    multiply(rows, TILE, s.size, queries, s.size, 1, turned_keys + k * s.size, TILE, space.scores, TILE);
                    if (allowed != nullptr || k + TILE > first)
                        hide(space.scores, allowed, s.tokens, first, rows, k);
                    multiply(rows, TILE, s.size, above, grad->token, 1, turned_values + k * s.size, TILE, space.slopes,
                             TILE);
                    // the softmax's own gradient: P * (dP - sum(P dP)), and that sum is grad . output
                    for (int64_t r = 0; r < rows; r++)
                        for (int64_t c = r * TILE; c < (r + 1) * TILE; c += LANES) {
                            const vec p = exponential(load(space.scores + c) - sums[first + r]);
                            store(space.scores + c, p);
                            store(space.slopes + c, p * (load(space.slopes + c) - inner[first + r]));
                        }
                    multiply(some, s.size, rows, space.scores, 1, TILE, above, grad->token, to_value + k * s.size, s.size);
                    multiply(some, s.size, rows, space.slopes, 1, TILE, queries, s.size, to_key + k * s.size, s.size);
                    multiply(rows, s.size, some, space.slopes, TILE, 1, keys + k * key->token, key->token,
                             to_query + first * grad_query->token, grad_query->token);
                }
                for (int64_t r = first; r < first + rows; r++)
                    for (int64_t d = 0; d < s.size; d += LANES)
                        store(to_query + r * grad_query->token + d, load(to_query + r * grad_query->token + d) * scale);
            }
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < 2 * pairs * s.tokens; i++) {
            const int64_t pair = i / s.tokens % pairs, text = pair / s.key_values, shared = pair % s.key_values;
            const int64_t token = i % s.tokens;
            const float* from = parts + (i / (pairs * s.tokens)) * s.batch * s.heads * part_size +
                                (text * s.heads + shared * share) * part_size + token * s.size;
            float* to = of(i < pairs * s.tokens ? *grad_key : *grad_value, text, shared, token);
            for (int64_t d = 0; d < s.size; d += LANES) {
                vec sum = load(from + d);
                for (int64_t other = 1; other < share; other++) sum += load(from + other * part_size + d);
                store(to + d, sum);
            }
        }
    }
}

}  // extern "C"
