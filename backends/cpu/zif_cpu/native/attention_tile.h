// Attention for many query rows (prefill): flash attention on the matrix product of gemm.h, transposed.
//
// S' = K Q' puts the query rows in the lanes: keys are read as they lie in the cache, only the queries are
// packed (once a unit), the softmax runs down the lanes without a horizontal step, and its result,
// interleaved by pairs of tokens, is the packed operand of O' = V' P'.
#pragma once

#include "attention.h"

namespace zif {

constexpr int kTileKeys = 96;    // keys a pass: eight blocks of kMaxRows
constexpr int kTileRows = 128;   // query rows a unit: four panels

inline void store_pair(bf16* out, vf even, vf odd) {
#if defined(__AVX512BF16__)
    const __m512i lo = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)even));
    const __m512i hi = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh((__m512)odd));
    _mm512_storeu_si512(out, _mm512_or_si512(lo, _mm512_slli_epi32(hi, 16)));
#else
    for (int i = 0; i < kLanes; ++i) out[2 * i] = to_bf16(even[i]), out[2 * i + 1] = to_bf16(odd[i]);
#endif
}

// Two rows of values side by side, as pairs: out[d] = (a[d], b[d]). b null: zeros.
inline void interleave(bf16* out, const bf16* a, const bf16* b, int64_t dim) {
    int64_t d = 0;
    for (; d + kLanes <= dim; d += kLanes) {
        vi pair = __builtin_convertvector(load_as<vh>(a + d), vi);
        if (b) pair |= __builtin_convertvector(load_as<vh>(b + d), vi) << 16;
        std::memcpy(out + 2 * d, &pair, sizeof(pair));
    }
    for (; d < dim; ++d) out[2 * d] = a[d], out[2 * d + 1] = b ? b[d] : bf16{};
}

template <typename T>
int64_t tile_scratch(const Attention<T>& call) {
    const int64_t dim = round_up(call.dim, 2);
    return (kTileRows * dim + 2 * kTileKeys * dim + kTileKeys * kTileRows) * sizeof(T) +
           (dim * kTileRows + kTileKeys * kTileRows + 5 * kTileRows) * 4 + 4096;
}

