"""Plants faults in the kernels, one at a time, and shows that the tests catch each: `python tests/cuda/faults.py [WORD ...]`.

Every barrier of every kernel is removed once; the others are named below. With words, only faults whose name has one of them.
Exit status 1 if any is not caught. `--threads` builds with a thread for every CUDA thread and asks ThreadSanitizer about the barriers.
"""

import os
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import build

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@dataclass(frozen=True)
class Fault:
    kernel: str
    what: str
    file: str
    old: str
    new: str
    occurrence: int = 0
    kind: str = "fibers"  # of build that shows it

    @property
    def name(self) -> str:
        return f"{self.kernel}: {self.what}"


# fmt: off
PLANTED = [
    Fault("tiles", "an element beyond a lane's steps is loaded", "lines.cuh", "row < span.end) put(", "row <= span.end) put(", kind="address"),
    Fault("tiles", "first edge skipped", "lines.cuh", "begin = edge < 0 ? 1 : 0", "begin = edge < 0 ? 2 : 0"),
    Fault("tiles", "last edge skipped", "lines.cuh", "behind = lanes.n - 1 - edge;", "behind = lanes.n - 2 - edge;"),
    Fault("tiles", "confidence ignored", "lines.cuh", "[](C& to, C c) { to = trusted(c, to); }", "[](C&, C) {}"),
    Fault("tiles", "an edge of the wrong step", "lines.cuh", "load_spans(tile, lanes, w, offsets, 1,", "load_spans(tile, lanes, w, offsets, 0,"),
    Fault("tiles", "what is before the first node not set", "lines.cuh", "if (span.begin > 0) tile[lane] = C(1);", ""),
    Fault("tiles", "what is behind the last node not set", "lines.cuh", "if (span.end == lanes.steps[lane]) tile", "if (span.end > lanes.steps[lane]) tile"),
    Fault("tiles", "packs along lines one step too far", "lines.cuh", "span.end - span.begin, span.begin", "span.end - span.begin + 1, span.begin"),
    Fault("tiles", "packs along lines from the wrong step", "lines.cuh", "span.end - span.begin, span.begin * kPitch", "span.end - span.begin, 0 * kPitch"),
    Fault("tiles", "packs across lines one step too far", "lines.cuh", "row >= span.begin && row < span.end; return", "row >= span.begin && row <= span.end; return", kind="address"),
    Fault("tiles", "packs across lines one lane short", "lines.cuh", "there ? beside.lanes : 0", "there ? beside.lanes - 1 : 0"),
    Fault("tiles", "lanes beyond a dimension's end taken for neighbours", "lines.cuh", "if (split(first, size) + count <= size) beside", "beside"),
    Fault("reach", "a cut forgotten", "device.cuh", "if (r.fraction == C(0)) return C(0);", ""),
    Fault("reach", "an exponent lost", "device.cuh", "r.exponent = a.exponent + b.exponent;", "r.exponent = a.exponent;"),
    Fault("line_carries", "index one too far", "lines.cu", "(forward ? row : row + 1) * kPitch + l", "(row + 1) * kPitch + l"),
    Fault("line_carries", "an edge skipped", "lines.cu", "extend(reach, edge);", "if (k > 0) extend(reach, edge);"),
    Fault("combine_carries", "a carry lost", "lines.cu", "values[t] = in;", "values[t] = t == thread ? in : C(0);"),
    Fault("combine_carries", "the last chunk left out", "lines.cu", "begin + run < lines.chunks ? begin + run : lines.chunks", "begin + run < lines.chunks - 1 ? begin + run : lines.chunks - 1"),
    Fault("line_support", "what flows in from before lost", "lines.cu", "C f = inflow(kBefore);", "C f = C(0);"),
    Fault("line_support", "what flows in from behind lost", "lines.cu", "C b = inflow(kBehind);", "C b = C(0);"),
    Fault("line_support", "index one too far", "lines.cu", "for (int row = lane.steps - 1; row >= 0; --row) {", "for (int row = lane.steps; row >= 0; --row) {"),
    Fault("line_support", "a cut edge lets NaN through", "lines.cu", "const C from_behind = carried(edge, b);", "const C from_behind = edge * b;"),
    Fault("line_support", "the source left out", "lines.cu", "args.with_source ? v + sum : sum", "sum"),
    Fault("line_support", "the scale lost", "lines.cu", "support[at] *= get(kDivisor);", "support[at] *= C(1) + C(0) * get(kDivisor);"),
    Fault("line_support", "the sum of other axes lost", "lines.cu", "[](C& to, C v) { to = v + to; }", "[](C& to, C v) { to = to + C(0) * v; }"),
    Fault("line_support", "least support ignored", "lines.cu", "args.only_supported && !(v >= least_support<C>())", "args.only_supported && !(v >= C(-1))"),
    Fault("line_backward", "F(y_bar) before the chunk lost", "lines_backward.cu", ": into_y);", ": C(0));"),
    Fault("line_backward", "index one too far", "lines_backward.cu", "const C edge = w[(row + 1) * kPitch + l];", "const C edge = w[row * kPitch + l];"),
    Fault("line_backward", "the last edge skipped", "lines_backward.cu", "if (first[l] + row < lines.n - 1) w_bar", "if (first[l] + row < lines.n - 2) w_bar"),
    Fault("line_backward", "a lane left out of a sum", "lines_backward.cu", "column < kLanes; ++column) sum +=", "column < kLanes - 1; ++column) sum +="),
    Fault("line_backward", "a line left out of a sum", "lines_backward.cu", "s < end; s += width", "s < end - 1; s += width"),
    Fault("line_backward", "confidence ignored", "lines_backward.cu", "if (exists(kXFactor)) load_factor(", "if (false) load_factor("),
    Fault("line_backward", "the divisor ignored", "lines_backward.cu", "if (exists(kYFactor)) load_factor(", "if (false) load_factor("),
    Fault("line_backward", "the sum of other axes lost", "lines_backward.cu", "if (exists(kSum)) { add(kSum);", "if (exists(kSum)) {"),
    Fault("line_backward", "the residual lost", "lines_backward.cu", "if (args.residual) { add(kY);", "if (args.residual) {"),
    Fault("line_backward", "an edge behind the last node", "lines_backward.cu", "const std::int64_t behind = lines.n - 1 - first[column];", "const std::int64_t behind = lines.n - first[column];", kind="address"),
    Fault("sum_elements", "the first term skipped", "sum.cu", "for (std::int64_t s = member;", "for (std::int64_t s = member + 1;"),
    Fault("sum_elements", "support's derivative ignored", "sum.cu", "(present(kExtra) ? get(kExtra, 0) : C(0)) - ", "C(0) - "),
    Fault("weigh_edges", "the last channel skipped", "weights.cu", "for (std::int64_t c = 0; c < args.channels; ++c) {", "for (std::int64_t c = 0; c < args.channels - 1; ++c) {"),
    Fault("weigh_edges", "an edge skipped", "weights.cu", "if (lane.line >= args.lines.count) return;", "if (lane.line >= args.lines.count - 1) return;"),
    Fault("pull_edges", "equal neighbours divided by 0", "weights.cu", "d == C(0) ? C(0) : d_bar / d", "d_bar / d"),
    Fault("pull_edges", "cut edges not left out", "weights.cu", "if (w != C(0)) {", "{"),
    Fault("sum_parts", "the last part skipped", "weights.cu", "k < args.count; k += kThreads", "k < args.count - 1; k += kThreads"),
    Fault("pull_nodes", "the first edge skipped", "weights.cu", "has_before = i > 0", "has_before = i > 1"),
    Fault("pull_nodes", "index one too far", "weights.cu", "has_after = i < args.nodes - 1", "has_after = i < args.nodes"),
    Fault("packs", "a pack one too far", "packs.cuh", "packs = (row.columns - head) / count;", "packs = (row.columns - head) / count + 1;"),
    Fault("packs", "packs not at a 16-byte border", "packs.cuh", "head = beyond == 0 ? 0 : count - beyond", "head = beyond == 0 ? 0 : 0"),
    Fault("packs", "the element behind the last pack skipped", "packs.cuh", "unit < units; unit += team", "unit < units - 1; unit += team"),
    Fault("packs", "elements of a loaded pack in the wrong order", "packs.cuh", "rotate(v, turn);", ""),
    Fault("packs", "elements of a stored pack in the wrong order", "packs.cuh", "rotate(v, (count - turn) % count);", ""),
    Fault("packs", "an element before the first pack skipped", "packs.cuh", "unit - packs < head ?", "unit - packs + 1 < head ?"),
    Fault("packs", "a row skipped", "packs.cuh", "r < rows; r += threads / team", "r < rows - 1; r += threads / team"),
    Fault("plane_backward", "what flows in of x from before lost", "plane_backward.cu", "flow.forward_x = from.x_before[at];", "flow.forward_x = C(0);"),
    Fault("plane_backward", "what flows in of z from before lost", "plane_backward.cu", "flow.forward_z = from.z_before[at];", "flow.forward_z = C(0);"),
    Fault("plane_backward", "what flows in of x from behind lost", "plane_backward.cu", "flow.back_x = carried(edge, from.x_behind[at]);", "flow.back_x = C(0);"),
    Fault("plane_backward", "what flows in of z from behind lost", "plane_backward.cu", "flow.back_z = carried(edge, from.z_behind[at]);", "flow.back_z = C(0);"),
    Fault("plane_backward", "the edge below a tile skipped", "plane_backward.cu", "here.more_down ? edge_behind(", "false ? edge_behind("),
    Fault("plane_backward", "the edge right of a tile skipped", "plane_backward.cu", "here.more_across ? edge_behind(", "false ? edge_behind("),
    Fault("plane_backward", "the first edge down skipped", "plane_backward.cu", "here.first_down = place.row > 0 ? 0 : 1;", "here.first_down = 1;"),
    Fault("plane_backward", "the first edge across skipped", "plane_backward.cu", "here.first_across = place.column > 0 ? 0 : 1;", "here.first_across = 1;"),
    Fault("plane_backward", "what x sends forward lost", "plane_backward.cu", "flow.forward_x = array(0)[at] + passed(", "flow.forward_x = passed("),
    Fault("plane_backward", "what z sends back lost", "plane_backward.cu", "flow.back_z = array(3)[at] + passed(", "flow.back_z = passed("),
    Fault("plane_backward", "the last part joined by none", "plane_backward.cu", "int part = count - 1; part > own.part", "int part = count - 2; part > own.part"),
    Fault("plane_backward", "what flows into a part reaches all segments alike", "plane_backward.cu", "starts.x[s] += starts.product[s] * in.forward_x;", "starts.x[s] += in.forward_x;"),
    Fault("plane_backward", "a part of tiny weights cut", "plane_backward.cu", "if (plain) return reach;", "return reach;"),
    Fault("plane_backward", "a plane left out of a sum", "plane_backward.cu", "turn < here.planes; ++turn", "turn < here.planes - 1; ++turn"),
    Fault("plane_backward", "a cut edge lets NaN through", "plane_backward.cu", "if constexpr (plain) return w * f;", "return w * f;"),
    Fault("plane_backward", "half of a product lost", "plane_backward.cu", "sum += forward_z[k] * b;", ""),
    Fault("plane_backward", "the residual where there is no confidence", "plane_backward.cu", "if (args.residual && c[k] != C(0)) sum[k] += v[k];", "if (args.residual) sum[k] += v[k];"),
    Fault("plane_backward", "confidence's sum of the last plane alone", "plane_backward.cu", "const C old = turn > 0 ? e : C(0);", "const C old = C(0);"),
    Fault("plane_backward", "the last row skipped", "plane_backward.cu", "- first < end - first;", "- first < end - first - 1;"),
    Fault("plane_backward", "index one too far", "plane_backward.cu", "own.exists = own.part < count;", "own.exists = own.part <= count;"),
    Fault("plane_backward, line", "the scale of columns lost", "plane_backward.cu", " scale(kZFactor, at, z);", ""),
    Fault("plane_backward, line", "the scale of rows lost", "plane_backward.cu", "scale(scales ? kAcrossZFactor : kZFactor, at, z);", "if (!scales) scale(kZFactor, at, z);"),
    Fault("plane_backward, line", "scales of rows and columns swapped", "plane_backward.cu", "&scales[a_down ? 0 : 1]", "&scales[a_down ? 1 : 0]"),
    Fault("plane_backward, line", "what flows in across scaled as columns", "plane_backward.cu", "args.tile_columns, z_across,", "args.tile_columns, z_down,"),
    Fault("plane_backward, line", "what flows in down scaled as rows", "plane_backward.cu", "args.tile_rows, z_down,", "args.tile_rows, z_across,"),
    Fault("plane_backward, line", "the value itself left out along columns", "plane_backward.cu", "(scales ? found.z[k] + found.support_z[k] : found.support_z[k])", "found.support_z[k]"),
    Fault("plane_backward, line", "the residual lost", "plane_backward.cu", "if (args.residual && c[k] != C(0)) sum[k] += v[k];", ""),
    Fault("plane_backward, line", "x itself left out of the support of rows", "plane_backward.cu", "scales ? found.x[k] + found.support_x[k] : found.support_x[k]", "found.support_x[k]"),
    Fault("plane_backward, line", "sums for the supports swapped", "plane_backward.cu", "outputs.supports[scales.empty() || a_down ? k : 1 - k]", "outputs.supports[scales.empty() ? k : a_down ? 1 - k : k]"),
    Fault("plane_backward, line", "sums of rows not begun at 0", "plane_backward.cu", "if (scales && args.support_sums[1] != nullptr) array(args.row_support_sums_at)[at] = C(0);", ""),
    Fault("plane_backward, line", "the derivative by the support left out", "filter_backward.cu", "plan.groups + 1, weights_bar[k]", "plan.groups, weights_bar[k]"),
    Fault("plane_backward, line", "the support of another axis divided", "filter_backward.cu", "plan.groups, reciprocals_[k], nullptr", "plan.groups, reciprocals_[1 - k], nullptr"),
    Fault("plane_backward, line", "axis by axis", "filter_backward.cu", "if (line && takes_planes_backward", "if (false && takes_planes_backward"),
    Fault("plane_support", "the carry down lost", "plane.cu", "args.down_before != nullptr ? args.down_before[carry] : C(0)", "C(0)"),
    Fault("plane_support", "the carry up lost", "plane.cu", "args.down_behind != nullptr ? args.down_behind[carry] : C(0)", "C(0)"),
    Fault("plane_support", "the carry across lost", "plane.cu", "args.across_before != nullptr ? args.across_before[carry] : C(0)", "C(0)"),
    Fault("plane_support", "the carry back lost", "plane.cu", "args.across_behind != nullptr ? args.across_behind[carry] : C(0)", "C(0)"),
    Fault("plane_support", "an edge at a strip's border skipped", "plane.cu", "edge >= 0 && edge < args.columns - 1", "edge >= 0 && edge < args.columns - 1 && edge % kStrip != kStrip - 1"),
    Fault("plane_support", "the last row left out", "plane.cu", "row + k < rows && row0", "row + k < rows - 1 && row0"),
    Fault("plane_support", "index one too far", "plane.cu", "const bool walks = thread < rows;", "const bool walks = thread <= rows;"),
    Fault("plane_support, line", "reciprocals of rows and columns swapped", "plane.cu", "scales[a_down ? 0 : 1]", "scales[a_down ? 1 : 0]"),
    Fault("plane_support, line", "columns scaled as rows", "plane.cu", "(own + sum) * reciprocal(kDownReciprocal, row, column)", "(own + sum) * of_row"),
    Fault("plane_support, line", "what came from before lost", "plane.cu", "reciprocal(kDownReciprocal, row, column) + term * of_row;", "reciprocal(kDownReciprocal, row, column);"),
    Fault("plane_support, line", "what came from before unscaled", "plane.cu", "reciprocal(kDownReciprocal, row, column) + term * of_row;", "reciprocal(kDownReciprocal, row, column) + term;"),
    Fault("plane_support, line", "what came from behind unscaled", "plane.cu", "sum += (own + term) * of_row;", "sum += own * of_row + term;"),
    Fault("plane_support, line", "the value itself left out along rows", "plane.cu", "sum += (own + term) * of_row;", "sum += term * of_row;"),
    Fault("plane_support, line", "columns scaled again on the way back", "plane.cu", "scale_strip(begin, false);", "scale_strip(begin, true);"),
    Fault("plane_support, line", "the first strip scaled again", "plane.cu", "scale_strip(begin, true);", "scale_strip(0, true);"),
    Fault("plane_support, line", "index one too far", "plane.cu", "if (column >= columns) return;", "if (column > columns) return;"),
    Fault("plane_support, line", "reciprocals of other axes taken", "filter.cu", "scales.subspan(lines), last", "scales, last"),
    Fault("plane_support, line", "axis by axis", "filter.cu", "count >= 2 && takes_planes", "count >= 2 && scales.empty() && takes_planes"),
    Fault("plane_support, line", "sums kept in memory", "filter.cu", "axes.size() == 2 && !takes_planes", "axes.size() == 2 && takes_planes"),
]
# fmt: on

