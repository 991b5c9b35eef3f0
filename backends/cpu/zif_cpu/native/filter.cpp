// top-k, top-p and min-p over rows of float32 logits, without sorting them.
//
// What the three leave is always a prefix of the descending order (lower id first among equals), so all that
// is looked for is where it ends: a value, and how many of its equals stay. Values compare as they are, since a
// temperature does not change their order; masses are float64, as the op's reference has them. An output row
// holds the candidates until it is written, so nothing is allocated.
#include <algorithm>
#include <cfloat>
#include <functional>

#include "pool.h"
#include "simd.h"

namespace zif {
namespace {

constexpr int kHalf = kLanes / 2;
typedef double vd __attribute__((vector_size(kHalf * 8)));
typedef int64_t vl __attribute__((vector_size(kHalf * 8)));
typedef float vhf __attribute__((vector_size(kHalf * 4)));

constexpr int kGroup = 32;        // tokens of which only the largest is looked at to bound the k-th from below
constexpr int kBins = 1024;       // that candidates are spread over, linearly in their value
constexpr int64_t kSorted = 64;   // this many candidates are sorted rather than spread
constexpr double kLeast = -708.;  // exp of less is 0 here; a float32 min_p is never as small

// exp(x) for x <= 0, relative error about 1e-15 (Taylor's series after reduction by ln 2).
inline vd exp(vd x) {
    constexpr double inverse_factorials[] = {1. / 6227020800, 1. / 479001600, 1. / 39916800, 1. / 3628800, 1. / 362880,
                                             1. / 40320,      1. / 5040,      1. / 720,      1. / 120,     1. / 24,
                                             1. / 6,          1. / 2,         1.,            1.};
    const vd magic = vd{} + 0x1.8p52;  // whose addition leaves the rounded integer in the lowest bits
    const vl in_range = x >= vd{} + kLeast;
    x = in_range ? x : vd{};
    const vd shifted = x * 1.4426950408889634 + magic, n = shifted - magic;
    x = x - n * 6.93145751953125e-1 - n * 1.42860682030941723212e-6;
    vd y = vd{} + inverse_factorials[0];
#pragma GCC unroll 16
    for (int i = 1; i < 14; ++i) y = y * x + inverse_factorials[i];
    const vd power = (vd)(((vl)shifted + 1023) << 52);
    return in_range ? y * power : vd{};
}

struct Softmax {
    double max, inverse_temperature;

