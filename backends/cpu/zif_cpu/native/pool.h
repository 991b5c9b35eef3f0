// Threads that share the pieces of one job at a time.
//
// The caller works too and never waits for a thread that has not begun: on a busy machine a worker that
// the system has put aside costs the others nothing but its help, where a barrier would cost a time slice.
#pragma once

#include <algorithm>
#include <cstdint>

namespace zif {

// body(context, i) for each i in [0, count), on up to `threads` threads, this one included.
void run_pieces(int threads, int64_t count, void (*body)(void*, int64_t), void* context);

// body(i) for each i in [0, count).
template <typename Body>
inline void parallel(int threads, int64_t count, Body&& body) {
    if (threads <= 1 || count <= 1) {
        for (int64_t i = 0; i < count; ++i) body(i);
        return;
    }
    run_pieces(threads, count, [](void* context, int64_t i) { (*(Body*)context)(i); }, (void*)&body);
}

// body(begin, end) for ranges of at most `piece` that cover [0, count).
template <typename Body>
inline void parallel_ranges(int threads, int64_t count, int64_t piece, Body&& body) {
    parallel(threads, (count + piece - 1) / piece,
             [&](int64_t i) { body(i * piece, std::min(count, (i + 1) * piece)); });
}

}  // namespace zif
