// What the two attention kernels share: the call, the unit of work, per-thread memory.
#pragma once

#include <algorithm>
#include <cstdlib>

#include "gemm.h"

namespace zif {

// One layer's attention over a ragged batch with a paged cache. Strides are in elements.
template <typename T>
struct Attention {
    T* out;                  // [tokens, q_heads, dim], contiguous
    const T* q;              // [tokens, q_heads, dim], rows q_stride apart
    const T* k;              // by (page, kv head, token in page, dim)
    const T* v;
    const int32_t* row_starts;  // [batch + 1]
    const int32_t* kv_lens;     // [batch]: cached tokens, this step's included; 0: a padding row
    const int32_t* pages;       // [batch, columns], rows page_columns apart
    int64_t batch, page_columns, page_size;
    int64_t q_heads, kv_heads, dim;
    int64_t q_stride, page_stride, head_stride, token_stride;
    int64_t window;          // 0: none; else a query sees itself and window - 1 tokens before it
    float scale, softcap;    // softcap 0: none

    int64_t group() const { return q_heads / kv_heads; }
    float score(float s) const { return softcap == 0 ? s * scale : softcap * std::tanh(s * scale / softcap); }
    vf score(vf s) const {
        s *= splat(scale);
        return softcap == 0 ? s : splat(softcap) * tanh(s * splat(1 / softcap));
    }
};

// Queries [first, last) of one sequence, one kv head, keys [kv_begin, kv_end) of that sequence.
struct Unit {
    int32_t sequence, head, first, last, kv_begin, kv_end;
    int64_t partial;  // offset of this unit's (max, sum, output) rows, or -1: the unit writes the result
    bool tiled;
};

// Offsets of consecutive tokens of one sequence in the cache.
template <typename T>
class TokenCursor {
public:
    TokenCursor(const Attention<T>& call, const Unit& unit, int64_t token)
        : call_(call), table_(call.pages + unit.sequence * call.page_columns), head_(unit.head * call.head_stride),
          page_(token / call.page_size), slot_(token % call.page_size) {}

    int64_t next() {
        const int64_t at = table_[page_] * call_.page_stride + slot_ * call_.token_stride + head_;
        if (++slot_ == call_.page_size) slot_ = 0, ++page_;
        return at;
    }

private:
    const Attention<T>& call_;
    const int32_t* table_;
    int64_t head_, page_, slot_;
};

// Memory that a thread keeps from call to call.
class Scratch {
public:
    ~Scratch() { std::free(data_); }
    char* reserve(size_t bytes) {
        if (bytes > size_) {
            std::free(data_);
            size_ = (bytes + 4095) / 4096 * 4096;
            data_ = (char*)std::aligned_alloc(4096, size_);
        }
        return data_;
    }

private:
    char* data_ = nullptr;
    size_t size_ = 0;
};

// Cuts aligned arrays from a scratch block.
class Carver {
public:
    explicit Carver(char* at) : at_(at) {}
    template <typename T>
    T* take(int64_t count) {
        T* p = (T*)at_;
        at_ += (count * sizeof(T) + 63) / 64 * 64;
        return p;
    }

private:
    char* at_;
};

inline int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// Keys that query row (token) of a unit sees: [low, high).
template <typename T>
inline void visible(const Attention<T>& call, const Unit& unit, int64_t token, int64_t& low, int64_t& high) {
    const int64_t after = call.row_starts[unit.sequence + 1] - token;  // queries from this one to the last
    high = call.kv_lens[unit.sequence] - after + 1;
    low = call.window > 0 ? std::max<int64_t>(0, high - call.window) : 0;
}

}  // namespace zif
