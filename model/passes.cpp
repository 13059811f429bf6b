// RMSNorm, SwiGLU and rotations for training on a CPU, in one pass over memory where the framework's operations take five: see
// native_passes.py. Sums of weights' gradients run over blocks of ROWS_OF_A_PART rows, so bits do not depend on threads.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include <omp.h>

#include "vectors.h"

namespace {

constexpr int64_t ROWS_OF_A_PART = 64;

inline float dot(const float* a, const float* b, int64_t width) {
    vec sum{};
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES) sum += load(a + i) * load(b + i);
    float found = total(sum);
    for (; i < width; i++) found += a[i] * b[i];
    return found;
}

}  // namespace

extern "C" {

// y = x / rms(x) * weight: x (rows, width), weight (width,); inverse (rows,) is 1 / rms.
void normalise(const float* x, const float* weight, int64_t rows, int64_t width, float eps, int threads, float* y,
               float* inverse) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t r = 0; r < rows; r++) {
        const float *from = x + r * width, scale = 1.0f / std::sqrt(dot(from, from, width) / width + eps);
        float* to = y + r * width;
        for (int64_t i = 0; i < width; i++) to[i] = from[i] * scale * weight[i];
        inverse[r] = scale;
    }
}

// With n = x / rms: dx = (g w - n mean(g w n)) / rms, dw = sum(g n), the sums of every part of the rows in `parts`.
void normalise_backward(const float* x, const float* inverse, const float* weight, const float* grad, int64_t rows,
                        int64_t width, int threads, float* grad_x, float* parts) {
    const int64_t count = (rows + ROWS_OF_A_PART - 1) / ROWS_OF_A_PART;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t part = 0; part < count; part++) {
        float* sums = parts + part * width;
        std::fill_n(sums, width, 0.0f);
        for (int64_t r = part * ROWS_OF_A_PART; r < std::min(rows, (part + 1) * ROWS_OF_A_PART); r++) {
            const float *from = x + r * width, *g = grad + r * width, scale = inverse[r];
            float* to = grad_x + r * width;
            for (int64_t i = 0; i < width; i++) {
                sums[i] += g[i] * from[i] * scale;
                to[i] = g[i] * weight[i];
            }
            const float mean = dot(to, from, width) * scale / width;
            for (int64_t i = 0; i < width; i++) to[i] = (to[i] - from[i] * scale * mean) * scale;
        }
    }
}

// Turns each pair (i, i + size / 2) of x (rows, heads, size): y = x cos + x of the other half * sin * sign, with cos and
// sin (turns, size) of row modulo turns. The gradient turns back: sign -1.
void rotate(const float* x, const float* cos, const float* sin, int64_t rows, int64_t turns, int64_t heads, int64_t size,
            float sign, int threads, float* y) {
    const int64_t half = size / 2;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t r = 0; r < rows; r++) {
        const float *c = cos + r % turns * size, *s = sin + r % turns * size;
        for (int64_t h = r * heads; h < (r + 1) * heads; h++) {
            const float* from = x + h * size;
            float* to = y + h * size;
            for (int64_t i = 0; i < half; i++) {
                to[i] = from[i] * c[i] + from[half + i] * (s[i] * sign);
                to[half + i] = from[half + i] * c[half + i] + from[i] * (s[half + i] * sign);
            }
        }
    }
}

// y = silu(gate) * up, of `count` numbers.
void gate(const float* gates, const float* up, int64_t count, int threads, float* y) {
    const int64_t whole = count / LANES;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t v = 0; v < whole; v++)
        store(y + v * LANES, silu(load(gates + v * LANES)) * load(up + v * LANES));
    for (int64_t i = whole * LANES; i < count; i++) y[i] = silu(splat(gates[i]))[0] * up[i];
}

// From the gradient of y those of gate (in its place) and of up: silu'(z) = s (1 + z (1 - s)), s = 1 / (1 + e^-z).
void gate_backward(const float* gates, const float* up, int64_t count, int threads, float* grad, float* grad_up) {
    const int64_t whole = count / LANES;
    const auto at = [](vec z, vec u, vec g, vec* to_gate, vec* to_up) {
        const vec bounded = z < splat(-87.0f) ? splat(-87.0f) : z;
        const vec s = 1.0f / (exponential(-bounded) + 1.0f);
        *to_up = g * z * s;
        *to_gate = g * u * s * (1.0f + z * (1.0f - s));
    };
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t v = 0; v < whole; v++) {
        vec to_gate, to_up;
        at(load(gates + v * LANES), load(up + v * LANES), load(grad + v * LANES), &to_gate, &to_up);
        store(grad + v * LANES, to_gate);
        store(grad_up + v * LANES, to_up);
    }
    for (int64_t i = whole * LANES; i < count; i++) {
        vec to_gate, to_up;
        at(splat(gates[i]), splat(up[i]), splat(grad[i]), &to_gate, &to_up);
        grad[i] = to_gate[0], grad_up[i] = to_up[0];
    }
}

}  // extern "C"
