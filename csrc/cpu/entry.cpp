// The library's four C functions, the choice of an instruction set, threads and scratch memory. Compiled once, for the
// oldest processor.
#include "entry.h"

#include <cstdlib>
#include <cstring>

#include "ops.h"

namespace handcraft {

#define DECLARE(op) extern const Entries op##_entries;
namespace baseline { HANDCRAFT_OPS(DECLARE) }
#ifdef HANDCRAFT_X86
namespace avx2 { HANDCRAFT_OPS(DECLARE) }
namespace avx512 { HANDCRAFT_OPS(DECLARE) }
#endif
#undef DECLARE

namespace {

struct Isa {
    const char* name;
    bool (*runs)();
    const Entries* const* ops;
};

#define ADDRESS(op) &HANDCRAFT_TABLE::op##_entries,
#define HANDCRAFT_TABLE baseline
const Entries* const baseline_ops[] = {HANDCRAFT_OPS(ADDRESS) nullptr};
#undef HANDCRAFT_TABLE
#ifdef HANDCRAFT_X86
#define HANDCRAFT_TABLE avx2
const Entries* const avx2_ops[] = {HANDCRAFT_OPS(ADDRESS) nullptr};
#undef HANDCRAFT_TABLE
#define HANDCRAFT_TABLE avx512
const Entries* const avx512_ops[] = {HANDCRAFT_OPS(ADDRESS) nullptr};
#undef HANDCRAFT_TABLE
#endif
#undef ADDRESS

// Best first; the last one runs everywhere.
const Isa isas[] = {
#ifdef HANDCRAFT_X86
    {"avx512",
     [] {
         return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                __builtin_cpu_supports("fma");
     },
     avx512_ops},
    {"avx2", [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }, avx2_ops},
#endif
    {"baseline", [] { return true; }, baseline_ops},
};

const Isa* chosen = nullptr;

using ParallelFor = int (*)(int64_t, int64_t, int64_t, void (*)(int64_t, int64_t, void*), void*);
ParallelFor torch_parallel_for = nullptr;

// With a sanitizer every piece of memory is new and no longer than asked for, so that it can tell what lies outside.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool exact_memory = true;
#else
constexpr bool exact_memory = false;
#endif

struct Scratch {
    void* memory = nullptr;
    size_t bytes = 0;
    ~Scratch() { std::free(memory); }

    void* at_least(size_t wanted) {
        if (bytes < wanted || exact_memory) {
            std::free(memory);
            bytes = exact_memory ? (wanted + 63) / 64 * 64 : (wanted + 4095) / 4096 * 4096;
            memory = std::aligned_alloc(64, bytes);
            if (memory == nullptr) std::abort();
        }
        return memory;
    }
};

}  // namespace

void parallel_for(int64_t count, int64_t grain, void (*body)(int64_t, int64_t, void*), void* context) {
    if (count <= 0) return;
    if (torch_parallel_for == nullptr || torch_parallel_for(0, count, grain, body, context) != 0) body(0, count, context);
}

void* scratch(size_t bytes) {
    thread_local Scratch mine;
    return mine.at_least(bytes);
}

void* workspace(size_t bytes) {
    thread_local Scratch mine;
    return mine.at_least(bytes);
}

bool has_bf16_instructions() {
#if defined(HANDCRAFT_X86)
    return chosen != nullptr && std::strcmp(chosen->name, "avx512") == 0 && __builtin_cpu_supports("avx512bf16");
#else
    return false;
#endif
}

}  // namespace handcraft

#define EXPORT extern "C" __attribute__((visibility("default")))

// Chooses the best instruction set this processor has, or the named one; its name, or null if it cannot run here.
// Called once, before everything else.
EXPORT const char* handcraft_choose(const char* name) {
    using namespace handcraft;
#ifdef HANDCRAFT_X86
    __builtin_cpu_init();
#endif
    for (const Isa& isa : isas) {
        if (isa.runs() && (name == nullptr || std::strcmp(name, isa.name) == 0)) {
            chosen = &isa;
            return isa.name;
        }
    }
    return nullptr;
}

// at::parallel_for of the loaded torch: its C function `torch_parallel_for` (torch >= 2.10).
EXPORT void handcraft_set_threads(void* torch_parallel_for) {
    handcraft::torch_parallel_for = reinterpret_cast<handcraft::ParallelFor>(torch_parallel_for);
}

// The tables of entries of the chosen instruction set: op 0, 1, ... until null.
EXPORT const handcraft::Entries* handcraft_entries(int op) {
    return handcraft::chosen == nullptr ? nullptr : handcraft::chosen->ops[op];
}

EXPORT bool handcraft_has_bf16_instructions() { return handcraft::has_bf16_instructions(); }
