// Attention for few query rows (decode): every key and value is read from memory once for all the query
// heads of its kv head. Scores are dot products reduced a register of tokens at a time; probabilities
// and sums stay in fp32.
#pragma once

#include "attention.h"

namespace zif {

constexpr int kBlock = 64;  // keys a pass of the online softmax takes

// out[t] = sum of lanes of acc[t], for a register of tokens.
inline vf sums(const vf (&acc)[kLanes]) {
#if defined(__AVX512F__)
    __m512 a[8], b[4], c[2];
    for (int i = 0; i < 8; ++i) {
        const __m512 x = (__m512)acc[2 * i], y = (__m512)acc[2 * i + 1];
        a[i] = _mm512_add_ps(_mm512_unpacklo_ps(x, y), _mm512_unpackhi_ps(x, y));
    }
    for (int i = 0; i < 4; ++i) {
        const __m512d x = (__m512d)a[2 * i], y = (__m512d)a[2 * i + 1];
        b[i] = _mm512_add_ps((__m512)_mm512_unpacklo_pd(x, y), (__m512)_mm512_unpackhi_pd(x, y));
    }
    for (int i = 0; i < 2; ++i)
        c[i] = _mm512_add_ps(_mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0x88),
                             _mm512_shuffle_f32x4(b[2 * i], b[2 * i + 1], 0xdd));
    return (vf)_mm512_add_ps(_mm512_shuffle_f32x4(c[0], c[1], 0x88), _mm512_shuffle_f32x4(c[0], c[1], 0xdd));
#else
    vf out;
    for (int t = 0; t < kLanes; ++t) out[t] = sum(acc[t]);
    return out;
#endif
}

inline vf multiply_lanes(vf acc, const bf16*, vi a, vi b) { return dot_pairs(acc, a, b); }
inline vf multiply_lanes(vf acc, const float*, vi a, vi b) { return acc + (vf)a * (vf)b; }

template <typename T>
inline vi load_part_lanes(const T* p, int64_t n) {
    vi v = {};
    std::memcpy(&v, p, n * sizeof(T));
    return v;
}

// scores[t] = q . keys[t] for kLanes tokens. q is padded with zeros to whole registers, keys are not.
template <typename T>
inline vf dots(const T* q, const T* const* keys, int64_t dim) {
    constexpr int64_t chunk = kLanes * kStep<T>;
    vf acc[kLanes] = {};
    int64_t d = 0;
    for (; d + chunk <= dim; d += chunk) {
        const vi row = load_as<vi>(q + d);
#pragma GCC unroll 16
        for (int t = 0; t < kLanes; ++t) acc[t] = multiply_lanes(acc[t], q, row, load_as<vi>(keys[t] + d));
    }
    if (d < dim) {
        const vi row = load_as<vi>(q + d);
        for (int t = 0; t < kLanes; ++t)
            acc[t] = multiply_lanes(acc[t], q, row, load_part_lanes(keys[t] + d, dim - d));
    }
    return sums(acc);
}

// o[r, :] += p[r, t] * values[t, :] for ROWS rows, four registers of the head at a time.
template <int ROWS, typename T>
inline void add_values(float* o, int64_t o_stride, const float* p, const T* const* values, int64_t tokens,
                       int64_t dim) {
    constexpr int kWide = 4;
    int64_t d = 0;
    for (; d + kWide * kLanes <= dim; d += kWide * kLanes) {
        vf acc[ROWS][kWide];
        for (int r = 0; r < ROWS; ++r)
            for (int w = 0; w < kWide; ++w) acc[r][w] = load(o + r * o_stride + d + w * kLanes);
        for (int64_t t = 0; t < tokens; ++t) {
            vf value[kWide];
            for (int w = 0; w < kWide; ++w) value[w] = load(values[t] + d + w * kLanes);
            for (int r = 0; r < ROWS; ++r)
                for (int w = 0; w < kWide; ++w) acc[r][w] += splat(p[r * kBlock + t]) * value[w];
        }
        for (int r = 0; r < ROWS; ++r)
            for (int w = 0; w < kWide; ++w) store(o + r * o_stride + d + w * kLanes, acc[r][w]);
    }
    for (; d < dim; d += kLanes) {
        const int part = int(std::min<int64_t>(kLanes, dim - d));
        for (int r = 0; r < ROWS; ++r) {
            vf acc = load(o + r * o_stride + d);
            for (int64_t t = 0; t < tokens; ++t)
                acc += splat(p[r * kBlock + t]) * (part == kLanes ? load(values[t] + d) : load_part(values[t] + d, part));
            store(o + r * o_stride + d, acc);
        }
    }
}

template <typename T>
int64_t rows_scratch(const Attention<T>& call, int64_t rows) {
    const int64_t width = round_up(call.dim, kLanes * 2);
    return rows * (width * (sizeof(T) + 4) + kBlock * 4 + 2 * 4 + 2 * 8) + 1024;
}

