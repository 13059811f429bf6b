// The dense decoder's forward pass over a paged cache, in one parallel region: see native.py, which prepares what it
// reads and says when it is used.
//
// Every sum runs in an order that depends on its own row alone: a product adds its terms in the order of the inputs,
// attention goes through a row's keys in blocks that begin at multiples of BLOCK. So a token's bits are the same alone,
// in any company, and with any number of threads. Rows are computed ROWS at a time to reuse what is loaded.
//
// Shapes: T tokens, H hidden_size, N query heads, K key-value heads, D head_dim, I intermediate_size. Weights stand in
// panels: (ceil(outputs / PANEL), inputs, PANEL). A page holds, for each key-value head, PAGE keys as (D, PAGE) and
// PAGE values as (PAGE, D).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include <omp.h>

#include "../vectors.h"

namespace {

constexpr int64_t PANEL = 32, PAGE = 16, BLOCK = 4 * PAGE;
constexpr int64_t DEPTH = 512;      // inputs whose panel (64 KB) stays in the cache while all rows read it
constexpr int64_t TOKENS = 64;      // rows of a product that one task computes
constexpr int64_t QUERIES = 32;     // tokens of attention that one task computes

// sums (M, W lanes) += x (M, depth) panel (depth, W lanes)
template <int M, int W>
inline void tile(const float* x, int64_t x_step, const float* panel, int64_t panel_step, int64_t depth, float* sums,
                 int64_t sums_step) {
    vec s[M][W];
    for (int r = 0; r < M; r++)
        for (int w = 0; w < W; w++) s[r][w] = load(sums + r * sums_step + w * LANES);
    for (int64_t k = 0; k < depth; k++, panel += panel_step) {
        vec b[W];
        for (int w = 0; w < W; w++) b[w] = load(panel + w * LANES);
        for (int r = 0; r < M; r++)
            for (int w = 0; w < W; w++) s[r][w] += x[r * x_step + k] * b[w];
    }
    for (int r = 0; r < M; r++)
        for (int w = 0; w < W; w++) store(sums + r * sums_step + w * LANES, s[r][w]);
}

template <int W, int M = ROWS>
inline void tiles(int64_t rows, const float* x, int64_t x_step, const float* panel, int64_t panel_step, int64_t depth,
                  float* sums, int64_t sums_step) {
    if constexpr (M == ROWS)
        for (; rows >= ROWS; rows -= ROWS, x += ROWS * x_step, sums += ROWS * sums_step)
            tile<ROWS, W>(x, x_step, panel, panel_step, depth, sums, sums_step);
    if constexpr (M > 1) {
        if (rows == M - 1) return tile<M - 1, W>(x, x_step, panel, panel_step, depth, sums, sums_step);
        tiles<W, M - 1>(rows, x, x_step, panel, panel_step, depth, sums, sums_step);
    }
}

struct Sums {
    alignas(64) float at[TOKENS][PANEL];

    void multiply(int64_t rows, const float* x, int64_t depth, const float* panel) {
        std::fill_n(at[0], rows * PANEL, 0.0f);
        for (int64_t k = 0; k < depth; k += DEPTH)
            tiles<PANEL / LANES>(rows, x + k, depth, panel + k * PANEL, PANEL, std::min(DEPTH, depth - k), at[0], PANEL);
    }
};

// Calls finish(first row, rows, first output, outputs) on each block of a product's outputs, shared among the threads.
template <class Finish>
inline void over_blocks(int64_t rows, int64_t outputs, Finish finish) {
    const int64_t panels = (outputs + PANEL - 1) / PANEL, blocks = (rows + TOKENS - 1) / TOKENS;
#pragma omp for schedule(static)
    for (int64_t task = 0; task < panels * blocks; task++) {
        const int64_t row = task % blocks * TOKENS, output = task / blocks * PANEL;
        finish(row, std::min(TOKENS, rows - row), output, std::min(PANEL, outputs - output));
    }
}

// What RMSNorm multiplies a row of x (rows, width) with.
inline void norms(int64_t rows, const float* x, int64_t width, float eps, float* found) {
    for (int64_t r = 0; r < rows; r++, x += width) {
        vec squares{};
        int64_t i = 0;
        for (; i + LANES <= width; i += LANES) squares += load(x + i) * load(x + i);
        float sum = total(squares);
        for (; i < width; i++) sum += x[i] * x[i];
        found[r] = 1.0f / std::sqrt(sum / width + eps);
    }
}

}  // namespace

