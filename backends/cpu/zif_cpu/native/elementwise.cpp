// Norms, gated activations, rotary embedding with the cache write: one pass over their rows each.
#include <algorithm>

#include "pool.h"
#include "simd.h"

namespace zif {
namespace {

constexpr int64_t kPieceElements = 8192;  // less work than this does not repay calling another thread

// body(row) for rows of `size` elements.
template <typename Body>
inline void rows_parallel(int threads, int64_t rows, int64_t size, Body&& body) {
    parallel_ranges(threads, rows, std::max<int64_t>(1, kPieceElements / std::max<int64_t>(1, size)),
                    [&](int64_t begin, int64_t end) {
                        for (int64_t r = begin; r < end; ++r) body(r);
                    });
}

// body(vector of lanes' first index, how many lanes) over [0, size).
template <typename Body>
inline void for_lanes(int64_t size, Body&& body) {
    int64_t i = 0;
    for (; i + kLanes <= size; i += kLanes) body(i, kLanes);
    if (i < size) body(i, int(size - i));
}
template <typename T>
inline vf get(const T* p, int n) { return n == kLanes ? load(p) : load_part(p, n); }
template <typename T>
inline void set(T* p, vf v, int n) {
    if (n == kLanes) store(p, v);
    else store_part(p, v, n);
}

template <typename T>
inline float inverse_rms(const T* x, int64_t size, float eps) {
    vf squares = {};
    for_lanes(size, [&](int64_t i, int n) {
        const vf v = get(x + i, n);
        squares += v * v;
    });
    return 1.f / std::sqrt(sum(squares) / float(size) + eps);
}

// out = rms_norm(x (+ residual)); total = x + residual, rounded to T before it is normalised.
template <typename T, typename W>
void norm(T* out, T* total, const T* x, const T* residual, const W* weight, int64_t rows, int64_t size, int64_t stride,
          float eps, float offset, int threads) {
    rows_parallel(threads, rows, size, [&](int64_t r) {
        const T* from = x + r * stride;
        if (residual) {
            T* kept = total + r * size;
            for_lanes(size, [&](int64_t i, int n) { set(kept + i, get(from + i, n) + get(residual + r * size + i, n), n); });
            from = kept;
        }
        const vf scale = splat(inverse_rms(from, size, eps));
        for_lanes(size, [&](int64_t i, int n) {
            set(out + r * size + i, get(from + i, n) * scale * (splat(offset) + get(weight + i, n)), n);
        });
    });
}

template <typename T>
void gated(T* out, const T* x, int64_t rows, int64_t size, int64_t stride, bool silu, int threads) {
    rows_parallel(threads, rows, size, [&](int64_t r) {
        for_lanes(size, [&](int64_t i, int n) {
            const vf gate = get(x + r * stride + i, n), up = get(x + r * stride + size + i, n);
            vf active;
            if (silu) active = gate / (splat(1.f) + exp(-gate));
            else {
                const vf inner = splat(0.7978845608028654f) * (gate + splat(0.044715f) * gate * gate * gate);
                active = splat(0.5f) * gate * (splat(1.f) + tanh(inner));
            }
            set(out + r * size + i, active * up, n);
        });
    });
}

template <typename T>
struct RopeAndCache {
    T* q_out;                 // [tokens, q_heads, dim]
    T* k_cache;
    T* v_cache;
    const T *q, *k, *v;       // [tokens, heads, dim]; tokens q_stride, k_stride, v_stride apart
    const float* angles;      // [tokens, rotary] = [cos | sin], or null
    const T *q_norm, *k_norm; // [dim] or null
    const int32_t *positions, *sequences, *pages;
    const int32_t* real_tokens;  // [1]: those beyond are padding, whose q is zero
    int64_t tokens, q_heads, kv_heads, dim, v_dim, rotary, interleaved;
    int64_t q_stride, k_stride, v_stride, page_columns, page_size;
    int64_t k_page, k_head, k_token, v_page, v_head, v_token;
    float eps, offset;

    void head(T* out, const T* x, const T* weight, const float* angle, float* row) const {
        if (!weight && !angle) {
            std::memcpy((void*)out, x, dim * sizeof(T));
            return;
        }
        const float scale = weight ? inverse_rms(x, dim, eps) : 1.f;
        for_lanes(dim, [&](int64_t i, int n) {
            vf value = get(x + i, n);
            if (weight) value *= splat(scale) * (splat(offset) + get(weight + i, n));
            set(row + i, value, n);
        });
        if (angle && !interleaved) {
            const int64_t half = rotary / 2;
            for_lanes(half, [&](int64_t i, int n) {
                const vf cos = get(angle + i, n), sin = get(angle + half + i, n);
                const vf a = get(row + i, n), b = get(row + half + i, n);
                set(row + i, a * cos - b * sin, n);
                set(row + half + i, b * cos + a * sin, n);
            });
        } else if (angle) {
            const int64_t half = rotary / 2;
            for (int64_t i = 0; i < half; ++i) {
                const float a = row[2 * i], b = row[2 * i + 1], cos = angle[i], sin = angle[half + i];
                row[2 * i] = a * cos - b * sin;
                row[2 * i + 1] = b * cos + a * sin;
            }
        }
        for_lanes(dim, [&](int64_t i, int n) { set(out + i, get(row + i, n), n); });
    }

