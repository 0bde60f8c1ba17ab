// How Python reaches the kernels of this folder.
//
// A kernel takes one struct of plain pointers, sizes and numbers. Its fields are written once, as a list macro, which
// makes both the struct and a text that Python reads to fill it (kernels/native.py): a pointer to the wrong dtype, a
// tensor that is not contiguous or a field of another name is refused there, before any pointer is followed.
//
//     #define SCALE_FIELDS(POINTER, OPTIONAL, STRIDED, SIZE, REAL)   (and on the same line:)
//         POINTER(const T, x) POINTER(T, out) OPTIONAL(const float, bias) SIZE(count) REAL(factor)
//     HANDCRAFT_ARGUMENTS(Scale, SCALE_FIELDS)      // template <typename T> struct Scale, constexpr char Scale_fields[]
//
// POINTER: contiguous tensor; POINTER(T* const, ...): a list of such tensors. OPTIONAL: contiguous, or null. STRIDED: any
// strides, which the launcher passes as SIZEs, or null.
// "T" is the dtype of the activations, which ends the entry's name (scale_f32, scale_f64, scale_bf16, scale_f16);
// "Compute<T>" is double for double, else float; any other type is taken as it is written.
//
// Sources that are compiled for several instruction sets include no header with inline functions of the standard
// library: the linker keeps one copy of such a function, maybe the one the oldest processor cannot run.
#pragma once

#include <cstddef>
#include <cstdint>

namespace handcraft {

struct Entry {
    const char* name;    // with the dtype, e.g. "scale_f32"
    const char* fields;  // "p const T x;p T* const outs;o const float bias;i count;r factor;"
    size_t size;         // of the struct in bytes
    void (*run)(const void* arguments);
};

struct Entries {
    const Entry* first;
    int count;
};

// Calls body(begin, end, context) for ranges that cover 0..count, in torch's threads. What a kernel computes must not
// depend on how the ranges are cut.
void parallel_for(int64_t count, int64_t grain, void (*body)(int64_t begin, int64_t end, void* context), void* context);

// At least `bytes` of this thread's own scratch memory, aligned to 64 bytes; the content is undefined, and the next call
// in the same thread may hand out the same memory.
void* scratch(size_t bytes);

// The same for what a caller of parallel_for shares with the threads it starts: memory apart from its own `scratch`.
void* workspace(size_t bytes);

// Whether the processor has AVX512-BF16 and the kernels for AVX-512 are in use.
bool has_bf16_instructions();

}  // namespace handcraft

#define HANDCRAFT_MEMBER_POINTER(type, name) type* name;
#define HANDCRAFT_MEMBER_SIZE(name) int64_t name;
#define HANDCRAFT_MEMBER_REAL(name) double name;
#define HANDCRAFT_TEXT_POINTER(type, name) "p " #type " " #name ";"
#define HANDCRAFT_TEXT_OPTIONAL(type, name) "o " #type " " #name ";"
#define HANDCRAFT_TEXT_STRIDED(type, name) "s " #type " " #name ";"
#define HANDCRAFT_TEXT_SIZE(name) "i " #name ";"
#define HANDCRAFT_TEXT_REAL(name) "r " #name ";"

#define HANDCRAFT_ARGUMENTS(Name, FIELDS)                                                                         \
    template <typename T>                                                                                         \
    struct Name {                                                                                                 \
        FIELDS(HANDCRAFT_MEMBER_POINTER, HANDCRAFT_MEMBER_POINTER, HANDCRAFT_MEMBER_POINTER, HANDCRAFT_MEMBER_SIZE, \
               HANDCRAFT_MEMBER_REAL)                                                                             \
    };                                                                                                            \
    constexpr char Name##_fields[] = FIELDS(HANDCRAFT_TEXT_POINTER, HANDCRAFT_TEXT_OPTIONAL,                      \
                                            HANDCRAFT_TEXT_STRIDED, HANDCRAFT_TEXT_SIZE, HANDCRAFT_TEXT_REAL);

// One row of a table of entries: HANDCRAFT_ENTRY("scale_f32", Scale, float, scale) for
// template <typename T> void scale(const Scale<T>&).
#define HANDCRAFT_ENTRY(name, Name, T, function)                    \
    ::handcraft::Entry {                                            \
        name, Name##_fields, sizeof(Name<T>), [](const void* given) { function(*static_cast<const Name<T>*>(given)); } \
    }
