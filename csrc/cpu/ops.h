// The ops of this folder: X(name) has its source name.cpp, which defines `const Entries name_entries` in its namespace.
#pragma once

#ifndef HANDCRAFT_OPS
#define HANDCRAFT_OPS(X) X(adaln_mlp) X(clip_windows) X(cmlpe) X(cmlpe_generate) X(dct_linear) X(mamba_block) X(mamba_row) X(motion_norms) X(optimizer) X(philox) X(selective_scan) X(selective_scan_backward) X(vecmath)
#endif
