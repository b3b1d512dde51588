"""Compiles every kernel for every architecture and prints registers, spills, shared memory and theoretical occupancy.

python tests/cuda/resources.py [ARCHITECTURE ...]
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)
# Of one multiprocessor, from the CUDA programming guide: most warps, shared memory and most of it for one block, in KiB.
LIMITS = {
    75: (32, 64, 64),
    80: (64, 164, 163),
    86: (48, 100, 99),
    89: (48, 100, 99),
    90: (64, 228, 227),
    100: (64, 228, 227),
    120: (48, 100, 99),
}
REGISTERS = 65536
# Threads of a block and its dynamic shared memory in bytes, for float32 and for float64, for long lines and tiles of
# large planes (those that a T4 takes).
LAUNCHES = {
    "line_carries": ((128, 18_180), (128, 18_312)),
    "combine_carries": ((128, 1_536), (128, 2_560)),
    "line_support": ((128, 28_164), (128, 28_296)),
    "line_backward": ((128, 28_676), (128, 28_808)),
    "plane_carries": ((256, 37_488), (160, 35_488)),
    "plane_support": ((256, 37_488), (160, 35_488)),
    "plane_support, line": ((256, 37_488), (160, 35_488)),
    "plane_backward": ((160, 61_824), (128, 60_704)),
    "plane_backward, line": ((160, 61_824), (128, 58_112)),
    "sum_elements": ((128, 512), (128, 1_024)),
    "weigh_edges": ((128, 0), (128, 0)),
    "pull_edges": ((128, 2_048), (128, 2_048)),
    "sum_parts": ((128, 1_024), (128, 1_024)),
    "pull_nodes": ((128, 0), (128, 0)),
}


@dataclass(frozen=True)
class Usage:
    kernel: str
    type: str
    architecture: int
    registers: int
    spills: int
    stack: int
    static_shared: int

    @property
    def launch(self) -> tuple[int, int]:
        return LAUNCHES[self.kernel][self.type == "double"]

    @property
    def dynamic_shared(self) -> int:
        return self.launch[1]

    def occupancy(self) -> float:
        """Warps that a multiprocessor can hold of those it could, by registers, shared memory and warps."""
        warps, shared, _ = LIMITS[self.architecture]
        block = self.launch[0] // 32
        per_warp = -(-self.registers * 32 // 256) * 256
        by_registers = REGISTERS // per_warp // block
        reserved = 0 if self.architecture < 80 else 1024
        by_shared = shared * 1024 // max(self.dynamic_shared + self.static_shared + reserved, 1)
        return (
            min(by_registers, by_shared, warps // block, 16 if self.architecture in (75, 86, 89) else 32)
            * block
            / warps
        )


def nvcc() -> str | None:
    return shutil.which(os.environ.get("NVCC", "nvcc"))


def measure(architectures: Sequence[int] = ARCHITECTURES) -> list[Usage]:
    """What ptxas says of every kernel; RuntimeError with its words at any warning."""
    jobs = [(a, s) for a in architectures for s in sorted((ROOT / "cuda").glob("*.cu"))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [usage for found in pool.map(lambda job: _compile(*job), jobs) for usage in found]


def _compile(architecture: int, source: Path) -> list[Usage]:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            str(nvcc()),
            "-std=c++20",
            f"-arch=sm_{architecture}",
            "-cubin",
            "-Xptxas",
            "-v",
            "-Werror",
            "all-warnings",
        ]
        command += [f"-I{ROOT / 'cpp'}", f"-I{ROOT / 'cuda'}", "-o", f"{folder}/out.cubin", str(source)]
        result = subprocess.run(command, capture_output=True, text=True)
    log = result.stderr + result.stdout
    if result.returncode != 0 or "warning" in log:
        raise RuntimeError(f"{source.name} for sm_{architecture}:\n{log}")
    pattern = (
        r"entry function '_ZN3sgs4cuda\d+\w+_kernels\d+([a-z_]+)(?:I([fd])(Lb[01]E)?E)?E\S*'.*?(\d+) bytes stack frame, (\d+) bytes spill stores"
        r".*?Used (\d+) registers([^\n]*)"
    )
    usages = []
    for name, kind, variant, stack, spills, registers, rest in re.findall(pattern, log, re.S):
        static = re.search(r"(\d+) bytes smem", rest)
        shared = int(static[1]) if static else 0
        kernel = next(k for k in LAUNCHES if name.startswith(k)) + (", line" if variant == "Lb1E" else "")
        type_ = {"f": "float", "d": "double"}.get(kind, "")
        usages.append(Usage(kernel, type_, architecture, int(registers), int(spills), int(stack), shared))
    return usages


def table(usages: Sequence[Usage]) -> str:
    lines = [
        "| kernel | type | sm | registers | spilled bytes | shared bytes | occupancy |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for u in sorted(usages, key=lambda u: (list(LAUNCHES).index(u.kernel), u.type, u.architecture)):
        shared = u.dynamic_shared + u.static_shared
        lines.append(
            f"| {u.kernel} | {u.type} | {u.architecture} | {u.registers} | {u.spills} | {shared} | {u.occupancy():.0%} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(measure([int(a) for a in sys.argv[1:]] or ARCHITECTURES)))