template <typename T>
void attend_tile(const Attention<T>& call, const Unit& unit, char* scratch, float* partial) {
    constexpr int64_t step = kStep<T>;
    const int64_t group = call.group(), rows = (unit.last - unit.first) * group, dim = call.dim;
    const int64_t panels = (rows + kPanel - 1) / kPanel, lanes = panels * kPanel;
    Carver carve(scratch);
    T* q = carve.take<T>(lanes * dim);                   // [panel][dim / step][kPanel][step]
    T* k = carve.take<T>(kTileKeys * dim);               // [key][dim]
    T* v = carve.take<T>((kTileKeys + 1) * dim);         // [key / step][dim][step]
    T* p = carve.take<T>(kTileKeys * lanes);             // [panel][key / step][kPanel][step]
    float* s = carve.take<float>(kTileKeys * kPanel);    // [key][kPanel]
    float* o = carve.take<float>(panels * dim * kPanel); // [panel][dim][kPanel]
    float* top = carve.take<float>(lanes);
    float* total = carve.take<float>(lanes);
    int32_t* low = carve.take<int32_t>(lanes);
    int32_t* high = carve.take<int32_t>(lanes);

    std::memset((void*)q, 0, lanes * dim * sizeof(T));
    std::memset(o, 0, panels * dim * kPanel * 4);
    for (int64_t r = 0; r < lanes; ++r) {
        top[r] = -INFINITY, total[r] = 0, low[r] = high[r] = 0;
        if (r >= rows) continue;
        const int64_t token = unit.first + r / group;
        const T* from = call.q + token * call.q_stride + (unit.head * group + r % group) * dim;
        T* panel = q + r / kPanel * kPanel * dim + r % kPanel * step;
        for (int64_t d = 0; d < dim; d += step) std::memcpy(panel + d * kPanel, from + d, 4);
        int64_t a, b;
        visible(call, unit, token, a, b);
        low[r] = int32_t(a), high[r] = int32_t(b);
    }
    const int32_t full_from = *std::max_element(low, low + rows), full_to = *std::min_element(high, high + rows);

    TokenCursor<T> cursor(call, unit, unit.kv_begin);
    for (int64_t start = unit.kv_begin; start < unit.kv_end; start += kTileKeys) {
        const int64_t count = std::min<int64_t>(kTileKeys, unit.kv_end - start), even = round_up(count, step);
        const T* values[kTileKeys + 1];
        for (int64_t t = 0; t < count; ++t) {
            const int64_t at = cursor.next();
            std::memcpy(k + t * dim, call.k + at, dim * sizeof(T));
            values[t] = call.v + at;
        }
        for (int64_t t = 0; t < count; t += step) {
            if constexpr (step == 2) interleave((bf16*)v + t * dim, values[t], t + 1 < count ? values[t + 1] : nullptr, dim);
            else std::memcpy(v + t * dim, values[t], dim * sizeof(T));
        }
        const bool masked = start < full_from || start + count > full_to || rows < lanes;
        for (int64_t panel = 0; panel < panels; ++panel) {
            const T* queries = q + panel * kPanel * dim;
            for_row_blocks(count, [&]<int ROWS>(int64_t row) {
                vf acc[ROWS][kVectors] = {};
                accumulate<ROWS, 1>(acc, k + row * dim, dim, queries, 0, dim);
                for (int r = 0; r < ROWS; ++r)
                    for (int c = 0; c < kVectors; ++c) store(s + (row + r) * kPanel + c * kLanes, acc[r][c]);
            });
            float rescale[kPanel];
            for (int c = 0; c < kPanel; c += kLanes) {
                const int64_t lane = panel * kPanel + c;
                const vi from = load_as<vi>(low + lane), to = load_as<vi>(high + lane);
                const vf before = load(top + lane);
                vf best = before;
                for (int64_t t = 0; t < count; ++t) {
                    vf x = call.score(load(s + t * kPanel + c));
                    if (masked) {
                        const vi key = splat(int32_t(start + t));
                        x = (key >= from) & (key < to) ? x : splat(-INFINITY);
                    }
                    store(s + t * kPanel + c, x);
                    best = vmax(best, x);
                }
                // A row that has seen no key yet: subtract a finite number, so that exp(-inf) is what is taken.
                const vf base = vmax(best, splat(-1e30f));
                const vf scale = exp(before - base);
                vf added = {};
                T* packed = p + panel * kPanel * kTileKeys + c * step;
                for (int64_t t = 0; t < even; t += step) {
                    vf e[2] = {};
                    for (int64_t i = 0; i < step && t + i < count; ++i) {
                        const vf x = load(s + (t + i) * kPanel + c);
                        e[i] = exp(x - base);
                        if (masked) e[i] = x == splat(-INFINITY) ? vf{} : e[i];
                        added += e[i];
                    }
                    if constexpr (step == 2) store_pair((bf16*)packed + t * kPanel, e[0], e[1]);
                    else store((float*)packed + t * kPanel, e[0]);
                }
                store(total + lane, load(total + lane) * scale + added);
                store(top + lane, best);
                store(rescale + c, scale);
            }
            float* out = o + panel * dim * kPanel;
            const T* weights = p + panel * kPanel * kTileKeys;
            for_row_blocks(dim, [&]<int ROWS>(int64_t row) {
                vf acc[ROWS][kVectors];
                for (int r = 0; r < ROWS; ++r)
                    for (int c = 0; c < kVectors; ++c)
                        acc[r][c] = load(out + (row + r) * kPanel + c * kLanes) * load(rescale + c * kLanes);
                accumulate<ROWS, 1>(acc, v + row * step, step, weights, 0, even, dim * step);
                for (int r = 0; r < ROWS; ++r)
                    for (int c = 0; c < kVectors; ++c) store(out + (row + r) * kPanel + c * kLanes, acc[r][c]);
            });
        }
    }
    for (int64_t r = 0; r < rows; ++r) {
        const float* column = o + r / kPanel * dim * kPanel + r % kPanel;
        if (partial) {
            float* row = partial + r * (2 + dim);
            row[0] = top[r], row[1] = total[r];
            for (int64_t d = 0; d < dim; ++d) row[2 + d] = column[d * kPanel];
            continue;
        }
        const int64_t token = unit.first + r / group;
        T* out = call.out + (token * call.q_heads + unit.head * group + r % group) * dim;
        const float inverse = total[r] > 0 ? 1 / total[r] : 0;
        for (int64_t d = 0; d < dim; ++d) out[d] = narrow<T>(column[d * kPanel] * inverse);
    }
}

}  // namespace zif
