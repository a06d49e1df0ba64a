// The few half-precision intrinsics that the kernels use, for a CPU; the names and meanings are CUDA's.
#pragma once
#include <cmath>
#include <cstdint>

struct half {
    uint16_t bits;
};
struct alignas(4) half2 {
    half x, y;
};
struct float2 {
    float x, y;
};

inline float __half2float(half h) {
    const int exponent = h.bits >> 10 & 31, fraction = h.bits & 1023;
    float value;
    if (exponent == 31) value = fraction ? NAN : INFINITY;
    else if (exponent == 0) value = std::ldexp((float)fraction, -24);
    else value = std::ldexp((float)(fraction + 1024), exponent - 25);
    return h.bits & 0x8000 ? -value : value;
}

// To nearest, ties to even: nearbyint of the fraction as an integer, 11 bits, or fewer below 2^-14.
inline half __float2half_rn(float f) {
    const uint16_t sign = std::signbit(f) ? 0x8000 : 0;
    if (std::isnan(f)) return {0x7fff};
    int exponent = 0;
    std::frexp(f, &exponent);
    exponent = exponent < -13 || f == 0.0f ? -13 : exponent;
    const float fraction = std::fabs(f) >= 65520.0f ? INFINITY : std::nearbyint(std::ldexp(std::fabs(f), 11 - exponent));
    if (std::isinf(fraction)) return {(uint16_t)(sign | 0x7c00)};
    return {(uint16_t)(sign + ((exponent + 13) << 10) + (int)fraction)};
}

inline float2 __half22float2(half2 h) { return {__half2float(h.x), __half2float(h.y)}; }
inline half2 __floats2half2_rn(float low, float high) { return {__float2half_rn(low), __float2half_rn(high)}; }
