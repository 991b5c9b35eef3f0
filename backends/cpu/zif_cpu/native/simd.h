// Vectors, bf16 and small maths, for every instruction set that gcc or clang can target.
//
// One source serves AVX512_BF16, AVX512F, AVX2 and anything else: vectors are compiler vector
// extensions as wide as the machine's registers, and only the bf16 dot product has a hand-picked
// instruction. bf16 pairs are kept as 32-bit lanes (low half: even element), which is what
// vdpbf16ps reads and what a shift and a mask split into two fp32 vectors everywhere else.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace zif {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float vf __attribute__((vector_size(kLanes * 4)));
typedef int32_t vi __attribute__((vector_size(kLanes * 4)));
typedef uint16_t vh __attribute__((vector_size(kLanes * 2)));

struct bf16 {
    uint16_t bits;
};

inline vf splat(float x) { return x - vf{}; }
inline vi splat(int32_t x) { return x - vi{}; }

template <typename V, typename P>
inline V load_as(const P* p) {
    V v;
    std::memcpy(&v, p, sizeof(V));
    return v;
}

inline float to_float(bf16 x) {
    uint32_t u = uint32_t(x.bits) << 16;
    float f;
    std::memcpy(&f, &u, 4);
    return f;
}
inline float to_float(float x) { return x; }

// Round to nearest even; a NaN stays a NaN.
inline bf16 to_bf16(float f) {
    uint32_t u;
    std::memcpy(&u, &f, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u) return {uint16_t((u >> 16) | 0x40)};
    return {uint16_t((u + 0x7fffu + ((u >> 16) & 1)) >> 16)};
}

inline vf load(const float* p) { return load_as<vf>(p); }
inline vf load(const bf16* p) { return (vf)(__builtin_convertvector(load_as<vh>(p), vi) << 16); }
inline void store(float* p, vf v) { std::memcpy(p, &v, sizeof(v)); }
inline void store(bf16* p, vf v) {
#if defined(__AVX512BF16__)
    auto h = _mm512_cvtneps_pbh((__m512)v);
    std::memcpy(p, &h, sizeof(h));
#else
    for (int i = 0; i < kLanes; ++i) p[i] = to_bf16(v[i]);
#endif
}
template <typename T>
inline T narrow(float x);
template <>
inline float narrow<float>(float x) { return x; }
template <>
inline bf16 narrow<bf16>(float x) { return to_bf16(x); }

// The first n of a vector's lanes; the others are zero and their memory is not touched.
template <typename T>
inline vf load_part(const T* p, int n) {
    T tmp[kLanes] = {};
    std::memcpy(tmp, p, n * sizeof(T));
    return load(tmp);
}
template <typename T>
inline void store_part(T* p, vf v, int n) {
    T tmp[kLanes];
    store(tmp, v);
    std::memcpy(p, tmp, n * sizeof(T));
}

inline float sum(vf v) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps((__m512)v);
#else
    float s = 0;
    for (int i = 0; i < kLanes; ++i) s += v[i];
    return s;
#endif
}
inline vf vmax(vf a, vf b) {
#if defined(__AVX512F__)
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#else
    return a > b ? a : b;
#endif
}
inline float max(vf v) {
#if defined(__AVX512F__)
    return _mm512_reduce_max_ps((__m512)v);
#else
    float m = v[0];
    for (int i = 1; i < kLanes; ++i) m = v[i] > m ? v[i] : m;
    return m;
#endif
}

// acc + a.even * w.even + a.odd * w.odd for pairs of bf16 held in 32-bit lanes.
inline vf dot_pairs(vf acc, vi a, vi w) {
#if defined(__AVX512BF16__)
    return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)w);
#else
    const vi high = splat(int32_t(0xffff0000));
    acc += (vf)(a << 16) * (vf)(w << 16);
    return acc + (vf)(a & high) * (vf)(w & high);
#endif
}

// exp(x), relative error about 2e-7 (Cephes' polynomial after reduction by ln 2); x is clamped to
// [-87.3, 88.3], so exp(-inf) is 1e-38 and never a NaN.
inline vf exp(vf x) {
    x = vmax(x, splat(-87.3f));
    x = -vmax(-x, splat(-88.3f));
#if defined(__AVX512F__)
    vf n = (vf)_mm512_roundscale_ps((__m512)(x * splat(1.44269504088896341f)), 8);
    vi e = (vi)_mm512_cvtps_epi32((__m512)n);
#else
    vf t = x * splat(1.44269504088896341f);
    vi e = __builtin_convertvector(t + (t > splat(0.f) ? splat(0.5f) : splat(-0.5f)), vi);
    vf n = __builtin_convertvector(e, vf);
#endif
    x = x - n * splat(0.693359375f) + n * splat(2.12194440e-4f);
    vf y = splat(1.9875691500e-4f);
    y = y * x + splat(1.3981999507e-3f);
    y = y * x + splat(8.3334519073e-3f);
    y = y * x + splat(4.1665795894e-2f);
    y = y * x + splat(1.6666665459e-1f);
    y = y * x + splat(5.0000001201e-1f);
    y = y * x * x + x + splat(1.f);
    return y * (vf)((e + splat(127)) << 23);
}
inline vf tanh(vf x) {
    vf e = exp(x + x);
    return splat(1.f) - splat(2.f) / (e + splat(1.f));
}

}  // namespace zif
