// Ragged attention over a paged cache: cuts a batch into units of work and runs them on all threads.
#include <vector>

#include "attention_rows.h"
#include "attention_tile.h"
#include "pool.h"

namespace zif {
namespace {

constexpr int64_t kSplit = 512;     // keys a unit takes when a sequence's few queries are split over its keys
constexpr int64_t kFewRows = 12;    // up to here dot products beat the tile's mostly empty lanes

thread_local Scratch scratch;
thread_local Scratch partials;

// Where the results of a split (sequence, head) wait to be merged.
struct Merge {
    int32_t sequence, head, first, rows, splits;
    int64_t partial;
};

template <typename T>
struct Plan {
    std::vector<Unit> units;
    std::vector<Merge> merges;
    int64_t partial_floats = 0, few_rows = 0;

    explicit Plan(const Attention<T>& call) {
        const int64_t group = call.group();
        for (int tiled = 1; tiled >= 0; --tiled)  // the long units first
            for (int64_t b = 0; b < call.batch; ++b) {
                const int64_t first = call.row_starts[b], last = call.row_starts[b + 1], length = call.kv_lens[b];
                const int64_t rows = (last - first) * group;
                if (rows == 0 || length == 0 || (rows > kFewRows) != bool(tiled)) continue;
                if (!tiled) few_rows = std::max(few_rows, rows);
                if (rows <= kPanel) split(call, b, first, last, length, tiled);
                else tile(call, b, first, last, length);
            }
    }

private:
    // The cut depends on this sequence alone: its result does not depend on the rest of the batch.
    void split(const Attention<T>& call, int64_t b, int64_t first, int64_t last, int64_t length, bool tiled) {
        const int64_t rows = (last - first) * call.group();
        const int64_t begin = call.window > 0 ? std::max<int64_t>(0, length - (last - first) + 1 - call.window) : 0;
        const int64_t splits = (length - begin + kSplit - 1) / kSplit;
        for (int32_t h = 0; h < call.kv_heads; ++h) {
            if (splits > 1) merges.push_back({int32_t(b), h, int32_t(first), int32_t(rows), int32_t(splits), partial_floats});
            for (int64_t i = 0; i < splits; ++i) {
                const int64_t from = begin + i * kSplit, to = std::min(from + kSplit, length);
                units.push_back({int32_t(b), h, int32_t(first), int32_t(last), int32_t(from), int32_t(to),
                                 splits > 1 ? partial_floats : -1, tiled});
                if (splits > 1) partial_floats += rows * (2 + call.dim);
            }
        }
    }

    void tile(const Attention<T>& call, int64_t b, int64_t first, int64_t last, int64_t length) {
        const int64_t take = std::max<int64_t>(1, kTileRows / call.group());
        for (int64_t end = last; end > first; end -= take) {  // later queries see more keys: longest first
            const int64_t begin = std::max(first, end - take);
            const int64_t kv_end = length - (last - end), oldest = length - (last - begin) + 1;
            const int64_t kv_begin = call.window > 0 ? std::max<int64_t>(0, oldest - call.window) : 0;
            for (int32_t h = 0; h < call.kv_heads; ++h)
                units.push_back({int32_t(b), h, int32_t(begin), int32_t(end), int32_t(kv_begin), int32_t(kv_end), -1, true});
        }
    }
};

template <typename T>
void merge(const Attention<T>& call, const Merge& m, const float* partial) {
    const int64_t stride = 2 + call.dim, group = call.group();
    for (int64_t r = 0; r < m.rows; ++r) {
        const float* rows = partial + m.partial + r * stride;
        float top = -INFINITY, total = 0;
        for (int64_t i = 0; i < m.splits; ++i) top = std::max(top, rows[i * m.rows * stride]);
        T* out = call.out + ((m.first + r / group) * call.q_heads + m.head * group + r % group) * call.dim;
        std::vector<float> sum(call.dim, 0.f);
        for (int64_t i = 0; i < m.splits; ++i) {
            const float* part = rows + i * m.rows * stride;
            if (part[1] == 0) continue;
            const float weight = std::exp(part[0] - top);
            total += part[1] * weight;
            for (int64_t d = 0; d < call.dim; ++d) sum[d] += part[2 + d] * weight;
        }
        const float inverse = total > 0 ? 1 / total : 0;
        for (int64_t d = 0; d < call.dim; ++d) out[d] = narrow<T>(sum[d] * inverse);
    }
}

template <typename T>
void attend(const Attention<T>& call, int threads) {
    const Plan<T> plan(call);
    float* partial = (float*)partials.reserve(plan.partial_floats * 4);
    const size_t bytes = std::max(tile_scratch(call), rows_scratch(call, plan.few_rows));
    parallel(threads, plan.units.size(), [&](int64_t i) {
        const Unit& unit = plan.units[i];
        float* rows = unit.partial >= 0 ? partial + unit.partial : nullptr;
        if (unit.tiled) attend_tile(call, unit, scratch.reserve(bytes), rows);
        else attend_rows(call, unit, scratch.reserve(bytes), rows);
    });
    parallel(threads, plan.merges.size(), [&](int64_t i) { merge(call, plan.merges[i], partial); });
}

}  // namespace
}  // namespace zif

using namespace zif;

// tokens: rows of out; those that no sequence covers (padding) are set to zero. dims: batch, page_columns,
// page_size, q_heads, kv_heads, dim, q_stride, page_stride, head_stride, token_stride, window, tokens.
extern "C" void zif_attention(void* out, const void* q, const void* k, const void* v, const int32_t* row_starts,
                              const int32_t* kv_lens, const int32_t* pages, const int64_t* dims, float scale,
                              float softcap, int is_bf16, int threads) {
    auto run = [&]<typename T>(T*) {
        const Attention<T> call{(T*)out, (const T*)q, (const T*)k, (const T*)v, row_starts, kv_lens, pages,
                                dims[0], dims[1], dims[2], dims[3], dims[4], dims[5], dims[6], dims[7],
                                dims[8], dims[9], dims[10], scale, softcap};
        const int64_t width = call.q_heads * call.dim;
        for (int64_t b = 0; b < call.batch; ++b)
            if (call.kv_lens[b] == 0)
                std::memset((void*)(call.out + row_starts[b] * width), 0, (row_starts[b + 1] - row_starts[b]) * width * sizeof(T));
        const int64_t covered = row_starts[call.batch];
        std::memset((void*)(call.out + covered * width), 0, (dims[11] - covered) * width * sizeof(T));
        attend(call, threads);
    };
    if (is_bf16) run((bf16*)nullptr);
    else run((float*)nullptr);
}
