// The CUDA scan as a library for tests/ops/test_cuda_scan.py: its kernels on the emulated device, and its structs.
#include "emulated.h"

#include "../selective_scan/scan.cu"

namespace cuda = handcraft::cuda;

#define FIELD(type, name) #name ";"
#define NUMBER(name) #name ";"
#define EXPORT extern "C" __attribute__((visibility("default")))

// Names of the fields in order; every field has 8 bytes.
EXPORT const char* handcraft_forward_fields() {
    static_assert(sizeof(void*) == 8 && sizeof(cuda::Size) == 8);
    return HANDCRAFT_SCAN_FORWARD(FIELD, FIELD, FIELD, NUMBER, NUMBER) HANDCRAFT_SCAN_TILING(FIELD, FIELD, NUMBER);
}
EXPORT const char* handcraft_backward_fields() {
    return HANDCRAFT_SCAN_BACKWARD(FIELD, FIELD, FIELD, NUMBER, NUMBER) HANDCRAFT_SCAN_TILING(FIELD, FIELD, NUMBER)
        HANDCRAFT_SCAN_PARTIALS(FIELD, FIELD, NUMBER);
}

// What went wrong, or null.
EXPORT const char* handcraft_launch(const char* kernel, unsigned grid, unsigned threads, size_t shared, bool descending,
                                    const void* arguments) {
    const auto& forward = *static_cast<const cuda::Forward*>(arguments);
    const auto& backward = *static_cast<const cuda::Backward*>(arguments);
    const auto run = [&](auto body) { return emulated::launch(grid, int(threads), shared, descending, body); };
    if (threads != cuda::threads) return "compiled for another number of threads";
    if (!strcmp(kernel, "scan_forward")) return run([&] { cuda::scan_forward(forward); });
    if (!strcmp(kernel, "scan_backward")) return run([&] { cuda::scan_backward(backward); });
    if (!strcmp(kernel, "scan_finish")) return run([&] { cuda::scan_finish(backward); });
    return "no such kernel";
}

// softplus, its slope from its value, sigmoid and exp of device.h, one number at a time.
EXPORT void handcraft_functions(const float* x, float* softplus, float* slope, float* sigmoid, float* exp,
                                size_t count) {
    for (size_t i = 0; i < count; ++i) {
        softplus[i] = cuda::Math::softplus(x[i]), slope[i] = cuda::Math::softplus_slope(softplus[i]);
        sigmoid[i] = cuda::Math::sigmoid(x[i]), exp[i] = cuda::Math::exp(x[i]);
    }
}
EXPORT void handcraft_bf16(const float* x, unsigned short* y, size_t count) {
    for (size_t i = 0; i < count; ++i) y[i] = cuda::narrow<cuda::bf16>(x[i]).bits;
}
