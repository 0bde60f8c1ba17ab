// The convolution of a Mamba block on whole tensors (conv_silu.h), beside which the block's products are torch's and its
// scan is selective_scan.cpp. A block of which one row a sequence is wanted is mamba_row.cpp.
#include "conv_silu.h"

namespace handcraft::HANDCRAFT_ISA {
namespace {

template <typename T>
void conv_silu_forward(const ConvSiluForward<T>& p) {
    run_chunks<ConvSiluForward<T>, conv_forward_chunk<T>>(p);
}

template <typename T>
void conv_silu_backward(const ConvSiluBackward<T>& p) {
    run_chunks<ConvSiluBackward<T>, conv_backward_chunk<T>>(p);
    add_chunks(p.partial_weight, p.chunks, p.channels, p.taps, 0, p.channels, p.dweight);
    add_chunks(p.partial_bias, p.chunks, p.channels, 1, 0, p.channels, p.dbias);
}

constexpr Entry table[] = {
    HANDCRAFT_ENTRY("conv_silu_forward_f32", ConvSiluForward, float, conv_silu_forward),
    HANDCRAFT_ENTRY("conv_silu_forward_f64", ConvSiluForward, double, conv_silu_forward),
    HANDCRAFT_ENTRY("conv_silu_backward_f32", ConvSiluBackward, float, conv_silu_backward),
    HANDCRAFT_ENTRY("conv_silu_backward_f64", ConvSiluBackward, double, conv_silu_backward),
};

}  // namespace

extern const Entries mamba_block_entries{table, sizeof(table) / sizeof(table[0])};

}  // namespace handcraft::HANDCRAFT_ISA
