// The one matrix product: rows of A against panels of packed columns, accumulated in fp32.
//
// A panel holds kPanel columns of W = [N, K] with K leading: bf16 as [K / 2][kPanel][2], fp32 as
// [K][kPanel]. One microkernel reads a panel once for up to kMaxRows rows, so a decode step streams
// the weight once whatever its batch is, and a prefill keeps the panel in L2 for all of its rows.
// A row's sum is taken in the same order for every number of rows: results do not depend on the batch.
#pragma once

#include "simd.h"

namespace zif {

constexpr int kPanel = 32;
constexpr int kVectors = kPanel / kLanes;
#if defined(__AVX512F__)
constexpr int kMaxRows = 12;  // 24 accumulators, 2 of W, of 32 registers
#else
constexpr int kMaxRows = 3;   // AVX2: 12 accumulators of 16 registers
#endif

// Elements of K that one 32-bit lane of a packed weight holds.
template <typename T>
constexpr int kStep = 4 / sizeof(T);

inline vf multiply_add(vf acc, const bf16* a, vi w) { return dot_pairs(acc, splat(load_as<int32_t>(a)), w); }
inline vf multiply_add(vf acc, const float* a, vi w) { return acc + splat(*a) * (vf)w; }

// acc[r][p][v] += A[r, 0:K] * panel p. Rows of A are `row_stride` elements apart and each 32-bit step along K
// `step_stride`; panels are `panel_stride` elements apart.
template <int ROWS, int PANELS, typename T>
inline __attribute__((always_inline)) void accumulate(vf (&acc)[ROWS][PANELS * kVectors], const T* a,
                                                      int64_t row_stride, const T* w, int64_t panel_stride,
                                                      int64_t k_size, int64_t step_stride = kStep<T>) {
    const int64_t steps = k_size / kStep<T>;
    for (int64_t k = 0; k < steps; ++k) {
        const char* at = (const char*)w + k * (kPanel * 4);
#pragma GCC unroll 8
        for (int p = 0; p < PANELS; ++p) {
            const char* panel = at + p * panel_stride * int64_t(sizeof(T));
            if constexpr (ROWS <= 4) {
                __builtin_prefetch(panel + 2048);
                __builtin_prefetch(panel + 2048 + 64);
            }
            vi column[kVectors];
#pragma GCC unroll 8
            for (int v = 0; v < kVectors; ++v) column[v] = load_as<vi>(panel + v * kLanes * 4);
#pragma GCC unroll 16
            for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
                for (int v = 0; v < kVectors; ++v)
                    acc[r][p * kVectors + v] = multiply_add(acc[r][p * kVectors + v], a + r * row_stride, column[v]);
        }
        a += step_stride;
    }
}

// Calls body.template operator()<ROWS>(first_row) for blocks of rows that cover [0, rows).
template <int ROWS = kMaxRows, typename Body>
inline void for_row_blocks(int64_t rows, Body&& body) {
    int64_t row = 0;
    // Even blocks (e.g. 13 = 7 + 6) keep the microkernel's load to multiply ratio high in the last one.
    const int64_t blocks = (rows + kMaxRows - 1) / kMaxRows;
    for (int64_t b = 0; b < blocks; ++b) {
        const int64_t take = (rows - row + (blocks - b) - 1) / (blocks - b);
        switch (take) {
#define ZIF_CASE(R) \
    case R:         \
        if constexpr (R <= kMaxRows) body.template operator()<R>(row); \
        break;
            ZIF_CASE(1) ZIF_CASE(2) ZIF_CASE(3) ZIF_CASE(4) ZIF_CASE(5) ZIF_CASE(6)
            ZIF_CASE(7) ZIF_CASE(8) ZIF_CASE(9) ZIF_CASE(10) ZIF_CASE(11) ZIF_CASE(12)
#undef ZIF_CASE
        }
        row += take;
    }
}

}  // namespace zif