    vd weights(const float* x) const {
        return exp((__builtin_convertvector(load_as<vhf>(x), vd) - max) * inverse_temperature);
    }
    double sum(const float* x, int64_t n) const {
        vd total{};
        int64_t i = 0;
        for (; i + kHalf <= n; i += kHalf) total += weights(x + i);
        if (i < n) total += last_weights(x + i, int(n - i));
        double sum = 0;
        for (int lane = 0; lane < kHalf; ++lane) sum += total[lane];
        return sum;
    }
    vd last_weights(const float* x, int n) const {
        float part[kHalf];
        std::fill(std::copy_n(x, n, part), part + kHalf, -INFINITY);
        return weights(part);
    }
};

// The values of from[0, n) for which keep(value), in their order, to `to`, which may be `from`; how many.
template <typename Keep>
inline int64_t compact(const float* from, int64_t n, float* to, Keep&& keep) {
    int64_t kept = 0;
    for (int64_t i = 0; i < n; ++i) {
        const float x = from[i];
        to[kept] = x;
        kept += keep(x);
    }
    return kept;
}

// Whether none of x [n] is NaN or +inf, and one is finite.
bool sound(const float* x, int64_t n) {
    vi finite{}, faulty{};
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        const vf v = load(x + i);
        finite |= v > splat(-INFINITY);
        faulty |= ~(v < splat(INFINITY));
    }
    bool any = false, fault = false;
    for (int lane = 0; lane < kLanes; ++lane) any |= finite[lane] != 0, fault |= faulty[lane] != 0;
    for (; i < n; ++i) any |= x[i] > -INFINITY, fault |= !(x[i] < INFINITY);
    return any && !fault;
}

// Maxima of disjoint groups of x [n] to `to`; how many.
int64_t group_maxima(const float* x, int64_t n, float* to) {
    int64_t i = 0, count = 0;
    while (i + kLanes <= n) {
        const int64_t end = std::min(i + kGroup * kLanes, n - n % kLanes);
        vf most = splat(-INFINITY);
        for (; i < end; i += kLanes) most = vmax(load(x + i), most);
        store(to + count, most);
        count += kLanes;
    }
    for (; i < n; ++i) to[count++] = x[i];
    return count;
}

// The smallest float not below x.
inline float ceiling(double x) {
    const float f = float(std::clamp(x, -double(FLT_MAX), double(FLT_MAX)));
    return f < x ? std::nextafter(f, INFINITY) : f;
}

struct End {
    float value;     // the least that stays
    int64_t equals;  // how many of those stay, in the order of their ids
};

// Where the mass of the largest of c [n], descending, reaches `target`: bins by value tell near which of them,
// and the bin's own values are spread again until they are few. c is overwritten.
End reach(float* c, int64_t n, const Softmax& softmax, double target) {
    double before = 0;
    for (;;) {
        const auto [low, high] = std::minmax_element(c, c + n);
        const double top = *high, range = top - *low;
        if (n <= kSorted || range == 0) break;
        const double scale = (kBins - 1) / range;
        const auto bin = [&](float x) { return std::min(int((top - x) * scale), kBins - 1); };
        const int lowest = bin(*low);  // never 0: every round takes something away
        double mass[kBins] = {};
        int last = 0;
        for (int64_t i = 0; i < n; i += kHalf) {
            const int count = int(std::min<int64_t>(kHalf, n - i));
            const vd w = count == kHalf ? softmax.weights(c + i) : softmax.last_weights(c + i, count);
            for (int j = 0; j < count; ++j) mass[bin(c[i + j])] += w[j];
        }
        while (last < lowest && before + mass[last] < target) before += mass[last++];
        n = compact(c, n, c, [&](float x) { return bin(x) == last; });
    }
    std::sort(c, c + n, std::greater<>());
    int64_t kept = 0;
    for (; kept < n && (kept == 0 || before < target); ++kept) before += softmax.last_weights(c + kept, 1)[0];
    const float value = c[kept - 1];
    const int64_t equals = std::count(c, c + kept, value);
    return {value, kept < n && c[kept] == value ? equals : INT64_MAX};
}

// The k-th largest of x [n]. `room` is overwritten; its first `count` values are no less than the k-th.
float kth_largest(const float* x, int64_t n, int64_t k, float* room, int64_t& count) {
    float bound = -INFINITY;
    count = group_maxima(x, n, room);
    if (k < count) {
        std::nth_element(room, room + k - 1, room + count, std::greater<>());
        bound = room[k - 1];
    }
    count = compact(x, n, room, [&](float v) { return v >= bound; });
    std::nth_element(room, room + k - 1, room + count, std::greater<>());
    const float kth = room[k - 1];
    count = compact(room, count, room, [&](float v) { return v >= kth; });
    return kth;
}

void filter_row(float* out, const float* x, int64_t n, double temperature, int64_t k, double top_p, double min_p) {
    if (!sound(x, n)) {
        std::fill_n(out, n, -INFINITY);
        return;
    }
    const bool some_k = k > 0 && k < n, some_p = top_p < 1;
    if (!(some_k || some_p || min_p > 0)) {
        std::copy_n(x, n, out);
        return;
    }
    const int64_t groups = group_maxima(x, n, out);
    const float most = *std::max_element(out, out + groups);
    if (!(temperature > 0)) temperature = 1;
    const Softmax softmax{most, 1 / temperature};
    float least = min_p > 0 ? std::min(most, ceiling(most + temperature * std::log(min_p))) : -INFINITY;
    int64_t equals = INT64_MAX;
    const float* left = x;
    int64_t count = n;
    if (some_k) {
        least = std::max(least, kth_largest(x, n, k, out, count));
        left = out;
    }
    if (some_p) {
        const double sum = softmax.sum(left, count);
        // All that is below this cut has less than half the mass that top-p leaves out.
        const double cut = most + temperature * std::log((1 - top_p) * sum / (2 * double(count)));
        const float low = std::min(most, ceiling(cut));
        count = compact(left, count, out, [&](float v) { return v >= low; });
        const End end = reach(out, count, softmax, top_p * sum);
        if (end.value >= least) least = end.value, equals = end.equals;
    }
    for (int64_t i = 0; i < n; ++i) out[i] = x[i] >= least ? x[i] : -INFINITY;
    if (equals == INT64_MAX) return;
    for (int64_t i = 0; i < n; ++i)
        if (out[i] == least && --equals < 0) out[i] = -INFINITY;
}

}  // namespace
}  // namespace zif

// out [rows, vocab] must not overlap the logits, whose rows lie `stride` apart; the others are [rows].
extern "C" void zif_filter(float* out, const float* logits, const float* temperature, const int32_t* top_k,
                           const float* top_p, const float* min_p, int64_t rows, int64_t vocab, int64_t stride,
                           int threads) {
    zif::parallel(threads, rows, [&](int64_t r) {
        zif::filter_row(out + r * vocab, logits + r * stride, vocab, temperature[r], top_k[r], top_p[r], min_p[r]);
    });
}