    void run(int threads) const {
        const int64_t count = std::min<int64_t>(tokens, *real_tokens);
        std::memset((void*)(q_out + count * q_heads * dim), 0, (tokens - count) * q_heads * dim * sizeof(T));
        rows_parallel(threads, count, (q_heads + kv_heads) * dim, [&](int64_t t) {
            float row[1024];
            const float* angle = angles ? angles + t * rotary : nullptr;
            const int64_t page = pages[sequences[t] * page_columns + positions[t] / page_size];
            const int64_t slot = positions[t] % page_size;
            for (int64_t h = 0; h < q_heads; ++h)
                head(q_out + (t * q_heads + h) * dim, q + t * q_stride + h * dim, q_norm, angle, row);
            for (int64_t h = 0; h < kv_heads; ++h) {
                head(k_cache + page * k_page + slot * k_token + h * k_head, k + t * k_stride + h * dim, k_norm, angle, row);
                std::memcpy((void*)(v_cache + page * v_page + slot * v_token + h * v_head), v + t * v_stride + h * v_dim,
                            v_dim * sizeof(T));
            }
        });
    }
};

void widen(float* out, const bf16* x, int64_t count, int threads) {
    parallel_ranges(threads, count, 8 * kPieceElements, [&](int64_t begin, int64_t end) {
        for_lanes(end - begin, [&](int64_t i, int n) { set(out + begin + i, get(x + begin + i, n), n); });
    });
}

// [cos | sin] of position * frequency; in double, as float32 has no digits left at large positions.
void angles(float* out, const int32_t* positions, const double* frequencies, int64_t tokens, int64_t half, double factor,
            int threads) {
    rows_parallel(threads, tokens, 8 * half, [&](int64_t t) {
        for (int64_t i = 0; i < half; ++i) {
            const double angle = positions[t] * frequencies[i];
            out[2 * half * t + i] = float(std::cos(angle) * factor);
            out[2 * half * t + half + i] = float(std::sin(angle) * factor);
        }
    });
}

}  // namespace
}  // namespace zif

using namespace zif;

extern "C" {

// kind: bit 0, x is bf16; bit 1, the weight is. residual and total: both null for a plain norm.
void zif_norm(void* out, void* total, const void* x, const void* residual, const void* weight, int64_t rows,
              int64_t size, int64_t stride, float eps, float offset, int kind, int threads) {
    auto run = [&]<typename T, typename W>(T*, W*) {
        norm((T*)out, (T*)total, (const T*)x, (const T*)residual, (const W*)weight, rows, size, stride, eps, offset, threads);
    };
    if (kind == 0) run((float*)nullptr, (float*)nullptr);
    else if (kind == 1) run((bf16*)nullptr, (float*)nullptr);
    else if (kind == 2) run((float*)nullptr, (bf16*)nullptr);
    else run((bf16*)nullptr, (bf16*)nullptr);
}

void zif_gated(void* out, const void* x, int64_t rows, int64_t size, int64_t stride, int silu, int is_bf16, int threads) {
    if (is_bf16) gated((bf16*)out, (const bf16*)x, rows, size, stride, silu, threads);
    else gated((float*)out, (const float*)x, rows, size, stride, silu, threads);
}

void zif_widen(float* out, const void* x, int64_t count, int threads) { widen(out, (const bf16*)x, count, threads); }

void zif_angles(float* out, const int32_t* positions, const double* frequencies, int64_t tokens, int64_t half,
                double factor, int threads) {
    angles(out, positions, frequencies, tokens, half, factor, threads);
}

// pointers and dims: the members of RopeAndCache in their order.
void zif_rope_and_cache(const int64_t* pointers, const int64_t* dims, float eps, float offset, int is_bf16, int threads) {
    auto run = [&]<typename T>(T*) {
        const int64_t* p = pointers;
        const int64_t* d = dims;
        RopeAndCache<T>{(T*)p[0], (T*)p[1], (T*)p[2], (const T*)p[3], (const T*)p[4], (const T*)p[5],
                        (const float*)p[6], (const T*)p[7], (const T*)p[8], (const int32_t*)p[9],
                        (const int32_t*)p[10], (const int32_t*)p[11], (const int32_t*)p[12], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7],
                        d[8], d[9], d[10], d[11], d[12], d[13], d[14], d[15], d[16], d[17], eps, offset}
            .run(threads);
    };
    if (is_bf16) run((bf16*)nullptr);
    else run((float*)nullptr);
}
}
