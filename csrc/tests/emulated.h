// CUDA's words in plain C++: one block at a time on one processor, a coroutine a thread. So the CUDA kernels run, as
// they are, in tests on machines without a GPU: addresses, shared memory, barriers, shuffles and sums are those of the
// GPU, only the speed and the last bits of exp2 and 1/x are not.
//
// Checked on the way: every thread reaches every barrier; shuffles are taken by whole warps; shared memory is as large
// as the launch says and not a byte is touched beyond (the page behind it is not mapped), and starts as NaN. Threads
// run from barrier to barrier in ascending or descending order: code that misses a barrier gives two results.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include <vector>

#define HANDCRAFT_EMULATED
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct Index {
    unsigned x;
};

namespace emulated {

inline float exp2(float x) { return float(std::exp2(double(x))); }
inline float from_half(unsigned short bits) {
    _Float16 half;
    memcpy(&half, &bits, 2);
    return float(half);
}
inline unsigned short to_half(float x) {
    const _Float16 half = _Float16(x);
    unsigned short bits;
    memcpy(&bits, &half, 2);
    return bits;
}

// A group of threads that wait for each other: a block or a warp.
struct Barrier {
    int size, arrived = 0;
    long generation = 0;
};

struct Block {
    int threads;
    bool descending;
    std::function<void()> kernel;
    std::vector<ucontext_t> contexts;
    std::vector<std::unique_ptr<char[]>> stacks;
    std::vector<bool> done;
    std::vector<float> exchanged;  // (2, threads)
    std::vector<int> parity;       // which half of `exchanged` a thread uses next
    Barrier all;
    std::vector<Barrier> warps;
    ucontext_t scheduler;
    int current = 0;
    bool moved = false;
    float* shared = nullptr;
};
inline Block* block = nullptr;
inline Index block_index, grid_size;

inline void wait(Barrier& barrier) {
    const long mine = barrier.generation;
    block->moved = true;
    if (++barrier.arrived == barrier.size) {
        barrier.arrived = 0, ++barrier.generation;
        return;
    }
    while (barrier.generation == mine) swapcontext(&block->contexts[block->current], &block->scheduler);
}

inline void enter() {
    block->kernel();
    block->done[block->current] = block->moved = true;
}

constexpr size_t stack_bytes = 1 << 18;

inline bool run_block() {
    Block& b = *block;
    b.contexts.resize(b.threads), b.stacks.resize(b.threads);
    b.done.assign(b.threads, false), b.parity.assign(b.threads, 0), b.exchanged.assign(2 * b.threads, 0);
    b.all = {b.threads}, b.warps.assign((b.threads + 31) / 32, Barrier{32});
    for (int i = 0; i < b.threads; ++i) {
        if (!b.stacks[i]) b.stacks[i].reset(new char[stack_bytes]);
        getcontext(&b.contexts[i]);
        b.contexts[i].uc_stack.ss_sp = b.stacks[i].get(), b.contexts[i].uc_stack.ss_size = stack_bytes;
        b.contexts[i].uc_link = &b.scheduler;
        makecontext(&b.contexts[i], enter, 0);
    }
    for (int finished = 0; finished < b.threads;) {
        b.moved = false, finished = 0;
        for (int n = 0; n < b.threads; ++n) {
            b.current = b.descending ? b.threads - 1 - n : n;
            if (!b.done[b.current]) swapcontext(&b.scheduler, &b.contexts[b.current]);
            finished += b.done[b.current];
        }
        if (!b.moved) return false;
    }
    return true;
}

// Runs `kernel` for every block of a grid; returns what went wrong, or null.
inline const char* launch(unsigned grid, int threads, size_t shared_bytes, bool descending,
                          std::function<void()> kernel) {
    const size_t page = size_t(sysconf(_SC_PAGESIZE)), pages = (shared_bytes + page - 1) / page * page;
    char* memory = static_cast<char*>(
        mmap(nullptr, pages + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (memory == MAP_FAILED || mprotect(memory + pages, page, PROT_NONE) != 0) return "no shared memory";
    if (shared_bytes % 16 != 0) return "shared memory is not a multiple of 16 bytes";
    Block b;
    b.threads = threads, b.descending = descending, b.kernel = std::move(kernel);
    b.shared = reinterpret_cast<float*>(memory + pages - shared_bytes);
    block = &b, grid_size = {grid};
    bool whole = true;
    for (unsigned n = 0; n < grid && whole; ++n) {
        block_index = {descending ? grid - 1 - n : n};
        memset(b.shared, 0xff, shared_bytes);
        whole = run_block();
    }
    block = nullptr;
    munmap(memory, pages + page);
    return whole ? nullptr : "threads wait at a barrier that others never reach";
}

inline float shuffle(float x, int bit) {
    Block& b = *block;
    const int me = b.current;
    float* const half = b.exchanged.data() + b.threads * b.parity[me];
    half[me] = x;
    b.parity[me] ^= 1;
    wait(b.warps[me / 32]);
    return half[me ^ bit];
}

}  // namespace emulated

#define threadIdx (Index{unsigned(emulated::block->current)})
#define blockIdx (emulated::block_index)
#define blockDim (Index{unsigned(emulated::block->threads)})
#define gridDim (emulated::grid_size)
#define HANDCRAFT_SHARED(name) float* const name = emulated::block->shared
inline void __syncthreads() { emulated::wait(emulated::block->all); }
inline void __syncwarp() { emulated::wait(emulated::block->warps[emulated::block->current / 32]); }
inline float __shfl_xor_sync(unsigned, float x, int bit) { return emulated::shuffle(x, bit); }
inline float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
inline unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, 4);
    return bits;
}
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