# Which tests a fault in a file can show in: few enough for a short run.
SUBSETS = {
    "lines.cu": "test_lines or cut_edges or growing or along_one_axis or test_axes or (test_semi_global_filter and shape8)",
    "lines.cuh": "test_lines or cut_edges or along_one_axis",
    "device.cuh": "cut_edges or growing",
    "lines_backward.cu": "test_backward and (test_lines or cut_edges or test_axes)",
    "sum.cu": "test_backward and (test_lines or (semi and (cross or confidence)))",
    "weights.cu": "edge_weights or equal_neighbours or many_edges",
    "plane.cu": "(test_semi_global_filter or line_in_planes) and (float32 or float64)",
    "filter.cu": "test_axes or line_in_planes or line_keeps_no_sums",
    "packs.cuh": "(test_semi_global_filter or test_lines) and float16",
    "filter_backward.cu": "test_backward and (line_keeps_no_sums or (test_planes and line and float32))",
    "plane_backward.cu": "(test_planes and float32 and not none) or cut_planes or tiny",
}


# Between two sums into the same places, which fibers make one after the other in any case: only threads can lose one, in tests
# where other threads make the second sum.
THREADS_ALONE = {"line_backward: barrier 5 removed": "test_backward and test_axes and shape3 and float32"}


def barriers() -> list[Fault]:
    faults = []
    for source in sorted((ROOT / "cuda").glob("*.cu")):
        text = source.read_text()
        seen: dict[str, int] = {}
        for number, match in enumerate(re.finditer(r"__syncthreads\(\);", text)):
            kernel = re.findall(r"__global__[^{;]*?(\w+)\(const __grid_constant__", text[: match.start()])[-1]
            seen[kernel] = seen.get(kernel, 0) + 1
            what = f"barrier {seen[kernel]} removed"
            kind = "threads" if f"{kernel}: {what}" in THREADS_ALONE else "fibers"
            faults.append(Fault(kernel, what, source.name, match[0], ";", number, kind))
    return faults


