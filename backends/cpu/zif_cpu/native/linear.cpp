// y = x W^T (+ bias) on a packed weight; packing; rows of a packed weight as an embedding table.
#include <algorithm>

#include "gemm.h"
#include "pool.h"

namespace zif {
namespace {

// Rows [first, first + rows) of the packed weight, from w [rows, k]. The last panel's rows beyond the
// weight's own are the caller's to clear. bf16 needs an even k.
template <typename T>
void pack(T* out, const T* w, int64_t first, int64_t rows, int64_t k_size, int threads) {
    const int64_t begin = first / kPanel, end = (first + rows + kPanel - 1) / kPanel;
    parallel(threads, end - begin, [&](int64_t i) {
        const int64_t p = begin + i;
        for (int64_t n = 0; n < kPanel; ++n) {
            const int64_t row = p * kPanel + n - first;
            if (row < 0 || row >= rows) continue;
            char* to = (char*)(out + p * kPanel * k_size) + n * 4;
            const T* from = w + row * k_size;
            for (int64_t k = 0; k < k_size; k += kStep<T>, to += kPanel * 4) std::memcpy(to, from + k, 4);
        }
    });
}

template <typename T>
void embed(T* out, const T* packed, const int32_t* ids, int64_t rows, int64_t k_size, int threads) {
    parallel(rows > 8 ? threads : 1, rows, [&](int64_t r) {
        const T* panel = packed + ids[r] / kPanel * kPanel * k_size;
        const int64_t n = ids[r] % kPanel;
        for (int64_t k = 0; k < k_size; k += kStep<T>)
            std::memcpy(out + r * k_size + k, panel + (k / kStep<T> * kPanel + n) * kStep<T>, 4);
    });
}

template <typename T>
inline void emit(T* y, const vf* acc, const float* bias, int64_t width) {
    for (int v = 0; v < kVectors && v * kLanes < width; ++v) {
        const int part = int(std::min<int64_t>(kLanes, width - v * kLanes));
        vf value = acc[v];
        if (bias) value += part == kLanes ? load(bias + v * kLanes) : load_part(bias + v * kLanes, part);
        if (part == kLanes) store(y + v * kLanes, value);
        else store_part(y + v * kLanes, value, part);
    }
}

template <typename T>
struct Problem {
    T* y;
    const T* x;
    const T* w;
    const float* bias;
    int64_t m, n, k, ldx, ldy;

    template <int ROWS, int PANELS>
    inline __attribute__((always_inline)) void block(int64_t row, int64_t panel) const {
        vf acc[ROWS][PANELS * kVectors] = {};
        accumulate<ROWS, PANELS>(acc, x + row * ldx, ldx, w + panel * kPanel * k, kPanel * k, k);
        for (int r = 0; r < ROWS; ++r)
            for (int p = 0; p < PANELS; ++p) {
                const int64_t first = (panel + p) * kPanel;
                emit(y + (row + r) * ldy + first, acc[r] + p * kVectors, bias ? bias + first : nullptr, n - first);
            }
    }

    // Panels [begin, end) for every row. With few rows several panels run side by side: more
    // independent sums to hide the multiplier's latency, more streams for the prefetchers.
    void panels(int64_t begin, int64_t end) const {
        int64_t p = begin;
        constexpr int wide = kMaxRows / 3;
        if (m == 1)
            for (; p + wide <= end; p += wide) block<1, wide>(0, p);
        for (; p < end; ++p) for_row_blocks(m, [&]<int ROWS>(int64_t row) { block<ROWS, 1>(row, p); });
    }

    void run(int threads) const {
        const int64_t count = (n + kPanel - 1) / kPanel;
        const int64_t piece = m == 1 ? kMaxRows / 3 : 1;
        parallel_ranges(threads, count, piece, [&](int64_t begin, int64_t end) { panels(begin, end); });
    }
};

}  // namespace
}  // namespace zif

using namespace zif;

extern "C" {

int64_t zif_panel() { return kPanel; }

void zif_pack(void* out, const void* w, int64_t first, int64_t rows, int64_t k, int is_bf16, int threads) {
    if (is_bf16) pack((bf16*)out, (const bf16*)w, first, rows, k, threads);
    else pack((float*)out, (const float*)w, first, rows, k, threads);
}

void zif_embed(void* out, const void* packed, const int32_t* ids, int64_t rows, int64_t k, int is_bf16, int threads) {
    if (is_bf16) embed((bf16*)out, (const bf16*)packed, ids, rows, k, threads);
    else embed((float*)out, (const float*)packed, ids, rows, k, threads);
}

// ldx and ldy are in elements; bias is fp32 or null.
void zif_linear(void* y, const void* x, const void* w, const float* bias, int64_t m, int64_t n, int64_t k, int64_t ldx,
                int64_t ldy, int is_bf16, int threads) {
    if (is_bf16) Problem<bf16>{(bf16*)y, (const bf16*)x, (const bf16*)w, bias, m, n, k, ldx, ldy}.run(threads);
    else Problem<float>{(float*)y, (const float*)x, (const float*)w, bias, m, n, k, ldx, ldy}.run(threads);
}
}
