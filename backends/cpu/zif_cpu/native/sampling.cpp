// Penalties, argmax, and the draw in two stages (zif/contract/ops/sampling.py), over rows of float32 logits.
#include <algorithm>

#include "pool.h"
#include "simd.h"

namespace zif {
namespace {

typedef uint32_t vu __attribute__((vector_size(kLanes * 4)));

constexpr int64_t kHalf = 128;                // tokens that share Threefry's words are so far apart: zif/contract/ops/threefry.py
constexpr int64_t kBlock = 2 * kHalf;         // tokens that are first drawn as one
constexpr uint32_t kFirstBlock = 0x80000000u; // the counter of block 0
constexpr int64_t kScored = 16;               // blocks of a row that a thread takes at a time, a multiple of kLanes
constexpr int64_t kPiece = kScored * kBlock;  // their tokens

struct Best {
    float value = -INFINITY;
    int32_t index = INT32_MAX;

    // The larger value, the lower index among equals.
    void take(float other, int32_t at) {
        if (other > value || (other == value && at < index)) value = other, index = at;
    }
};

// A Best in each lane; ids are taken in ascending order.
struct Bests {
    vf value = splat(-INFINITY);
    vi index = splat(INT32_MAX);

    void take(vf other, vi at) {
        const vi better = other > value;
        value = better ? other : value;
        index = better ? at : index;
    }

