// Vectors as wide as the processor's registers, for the compiled parts of the model: GCC takes wider ones apart in memory.

#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

namespace {

// Numbers in a register, and rows whose sums the registers hold: 16 of 32, 12 of 16, 24 of NEON's 32.
#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 8;
#elif defined(__AVX__)
constexpr int LANES = 8, ROWS = 3;
#else
constexpr int LANES = 4, ROWS = 3;
#endif
constexpr float LOWEST = -std::numeric_limits<float>::infinity();

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef float loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));  // anywhere in memory

inline vec load(const float* at) { return *reinterpret_cast<const loose*>(at); }
inline void store(float* at, vec value) { *reinterpret_cast<loose*>(at) = value; }
inline vec splat(float value) { return vec{} + value; }

inline float total(vec v) {
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) v[i] += v[i + half];
    return v[0];
}

inline float largest(vec v) {
    float found = v[0];
    for (int i = 1; i < LANES; i++) found = std::max(found, v[i]);
    return found;
}

// e^x for x <= 88, 0 below -87: 2^n e^r with |r| <= ln(2) / 2, e^r by its series; error under 2 units in the last place
inline vec exponential(vec x) {
    const vec low = splat(-87.0f);
    const ivec tiny = x < low;
    x = tiny ? low : x;
    const vec magic = splat(12582912.0f);  // adding it rounds to a whole number
    const vec shifted = x * 1.44269504f + magic;
    const vec n = shifted - magic;
    const vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    vec p = r * 1.9841270e-4f + 1.3888889e-3f;
    p = p * r + 8.3333333e-3f;
    p = p * r + 4.1666668e-2f;
    p = p * r + 1.6666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const vec scale = (vec)(((ivec)shifted << 23) + 0x3f800000);  // the low bits of shifted are n
    return tiny ? vec{} : p * scale;
}

inline vec silu(vec x) {
    const vec bounded = x < splat(-87.0f) ? splat(-87.0f) : x;
    return x / (exponential(-bounded) + 1.0f);
}

}  // namespace
