"""Compile every Triton kernel ahead of time for GPUs of three generations, without a GPU, and check the code.

    PYTHONPATH=tests python -m aot.run                        # every kernel in its common shapes, as CI does
    PYTHONPATH=tests python -m aot.run --all                  # every shape; writes benchmarks/results/aot.{json,md}
    PYTHONPATH=tests python -m aot.run --case "dct_linear bf16" --target sm_90 --no-write

The exit code is 1 if a kernel spills registers, needs more shared memory than a block may use, lacks the target's
matrix instruction where it is meant to have one, or is not as the committed table has it. Triton must not be told to
interpret: then it cannot compile.
"""

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
import triton
from aot.compiling import MODULES, TARGETS, Compiled, cases, compile_launch, launches

from handcraft.files import read_json, write_json, write_text

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def compile_all(part: str, targets: list[str], processes: int, *, everything: bool) -> list[Compiled]:
    """Every launch of the cases whose name contains `part`, on every target, in a fixed order."""
    jobs = [
        (which, number, target)
        for which, case in enumerate(cases())
        if part in case.name and (case.common or everything)
        for target in targets
        for number in range(len(launches(case.run, target)))
    ]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        return list(pool.map(_compile, jobs))


def _compile(job: tuple[int, int, str]) -> Compiled:
    which, number, target = job
    case = list(cases())[which]
    return compile_launch(case, launches(case.run, target)[number], target)


def outdated(rows: list[Compiled]) -> list[str]:
    """Kernels of which the committed table says something else, in words; nothing if other versions wrote it."""
    table = read_json(RESULTS / "aot.json")
    if table["versions"] != _versions():
        return []
    committed = [Compiled(**row) for row in table["kernels"]]
    return [
        f"{row.case} {row.kernel} {row.target}: benchmarks/results/aot.json does not have it so; "
        "make test-aot FORMS=all writes it anew"
        for row in rows
        if row not in committed
    ]


def _versions() -> dict[str, str]:
    return {"triton": triton.__version__, "torch": torch.__version__}


def markdown(rows: list[Compiled]) -> str:
    """The table."""
    lines = [
        "# Triton kernels compiled ahead of time",
        "",
        f"Triton {triton.__version__}, torch {torch.__version__}; written by `python -m aot.run --all` in tests. "
        "Registers of a thread, "
        "shared memory of a block in bytes.",
        "Matrix instructions as they stand in the PTX, loops counted once. Nothing here was run.",
        "",
        "| case | kernel | target | warps | registers | shared | spilled | matrix instructions |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        matrix = f"{row.matrix} {TARGETS[row.target].matrix}" if row.matrix or not row.other_matrix else ""
        older = f"{row.other_matrix} of an older kind" if row.other_matrix else ""
        lines.append(
            f"| {row.case} | {row.kernel} | {row.target} | {row.num_warps} | {row.registers} | {row.shared} "
            f"| {row.spilled} | {', '.join(filter(None, (matrix, older)))} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="Compile every Triton kernel ahead of time and check the code.")
    parser.add_argument("--case", default="", help="only cases whose name contains this")
    parser.add_argument("--target", choices=TARGETS, action="append", help="only this GPU; may be given again")
    parser.add_argument("--all", action="store_true", help="every shape; a quarter of an hour of CPU time")
    parser.add_argument("--processes", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--no-write", action="store_true", help="leave benchmarks/results as it is")
    options = parser.parse_args()
    if triton.knobs.runtime.interpret:
        parser.error("TRITON_INTERPRET is set, which makes Triton interpret instead of compile; unset it")
    rows = compile_all(options.case, options.target or list(TARGETS), options.processes, everything=options.all)
    text = markdown(rows)
    print(text)
    if options.all and not (options.no_write or options.case or options.target):
        write_json(RESULTS / "aot.json", {"versions": _versions(), "kernels": [row.row() for row in rows]})
        write_text(RESULTS / "aot.md", text)
    faults = [fault for row in rows for fault in row.faults()] + outdated(rows)
    print(
        "\n".join(faults)
        or f"{len(rows)} kernels from {len(MODULES)} files: no spill but those accepted, shared memory fits."
    )
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