    Best best() const {
        Best best;
        for (int i = 0; i < kLanes; ++i) best.take(value[i], index[i]);
        return best;
    }
};

struct Words {
    vu first, second;
};

inline vu rotate(vu x, int by) { return (x << by) | (x >> (32 - by)); }

// Threefry-2x32-20 (Salmon et al. 2011).
inline Words threefry(uint32_t key0, uint32_t key1, uint32_t counter0, vu counter1) {
    constexpr int rotations[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
    const uint32_t keys[3] = {key0, key1, key0 ^ key1 ^ 0x1BD11BDAu};
    vu x0 = vu{} + (counter0 + keys[0]), x1 = counter1 + keys[1];
#pragma GCC unroll 5
    for (int group = 0; group < 5; ++group) {
#pragma GCC unroll 4
        for (int r : rotations[group % 2]) {
            x0 += x1;
            x1 = rotate(x1, r) ^ x0;
        }
        x0 += keys[(group + 1) % 3];
        x1 += keys[(group + 2) % 3] + uint32_t(group + 1);
    }
    return {x0, x1};
}

// log(x) for normal positive x, relative error about 1e-7 (Cephes).
inline vf log(vf x) {
    vi bits = (vi)x;
    vi e = ((bits >> 23) & 255) - 126;
    vf m = (vf)((bits & splat(0x007fffff)) | splat(0x3f000000));  // in [0.5, 1)
    const vi low = m < splat(0.70710678f);
    e += low;  // lanes of a comparison are -1 where it holds
    m = (low ? m + m : m) - splat(1.f);
    const vf z = m * m;
    vf y = splat(7.0376836292e-2f);
    y = y * m + splat(-1.1514610310e-1f);
    y = y * m + splat(1.1676998740e-1f);
    y = y * m + splat(-1.2420140846e-1f);
    y = y * m + splat(1.4249322787e-1f);
    y = y * m + splat(-1.6668057665e-1f);
    y = y * m + splat(2.0000714765e-1f);
    y = y * m + splat(-2.4999993993e-1f);
    y = y * m + splat(3.3333331174e-1f);
    y = y * m * z;
    const vf n = __builtin_convertvector(e, vf);
    return m + (y - splat(2.12194440e-4f) * n - splat(0.5f) * z) + splat(0.693359375f) * n;
}

// -log(-log u) for u = (m + 1/2) / 2^23, which float32 holds exactly.
inline vf gumbel(vu bits) {
    const vf u = (__builtin_convertvector((vi)(bits >> 9), vf) + splat(0.5f)) * splat(1.1920928955078125e-7f);
    return -log(-log(u));
}

struct Draw {
    float inverse;  // of the temperature
    uint32_t key0, key1, position;
};

inline vi lanes() {
    vi lane;
    for (int i = 0; i < kLanes; ++i) lane[i] = i;
    return lane;
}

// NaN as +inf, which beats all others: a draw from a row that is not sound ends in a best value that is not finite.
inline vf sound_or_inf(vf x) { return x < splat(INFINITY) ? x : splat(INFINITY); }

// Logits [i, i + kLanes), -inf from end on.
inline vf load_before(const float* logits, int64_t i, int64_t end) {
    if (i + kLanes <= end) return load(logits + i);
    const int n = int(std::max<int64_t>(end - i, 0));
    return lanes() < splat(n) ? load_part(logits + i, n) : splat(-INFINITY);
}

Best greatest(const float* logits, int64_t begin, int64_t end) {
    Bests bests;
    for (int64_t i = begin; i < end; i += kLanes)
        bests.take(sound_or_inf(load_before(logits, i, end)), lanes() + splat(int32_t(i)));
    return bests.best();
}

// Of the blocks in [begin, end), which begins one: the highest score, and which block's it is.
Best best_block(const float* logits, int64_t begin, int64_t end, const Draw& draw) {
    float tops[kScored], masses[kScored];
    std::fill_n(tops, kScored, -INFINITY);
    std::fill_n(masses, kScored, 1.f);
    for (int64_t at = begin; at < end; at += kBlock) {
        const int64_t to = std::min(at + kBlock, end);
        vf highest = splat(-INFINITY), mass = vf{};
        for (int64_t i = at; i < to; i += kLanes) highest = vmax(highest, sound_or_inf(load_before(logits, i, to)));
        const float top = max(highest);
        tops[(at - begin) / kBlock] = top * draw.inverse;
        if (!std::isfinite(top)) continue;
        for (int64_t i = at; i < to; i += kLanes)
            mass += exp((load_before(logits, i, to) - splat(top)) * splat(draw.inverse));
        masses[(at - begin) / kBlock] = sum(mass);
    }
    Bests bests;
    for (int64_t i = 0; i < kScored; i += kLanes) {
        const vi block = lanes() + splat(int32_t(begin / kBlock + i));
        const vf noise = gumbel(threefry(draw.key0, draw.key1, draw.position, (vu)block | kFirstBlock).first);
        bests.take(load(tops + i) + log(load(masses + i)) + noise, block);
    }
    return bests.best();
}

// Of the ids of a block of the vocabulary: the one drawn.
Best best_id(const float* logits, int64_t block, int64_t vocab, const Draw& draw) {
    const vf inverse = splat(draw.inverse);
    Bests lower, upper;
    for (int64_t i = block * kBlock; i < block * kBlock + kHalf; i += kLanes) {
        const vi id = lanes() + splat(int32_t(i));
        const Words words = threefry(draw.key0, draw.key1, draw.position, (vu)id);
        lower.take(load_before(logits, i, vocab) * inverse + gumbel(words.first), id);
        upper.take(load_before(logits, i + kHalf, vocab) * inverse + gumbel(words.second), id + splat(int32_t(kHalf)));
    }
    Best best = lower.best();
    const Best other = upper.best();
    best.take(other.value, other.index);
    return best;
}

void penalize(float* out, const float* logits, const int32_t* counts, const uint8_t* in_prompt, int64_t n,
              float repetition, float presence, float frequency) {
    for (int64_t i = 0; i < n; ++i) {
        const float x = logits[i], count = float(counts[i]), factor = (counts[i] > 0) | in_prompt[i] ? repetition : 1.f;
        out[i] = (x > 0 ? x / factor : x * factor) - frequency * count - (counts[i] > 0 ? presence : 0.f);
    }
}

}  // namespace
}  // namespace zif

// out, logits, counts and in_prompt (bool) are [rows, vocab]; the others [rows].
extern "C" void zif_penalize(float* out, const float* logits, const int32_t* counts, const uint8_t* in_prompt,
                             const float* repetition, const float* presence, const float* frequency, int64_t rows,
                             int64_t vocab, int threads) {
    using namespace zif;
    const int64_t pieces = (vocab + kPiece - 1) / kPiece;
    parallel(rows * pieces > 4 ? threads : 1, rows * pieces, [&](int64_t i) {
        const int64_t r = i / pieces, begin = i % pieces * kPiece, at = r * vocab + begin;
        penalize(out + at, logits + at, counts + at, in_prompt + at, std::min(kPiece, vocab - begin), repetition[r],
                 presence[r], frequency[r]);
    });
}

// out [rows], -1 for a row that is not sound. temperature, seed [rows, 2] and position are null for argmax.
extern "C" void zif_sample(int32_t* out, const float* logits, const float* temperature, const int32_t* seed,
                           const int32_t* position, int64_t rows, int64_t vocab, int64_t stride, int threads) {
    using namespace zif;
    const int64_t pieces = (vocab + kPiece - 1) / kPiece;
    const auto drawn = [&](int64_t r) { return temperature && temperature[r] > 0; };
    const auto draw = [&](int64_t r) {
        return Draw{1.f / temperature[r], uint32_t(seed[2 * r]), uint32_t(seed[2 * r + 1]), uint32_t(position[r])};
    };
    Best* found = new Best[rows * pieces];
    parallel(rows * pieces > 4 ? threads : 1, rows * pieces, [&](int64_t i) {
        const int64_t r = i / pieces, begin = i % pieces * kPiece, end = std::min(begin + kPiece, vocab);
        const float* line = logits + r * stride;
        found[i] = drawn(r) ? best_block(line, begin, end, draw(r)) : greatest(line, begin, end);
    });
    parallel(rows > 4 ? threads : 1, rows, [&](int64_t r) {
        Best best;
        for (int64_t p = 0; p < pieces; ++p) best.take(found[r * pieces + p].value, found[r * pieces + p].index);
        const bool sound = std::isfinite(best.value);
        if (sound && drawn(r)) best = best_id(logits + r * stride, best.index, vocab, draw(r));
        out[r] = sound ? best.index : -1;
    });
    delete[] found;
}
