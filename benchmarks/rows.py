"""What is measured, on a CPU and on a GPU: the lines of the tables, by op and mode."""

from dataclasses import dataclass

from shapes import (
    Cmlpe,
    DCTLinear,
    Disk,
    Generate,
    Loading,
    Mamba,
    Motion,
    Recording,
    Scan,
    Shape,
    Stack,
    Step,
    Video,
    Windows,
)


@dataclass(frozen=True)
class Row:
    """One line of the tables. full: measured under --full only. compiled: torch.compile of it is measured by default
    too (under --full it always is)."""

    shape: Shape
    full: bool = False
    compiled: bool = False


CPU = {
    "dct_linear forward": (Row(DCTLinear(1024)), Row(DCTLinear(1024, width=512), full=True)),
    "dct_linear training": (Row(DCTLinear(1024)),),
    "adaln_mlp forward": (Row(Stack(1024, blocks=1, embedding=0)),),
    "adaln_mlp_stack forward": (Row(Stack(1024)), Row(Stack(1024, dtype="bfloat16"), full=True)),
    "adaln_mlp_stack training": (Row(Stack(1024)),),
    "cmlpe forward": (
        Row(Cmlpe(1024), compiled=True),
        Row(Cmlpe(1024, dtype="bfloat16"), compiled=True),
        Row(Cmlpe(1024, dim=144), full=True),
        Row(Cmlpe(1024, frames=32), full=True),
        Row(Cmlpe(16), full=True),
    ),
    "cmlpe training": (Row(Cmlpe(1024)),),
    "cmlpe_generate forward": (Row(Generate(2048)),),
    "selective_scan forward": (
        Row(Scan(64)),
        *(Row(Scan(64, length=length), full=True) for length in (9, 17, 65, 129, 513)),
    ),
    "selective_scan training": (
        Row(Scan(64), compiled=True),
        Row(Scan(64, dim=1024), compiled=True),
        *(Row(Scan(64, length=length), full=True) for length in (9, 17, 65, 129, 513)),
        *(Row(Scan(64, dim=dim), full=True) for dim in (64, 256, 512)),
    ),
    "mamba_block forward": (Row(Mamba(64)),),
    "mamba_block training": (
        Row(Mamba(64)),
        *(Row(Mamba(64, length=length), full=True) for length in (9, 17, 65, 129, 513)),
        *(Row(Mamba(64, width), full=True) for width in (128, 256, 512, 1024)),
    ),
    "motion_norms training": (Row(Motion(1024)),),
    "clip_windows forward": (Row(Windows(1024, 32)),),
    "step training": (
        Row(Step("cmlpe", 1024), compiled=True),
        Row(Step("transformer_sl", 64), compiled=True),
        Row(Step("mamba_sl", 64), compiled=True),
    ),
    "disk forward": (
        # Of fewer clips a store's beginning and end, when not all threads work, would be a good part.
        Row(Disk(1 << 15)),
        Row(Disk(1 << 15, varied=True)),
        Row(Disk(1 << 17), full=True),
        Row(Disk(1 << 17, varied=True), full=True),
    ),
    "loading forward": (
        Row(Loading(128, "wrap")),
        Row(Loading(128, "resample")),
        Row(Loading(128, "wrap", clips=1 << 14), full=True),  # 480 MB: far more than any cache holds
        Row(Loading(128, "wrap", augment=True), full=True),
        Row(Loading(128, "resample", augment=True), full=True),
    ),
    "online training": (
        Row(Step("transformer_sl", 64, width=128)),
        Row(Step("transformer_sl", 1024, width=128), full=True),
    ),
    "recognise forward": (Row(Recording("transformer_sl")), Row(Recording("mamba_sl"))),
    "extract forward": (Row(Video("msl150_yo.mp4", 55, 1280, 720)),),
}

CUDA = {
    "dct_linear forward": (
        Row(DCTLinear(1 << 16, dtype="bfloat16"), compiled=True),
        Row(DCTLinear(1 << 16, width=128, dtype="bfloat16"), full=True),
        Row(DCTLinear(1 << 16, width=512, dtype="bfloat16"), full=True),
        Row(DCTLinear(1 << 16), full=True),
        *(Row(DCTLinear(1 << log, dtype="bfloat16"), full=True) for log in (0, 6, 12, 18)),
    ),
    "dct_linear training": (Row(DCTLinear(1 << 14, dtype="bfloat16"), full=True),),
    "adaln_mlp forward": (Row(Stack(1 << 14, blocks=1, embedding=0, dtype="bfloat16"), full=True),),
    "adaln_mlp_stack forward": (
        Row(Stack(1 << 14, dtype="bfloat16")),
        *(Row(Stack(1 << log, dtype="bfloat16"), full=True) for log in (0, 8, 18)),
    ),
    "adaln_mlp_stack training": (
        Row(Stack(1 << 14, dtype="bfloat16"), compiled=True),
        *(Row(Stack(1 << log, dtype="bfloat16"), full=True) for log in (6, 10)),
    ),
    "cmlpe forward": (Row(Cmlpe(1 << 14, dtype="bfloat16"), compiled=True), Row(Cmlpe(1 << 14), full=True)),
    "cmlpe training": (
        Row(Cmlpe(1 << 14, dtype="bfloat16")),
        Row(Cmlpe(1 << 10), full=True),
        Row(Cmlpe(1 << 6), full=True),
    ),
    "cmlpe_generate forward": (
        Row(Generate(1 << 18, dtype="bfloat16", clips=1 << 16), compiled=True),
        *(Row(Generate(1 << log, dtype="bfloat16", clips=1 << 16), full=True) for log in (0, 6, 12)),
        Row(Generate(1 << 18, clips=1 << 16), full=True),
    ),
    "selective_scan forward": (Row(Scan(2048, dim=1024, dtype="bfloat16")),),
    "selective_scan training": (
        Row(Scan(2048, dim=1024, dtype="bfloat16")),
        Row(Scan(64), full=True),
        Row(Scan(2048, dim=1024, length=9, dtype="bfloat16"), full=True),
        Row(Scan(512, dim=1024, length=129, dtype="bfloat16"), full=True),
    ),
    "mamba_block forward": (Row(Mamba(2048, width=512, dtype="bfloat16")),),
    "mamba_block training": (Row(Mamba(2048, width=512, dtype="bfloat16")),),
    "step training": (Row(Step("cmlpe", 1024)), Row(Step("transformer_sl", 2048)), Row(Step("mamba_sl", 2048))),
    "disk forward": (),
    "loading forward": (),
    "motion_norms training": (),
    "clip_windows forward": (),
    "online training": (),
    "recognise forward": (),
    "extract forward": (),
}