extern "C" {

struct Shape {
    int64_t layers, hidden, heads, key_values, size, intermediate;
    float eps;
};

struct Layer {
    const float *query_key_value, *bias, *output, *gate, *up, *down;
};

struct Texts {
    int64_t count, tokens;        // how many texts, and tokens of all
    const int64_t* ids;           // (T,) of all texts, one after another
    const int64_t* starts;        // (count,) the position of each text's first token
    const int64_t* lengths;       // (count,)
    const int64_t* const* tables; // (count,) the pages of each
};

}  // extern "C"

namespace {

struct Row {
    int64_t text, position;
};

struct Task {
    int64_t text, key_value, first, count;  // tokens, as rows of the batch
};

// Rotates queries and keys of one row (N + 2 K, D), scales its queries, and puts its keys and values into the page.
inline void place(const Shape& s, float* row, const float* turn, float* page, int64_t slot) {
    const int64_t half = s.size / 2;
    const float scale = 1.0f / std::sqrt((float)s.size);
    for (int64_t head = 0; head < s.heads + s.key_values; head++) {
        float* at = row + head * s.size;
        const float factor = head < s.heads ? scale : 1.0f;
        for (int64_t i = 0; i < half; i += LANES) {
            const vec a = load(at + i), b = load(at + half + i);
            const vec cos = load(turn + i) * factor, sin = load(turn + half + i) * factor;
            store(at + i, a * cos - b * sin);
            store(at + half + i, b * cos + a * sin);
        }
    }
    for (int64_t head = 0; head < s.key_values; head++) {
        const float *key = row + (s.heads + head) * s.size, *value = key + s.key_values * s.size;
        float* keys = page + head * 2 * PAGE * s.size;
        for (int64_t d = 0; d < s.size; d++) keys[d * PAGE + slot] = key[d];
        std::copy_n(value, s.size, keys + (PAGE + slot) * s.size);
    }
}

// Attention of one task's queries, all query heads of its key-value head. `space`: see space_of.
inline void attend(const Shape& s, const Task& task, int64_t start, const int64_t* table, const float* pages,
                   const float* mixed, float* seen, float* space) {
    const int64_t share = s.heads / s.key_values, rows = task.count * share, width = s.heads * s.size;
    const int64_t mixed_width = width + 2 * s.key_values * s.size, page_size = 2 * s.key_values * PAGE * s.size;
    float *query = space, *sums = query + rows * s.size, *weights = sums + rows * s.size;
    float *most = weights + ROWS * BLOCK, *mass = most + rows;
    for (int64_t r = 0; r < rows; r++)
        std::copy_n(mixed + (r / share) * mixed_width + (task.key_value * share + r % share) * s.size, s.size,
                    query + r * s.size);
    std::fill_n(sums, rows * s.size, 0.0f);
    std::fill_n(most, rows, LOWEST);
    std::fill_n(mass, rows, 0.0f);
    const int64_t end = start + task.count;  // keys that its last token sees
    for (int64_t first = 0; first < end; first += BLOCK)
        for (int64_t r = 0; r < rows; r += ROWS) {
            const int64_t some = std::min<int64_t>(ROWS, rows - r);
            const int64_t visible = start + (r + some - 1) / share + 1 - first;  // to the last row of these
            if (visible <= 0) continue;
            const int64_t in_block = std::min(BLOCK, visible);
            std::fill_n(weights, some * BLOCK, 0.0f);
            for (int64_t key = 0; key < in_block; key += PAGE)
                tiles<PAGE / LANES>(some, query + r * s.size, s.size,
                         pages + table[(first + key) / PAGE] * page_size + task.key_value * 2 * PAGE * s.size, PAGE,
                         s.size, weights + key, BLOCK);
            for (int64_t i = 0; i < some; i++) {
                float* w = weights + i * BLOCK;
                const int64_t own = start + (r + i) / share + 1 - first;  // keys of the block that this row sees
                for (int64_t key = std::max<int64_t>(own, 0); key < BLOCK; key++) w[key] = LOWEST;
                vec high = load(w);
                for (int64_t key = LANES; key < BLOCK; key += LANES) {
                    const vec other = load(w + key);
                    high = high > other ? high : other;
                }
                const float before = most[r + i], now = std::max(before, largest(high));
                if (own <= 0) {  // nothing to see: other rows of the tile do
                    std::fill_n(w, BLOCK, 0.0f);
                    continue;
                }
                vec sum{};
                for (int64_t key = 0; key < BLOCK; key += LANES) {
                    const vec p = exponential(load(w + key) - now);
                    store(w + key, p);
                    sum += p;
                }
                const float fade = exponential(splat(before - now))[0];
                mass[r + i] = mass[r + i] * fade + total(sum);
                most[r + i] = now;
                float* at = sums + (r + i) * s.size;
                for (int64_t d = 0; d < s.size; d += LANES) store(at + d, load(at + d) * fade);
            }
            for (int64_t key = 0; key < in_block; key += PAGE) {
                const float* values = pages + table[(first + key) / PAGE] * page_size +
                                      (task.key_value * 2 + 1) * PAGE * s.size;
                for (int64_t d = 0; d < s.size; d += PANEL)
                    tiles<PANEL / LANES>(some, weights + key, BLOCK, values + d, s.size, std::min(PAGE, in_block - key),
                             sums + r * s.size + d, s.size);
            }
        }
    for (int64_t r = 0; r < rows; r++) {
        float* at = seen + (r / share) * width + (task.key_value * share + r % share) * s.size;
        for (int64_t d = 0; d < s.size; d += LANES) store(at + d, load(sums + r * s.size + d) / mass[r]);
    }
}

inline int64_t space_of(const Shape& s) {
    const int64_t rows = QUERIES * (s.heads / s.key_values);
    return 2 * rows * s.size + ROWS * BLOCK + 2 * rows + LANES;
}

}  // namespace

