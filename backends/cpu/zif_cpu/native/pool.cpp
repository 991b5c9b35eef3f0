#include "pool.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>

namespace zif {
namespace {

constexpr int kIndexBits = 20;  // of a ticket: generation | count | next index
constexpr int64_t kMaxPieces = int64_t(1) << (kIndexBits - 1);  // half, so that overshooting threads cannot carry
constexpr auto kPatience = std::chrono::microseconds(200);      // how long an idle worker spins before it sleeps
constexpr int kSpins = 2000;                                    // how often the caller looks before it yields

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

class Pool {
public:
    void run(int threads, int64_t count, void (*body)(void*, int64_t), void* context) {
        std::unique_lock<std::mutex> lock(busy_, std::try_to_lock);
        if (!lock) {  // another engine of this process is at it
            for (int64_t i = 0; i < count; ++i) body(context, i);
            return;
        }
        while (workers_ < threads - 1) std::thread(&Pool::work, this, workers_++).detach();
        body_ = body, context_ = context;
        helpers_.store(threads - 1, std::memory_order_relaxed);
        left_.store(count, std::memory_order_relaxed);
        const uint32_t generation = generation_.load(std::memory_order_relaxed) + 1;
        ticket_.store(uint64_t(generation) << (2 * kIndexBits) | uint64_t(count) << kIndexBits, std::memory_order_release);
        generation_.store(generation, std::memory_order_release);
        generation_.notify_all();
        take_pieces();
        for (int spins = 0; left_.load(std::memory_order_acquire) > 0;)
            if (++spins < kSpins) relax();
            else sched_yield();
    }

private:
    // A ticket says by itself whether its index is one of its job's, and a job with an index not done
    // cannot end: so whoever holds a valid index may read body_ and context_.
    void take_pieces() {
        constexpr uint64_t mask = (uint64_t(1) << kIndexBits) - 1;
        for (;;) {
            const uint64_t ticket = ticket_.fetch_add(1, std::memory_order_acq_rel);
            const uint64_t index = ticket & mask, count = ticket >> kIndexBits & mask;
            if (index >= count) return;
            body_(context_, int64_t(index));
            left_.fetch_sub(1, std::memory_order_release);
        }
    }

    void work(int number) {
        uint32_t seen = 0;
        for (;;) {
            seen = next_generation(seen);
            if (number < helpers_.load(std::memory_order_relaxed)) take_pieces();
        }
    }

    uint32_t next_generation(uint32_t seen) {
        const auto until = std::chrono::steady_clock::now() + kPatience;
        do {
            for (int i = 0; i < 32; ++i) {
                const uint32_t now = generation_.load(std::memory_order_acquire);
                if (now != seen) return now;
                relax();
            }
        } while (std::chrono::steady_clock::now() < until);
        generation_.wait(seen, std::memory_order_acquire);
        return generation_.load(std::memory_order_acquire);
    }

    std::mutex busy_;
    int workers_ = 0;
    void (*body_)(void*, int64_t) = nullptr;
    void* context_ = nullptr;
    std::atomic<int> helpers_{0};
    alignas(64) std::atomic<uint64_t> ticket_{0};
    alignas(64) std::atomic<int64_t> left_{0};
    alignas(64) std::atomic<uint32_t> generation_{0};
};

// Never destroyed: workers outlive main(). A forked child has none of them, so it gets a pool of its own.
Pool* pool = new Pool;
[[maybe_unused]] const int at_fork = pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });

}  // namespace

void run_pieces(int threads, int64_t count, void (*body)(void*, int64_t), void* context) {
    for (int64_t done = 0; done < count; done += kMaxPieces) {
        struct Part {
            void (*body)(void*, int64_t);
            void* context;
            int64_t first;
        } part{body, context, done};
        if (count <= kMaxPieces) pool->run(threads, count, body, context);
        else
            pool->run(threads, std::min(kMaxPieces, count - done),
                      [](void* p, int64_t i) { ((Part*)p)->body(((Part*)p)->context, ((Part*)p)->first + i); }, &part);
    }
}

}  // namespace zif