def places(fault: Fault, text: str) -> list[re.Match[str]]:
    """Where the fault's text is, however the lines are broken."""
    return list(re.finditer(r"\s+".join(re.escape(word) for word in fault.old.split()), text))


def plant(fault: Fault, folder: Path) -> None:
    path = folder / fault.file
    text = path.read_text()
    found = places(fault, text)
    if len(found) <= fault.occurrence:
        raise SystemExit(f"{fault.name}: not found in {fault.file}: {fault.old}")
    place = found[fault.occurrence]
    path.write_text(text[: place.start()] + fault.new + text[place.end() :])


def caught(fault: Fault, kind: str, sound: Path) -> bool:
    build.build(sound, kind)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "cuda"
        shutil.copytree(ROOT / "cuda", folder)
        plant(fault, folder)
        module = build.build(Path(temporary) / "built", kind, folder, reuse=sound)
        result = build.run_tests(module, kind, THREADS_ALONE.get(fault.name, SUBSETS[fault.file]))
        if result.returncode in (2, 3, 4, 5):  # pytest's own trouble, or no tests
            raise SystemExit(f"{fault.name}: the tests did not run\n{result.stdout}")
        return result.returncode != 0


def main(words: list[str]) -> int:
    threads = "--threads" in words
    words = [w for w in words if not w.startswith("--")]
    faults = barriers() if threads else barriers() + PLANTED
    faults = [f for f in faults if not words or any(w in f.name for w in words)]
    missed = 0
    for fault in faults:
        kind = "threads" if threads else fault.kind
        found = caught(fault, kind, build.folder(kind))
        missed += not found
        print("caught" if found else "MISSED", fault.name, flush=True)
    print(f"{len(faults) - missed} of {len(faults)} caught")
    return int(missed > 0)


if __name__ == "__main__":
    os.chdir(HERE)
    sys.exit(main(sys.argv[1:]))