extern "C" {

// Hidden states before the final norm: x (T, H). `turns`: (positions, D) of cosines and sines; `memory`: (layers,
// pages, ...), `layer_size` floats a layer.
void forward(const Shape* shape, const Layer* layers, const Texts* texts, const float* embedding, const float* turns,
             float* memory, int64_t layer_size, int threads, float* x) {
    const Shape s = *shape;
    const int64_t tokens = texts->tokens, width = s.heads * s.size, mixed_width = width + 2 * s.key_values * s.size;
    const int64_t page_size = 2 * s.key_values * PAGE * s.size;
    std::vector<Row> rows;
    std::vector<Task> tasks;
    for (int64_t text = 0; text < texts->count; text++) {
        const int64_t first = rows.size(), length = texts->lengths[text];
        for (int64_t i = 0; i < length; i++) rows.push_back({text, texts->starts[text] + i});
        for (int64_t begin = 0; begin < length; begin += QUERIES)
            for (int64_t head = 0; head < s.key_values; head++)
                tasks.push_back({text, head, first + begin, std::min(QUERIES, length - begin)});
    }
    std::vector<float> mixed(tokens * mixed_width), seen(tokens * width), inner(tokens * s.intermediate);
    std::vector<float> spaces(threads * space_of(s)), scales(threads * tokens);
#pragma omp parallel num_threads(threads)
    {
        float* space = spaces.data() + omp_get_thread_num() * space_of(s);
        float* scale = scales.data() + omp_get_thread_num() * tokens;
        Sums sums, factors;
#pragma omp for schedule(static)
        for (int64_t t = 0; t < tokens; t++) std::copy_n(embedding + texts->ids[t] * s.hidden, s.hidden, x + t * s.hidden);
        for (int64_t index = 0; index < s.layers; index++) {
            const Layer& layer = layers[index];
            float* pages = memory + index * layer_size;
            norms(tokens, x, s.hidden, s.eps, scale);
            over_blocks(tokens, mixed_width, [&](int64_t row, int64_t count, int64_t output, int64_t outputs) {
                sums.multiply(count, x + row * s.hidden, s.hidden, layer.query_key_value + output * s.hidden);
                for (int64_t r = 0; r < count; r++)
                    for (int64_t i = 0; i < outputs; i++)
                        mixed[(row + r) * mixed_width + output + i] =
                            sums.at[r][i] * scale[row + r] + layer.bias[output + i];
            });
#pragma omp for schedule(static)
            for (int64_t t = 0; t < tokens; t++) {
                const int64_t position = rows[t].position, page = texts->tables[rows[t].text][position / PAGE];
                place(s, mixed.data() + t * mixed_width, turns + position * s.size, pages + page * page_size,
                      position % PAGE);
            }
#pragma omp for schedule(dynamic)
            for (size_t i = 0; i < tasks.size(); i++)
                attend(s, tasks[i], rows[tasks[i].first].position, texts->tables[tasks[i].text], pages,
                       mixed.data() + tasks[i].first * mixed_width, seen.data() + tasks[i].first * width, space);
            over_blocks(tokens, s.hidden, [&](int64_t row, int64_t count, int64_t output, int64_t outputs) {
                sums.multiply(count, seen.data() + row * width, width, layer.output + output * width);
                for (int64_t r = 0; r < count; r++)
                    for (int64_t i = 0; i < outputs; i++) x[(row + r) * s.hidden + output + i] += sums.at[r][i];
            });
            norms(tokens, x, s.hidden, s.eps, scale);
            over_blocks(tokens, s.intermediate, [&](int64_t row, int64_t count, int64_t output, int64_t outputs) {
                factors.multiply(count, x + row * s.hidden, s.hidden, layer.gate + output * s.hidden);
                sums.multiply(count, x + row * s.hidden, s.hidden, layer.up + output * s.hidden);
                for (int64_t r = 0; r < count; r++) {
                    for (int64_t i = 0; i < PANEL; i += LANES)
                        store(sums.at[r] + i, silu(load(factors.at[r] + i) * scale[row + r]) *
                                                  (load(sums.at[r] + i) * scale[row + r]));
                    std::copy_n(sums.at[r], outputs, inner.data() + (row + r) * s.intermediate + output);
                }
            });
            over_blocks(tokens, s.hidden, [&](int64_t row, int64_t count, int64_t output, int64_t outputs) {
                sums.multiply(count, inner.data() + row * s.intermediate, s.intermediate,
                              layer.down + output * s.intermediate);
                for (int64_t r = 0; r < count; r++)
                    for (int64_t i = 0; i < outputs; i++) x[(row + r) * s.hidden + output + i] += sums.at[r][i];
            });
        }
    }
}

// RMSNorm without its weights: found (rows, width).
void normalise(const float* x, int64_t rows, int64_t width, float eps, float* found) {
    std::vector<float> scale(rows);
    norms(rows, x, width, eps, scale.data());
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < width; i++) found[r * width + i] = x[r * width + i] * scale[r];
}

// found (rows, outputs) = x (rows, inputs) times a weight in panels.
void multiply(const float* x, int64_t rows, int64_t inputs, const float* weight, int64_t outputs, int threads,
              float* found) {
#pragma omp parallel num_threads(threads)
    {
        Sums sums;
        over_blocks(rows, outputs, [&](int64_t row, int64_t count, int64_t output, int64_t some) {
            sums.multiply(count, x + row * inputs, inputs, weight + output * inputs);
            for (int64_t r = 0; r < count; r++) std::copy_n(sums.at[r], some, found + (row + r) * outputs + output);
        });
    }
}

}  // extern "C"