// partial: this unit's [rows][2 + dim] (max, sum, unnormalised output), or null to write call.out.
template <typename T>
void attend_rows(const Attention<T>& call, const Unit& unit, char* scratch, float* partial) {
    const int64_t group = call.group(), rows = (unit.last - unit.first) * group;
    const int64_t width = round_up(call.dim, kLanes * 2);
    Carver carve(scratch);
    float* o = carve.take<float>(rows * width);
    float* p = carve.take<float>(rows * kBlock);
    T* q = carve.take<T>(rows * width);
    float* top = carve.take<float>(rows);
    float* total = carve.take<float>(rows);
    int64_t* low = carve.take<int64_t>(rows);
    int64_t* high = carve.take<int64_t>(rows);
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t token = unit.first + r / group;
        const T* from = call.q + token * call.q_stride + (unit.head * group + r % group) * call.dim;
        std::memcpy(q + r * width, from, call.dim * sizeof(T));
        std::memset((void*)(q + r * width + call.dim), 0, (width - call.dim) * sizeof(T));
        std::memset(o + r * width, 0, width * 4);
        top[r] = -INFINITY;
        total[r] = 0;
        visible(call, unit, token, low[r], high[r]);
    }
    TokenCursor<T> cursor(call, unit, unit.kv_begin);
    int64_t ahead[kBlock];  // where the next block's tokens lie: fetched while this one is computed
    auto look_ahead = [&](int64_t start) {
        for (int64_t t = 0; t < std::min<int64_t>(kBlock, unit.kv_end - start); ++t) ahead[t] = cursor.next();
    };
    look_ahead(unit.kv_begin);
    for (int64_t start = unit.kv_begin; start < unit.kv_end; start += kBlock) {
        const int64_t count = std::min<int64_t>(kBlock, unit.kv_end - start);
        const T* keys[kBlock];
        const T* values[kBlock];
        for (int64_t t = 0; t < count; ++t) keys[t] = call.k + ahead[t], values[t] = call.v + ahead[t];
        const int64_t padded = round_up(count, kLanes);
        for (int64_t t = count; t < padded; ++t) keys[t] = keys[0];  // scores that are never used
        look_ahead(start + kBlock);
        const int64_t upcoming = std::clamp<int64_t>(unit.kv_end - start - kBlock, 0, kBlock);
        for (int64_t t = 0; t < padded; t += kLanes) {
            for (int64_t i = t; i < std::min(upcoming, t + kLanes); ++i)
                for (int64_t d = 0; d < call.dim; d += 64 / int64_t(sizeof(T))) {
                    __builtin_prefetch(call.k + ahead[i] + d, 0, 2);
                    __builtin_prefetch(call.v + ahead[i] + d, 0, 2);
                }
            for (int64_t r = 0; r < rows; ++r)
                store(p + r * kBlock + t, call.score(dots(q + r * width, keys + t, call.dim)));
        }
        for (int64_t r = 0; r < rows; ++r) {
            float* s = p + r * kBlock;
            const int64_t begin = std::max<int64_t>(0, low[r] - start), end = std::min(count, high[r] - start);
            for (int64_t t = 0; t < std::min(begin, padded); ++t) s[t] = -INFINITY;
            for (int64_t t = std::max<int64_t>(end, 0); t < padded; ++t) s[t] = -INFINITY;
            vf best = load(s);
            for (int64_t t = kLanes; t < padded; t += kLanes) best = vmax(best, load(s + t));
            const float peak = std::max(top[r], max(best));
            if (peak == -INFINITY) {
                std::memset(s, 0, kBlock * 4);
                continue;
            }
            const float rescale = std::exp(top[r] - peak);
            vf added = {};
            for (int64_t t = 0; t < padded; t += kLanes) {
                const vf e = exp(load(s + t) - splat(peak));
                store(s + t, e);
                added += e;
            }
            total[r] = total[r] * rescale + sum(added);
            top[r] = peak;
            if (rescale != 1.f)
                for (int64_t d = 0; d < call.dim; d += kLanes) store(o + r * width + d, load(o + r * width + d) * splat(rescale));
        }
        int64_t r = 0;
        for (; r + 4 <= rows; r += 4) add_values<4>(o + r * width, width, p + r * kBlock, values, count, call.dim);
        for (; r + 2 <= rows; r += 2) add_values<2>(o + r * width, width, p + r * kBlock, values, count, call.dim);
        for (; r < rows; ++r) add_values<1>(o + r * width, width, p + r * kBlock, values, count, call.dim);
    }
    for (int64_t r = 0; r < rows; ++r) {
        if (partial) {
            float* row = partial + r * (2 + call.dim);
            row[0] = top[r];
            row[1] = total[r];
            std::memcpy(row + 2, o + r * width, call.dim * 4);
            continue;
        }
        const int64_t token = unit.first + r / group;
        T* out = call.out + (token * call.q_heads + unit.head * group + r % group) * call.dim;
        const float inverse = total[r] > 0 ? 1 / total[r] : 0;
        for (int64_t d = 0; d < call.dim; ++d) out[d] = narrow<T>(o[r * width + d] * inverse);
    }
}

}  // namespace zif
