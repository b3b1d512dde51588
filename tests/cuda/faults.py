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
    Fault("reach", "NaN let through a cut where the exponent is 0", "device.cuh", "return carried(r.fraction, f);", "return r.fraction * f;"),
    Fault("reach", "an exponent below 0 taken for 0", "device.cuh", "if (r.exponent == 0) return", "if (r.exponent <= 0) return"),
    Fault("line_carries", "index one too far", "lines.cu", "w[(forward ? k : count - k) * kPitch + l]", "w[(forward ? k + 1 : count - k) * kPitch + l]"),
    Fault("line_carries", "an edge skipped", "lines.cu", "product *= edge;", "if (k > 0) product *= edge;"),
    Fault("line_carries", "an edge skipped where one is cut", "lines.cu", "extend(reach, update &&", "if (k > 0) extend(reach, update &&"),
    Fault("line_carries", "the root let through", "lines.cu", "if (position(k) == args.root) edge = C(0);", ""),
    Fault("line_carries", "the root let through where an edge is cut", "lines.cu", "update && position(k) == args.root ? C(0) :", ""),
    Fault("line_carries", "the last product for the smallest", "lines.cu", "fmin(least, fabs(product))", "fabs(product)"),
    Fault("line_carries", "a product that overflowed taken", "lines.cu", "least_support<C>() && isfinite(product)", "least_support<C>()"),
    Fault("line_carries", "a product that vanished taken", "lines.cu", "!(least >= least_support<C>() && isfinite(product))", "!isfinite(product)"),
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
    Fault("plane_backward", "what x sends forward lost", "plane_backward.cu", "flow.forward_x = array(0)[at] + through(", "flow.forward_x = through("),
    Fault("plane_backward", "what z sends back lost", "plane_backward.cu", "flow.back_z = array(3)[at] + through(", "flow.back_z = through("),
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
    Fault("plane_backward, line", "what flows in across scaled as columns", "plane_backward.cu", "of_x.across, of_z_across.across", "of_x.across, of_z.across"),
    Fault("plane_backward, line", "what flows in down scaled as rows", "plane_backward.cu", "of_x.down, of_z.down", "of_x.down, of_z_across.down"),
    Fault("plane_backward, line", "the value itself left out along columns", "plane_backward.cu", "(scales ? found.z[k] + found.support_z[k] : found.support_z[k])", "found.support_z[k]"),
    Fault("plane_backward, line", "the residual lost", "plane_backward.cu", "if (args.residual && c[k] != C(0)) sum[k] += v[k];", ""),
    Fault("plane_backward, line", "x itself left out of the support of rows", "plane_backward.cu", "scales ? found.x[k] + found.support_x[k] : found.support_x[k]", "found.support_x[k]"),
    Fault("plane_backward, line", "sums for the supports swapped", "plane_backward.cu", "outputs.supports[scales.empty() || a_down ? k : 1 - k]", "outputs.supports[scales.empty() ? k : a_down ? 1 - k : k]"),
    Fault("plane_backward, line", "sums of rows not begun at 0", "plane_backward.cu", "if (scales && args.support_sums[1] != nullptr) array(args.row_support_sums_at)[at] = C(0);", ""),
    Fault("plane_backward, line", "the derivative by the support left out", "filter_backward.cu", "plan.groups + 1, weights_bar[k]", "plan.groups, weights_bar[k]"),
    Fault("plane_backward, line", "the support of another axis divided", "filter_backward.cu", "plan.groups, reciprocals_[k], nullptr", "plan.groups, reciprocals_[1 - k], nullptr"),
    Fault("plane_backward, line", "axis by axis", "filter_backward.cu", "if (line && takes_planes_backward", "if (false && takes_planes_backward"),
    Fault("plane_support", "what flows into a tile from before lost", "plane.cu", "f = chunks.forward[offset];", ""),
    Fault("plane_support", "what flows into a tile from behind lost", "plane.cu", "b = carried(border_edge(block, weights, place.line, true), chunks.backward[offset]);", ""),
    Fault("plane_support", "what flows into a tile along rows lost", "plane.cu", "args.across, kAcrossCarry, kAcrossWeights, [to]", "Chunks<C>{}, kAcrossCarry, kAcrossWeights, [to]"),
    Fault("plane_support", "what flows into a tile along columns lost", "plane.cu", "args.down, kDownCarry, kDownWeights, add, add", "Chunks<C>{}, kDownCarry, kDownWeights, add, add"),
    Fault("plane_support", "what flows into another line", "plane.cu", "+ place.line * block.args.operands[carry].step", ""),
    Fault("plane_support", "the edge left of a tile skipped", "plane.cu", "at_left && column == 0", "column == 0"),
    Fault("plane_support", "the edge above a tile skipped", "plane.cu", "first = (alone || block.header().at_top) && place.begin == 0", "first = place.begin == 0"),
    Fault("plane_support", "an edge left of the plane", "plane.cu", "at_left && column == 0 ?", "false ?", kind="address"),
    Fault("plane_support", "an edge above the plane", "plane.cu", "first = (alone || block.header().at_top) && place.begin == 0", "first = false", kind="address"),
    Fault("plane_support", "the edge between parts of a row skipped", "plane.cu", "first && k == 0 ? C(1) : weights[k]", "k == 0 ? C(1) : weights[k]"),
    Fault("plane_support", "the edge between parts of a column skipped", "plane.cu", "first && k == 0 ?", "k == 0 ?"),
    Fault("plane_support", "the last element left out", "plane.cu", "const int rest = n - place.begin;", "const int rest = n - 1 - place.begin;"),
    Fault("plane_support", "index one too far", "plane.cu", "const int rest = n - place.begin;", "const int rest = n + 1 - place.begin;"),
    Fault("plane_support", "a part behind the last one", "plane.cu", "place.part < passages.count", "place.part <= passages.count", kind="address"),
    Fault("plane_support", "confidence ignored", "plane.cu", "[](C& to, C c) { to = trusted(c, to); }", "[](C&, C) {}"),
    Fault("plane_support", "values beside the tile lost", "plane.cu", "values[&to - x] = v;", "values[&to - x] = C(0);"),
    Fault("plane_support", "passages over the values beside the tile", "plane.cu", "(args.keeps_values ? 2 : 1)", "1"),
    Fault("plane_support", "the residual of values times confidence", "plane.cu", "? values[row * tile.pitch + column]", "? x[row * tile.pitch + column]"),
    Fault("plane_support", "the residual lost where no room is for values", "plane.cu", ": get(kX);", ": C(0);"),
    Fault("plane_support", "the residual lost", "plane.cu", "residual ? v + value : v;", "v;"),
    Fault("plane_support", "what comes from behind alone", "plane.cu", "to[k] += term; });", "to[k] = term; });"),
    Fault("plane_support", "what comes along columns alone", "plane.cu", "to[k * pitch] += term;", "to[k * pitch] = term;"),
    Fault("plane_support", "the value itself once", "plane.cu", "v = args.times * x[", "v = x["),
    Fault("plane_support", "the sum of other axes lost", "plane.cu", "v = get(kSum) + v;", "v += C(0) * get(kSum);"),
    Fault("plane_support", "the sum of other axes divided alone", "plane.cu", "times != 0 && epilogue.sum == nullptr &&", ""),
    Fault("plane_support", "least support ignored", "plane.cu", "args.only_supported && !(v >= least_support<C>())", "args.only_supported && !(v >= C(-1))"),
    Fault("plane_support", "no support divided", "plane.cu", "args.only_supported && divisor < C(0) ?", "false ?"),
    Fault("plane_support", "divided alone where there is confidence", "plane.cu", "!epilogue.only_supported && source.factor == nullptr;", "true;"),
    Fault("plane_support", "divisors with a gap taken for one row", "plane.cu", "merges = divisor.chunk == 1 && divisor.step == tile.columns &&", "merges = divisor.chunk == 1 &&"),
    Fault("plane_support", "rows with a gap taken for one", "plane.cu", "divisor.step == tile.columns && tile.pitch == tile.columns", "divisor.step == tile.columns"),
    Fault("plane_tile", "an operand's rows with a gap taken for one", "plane_tile.cuh", "merged = o.step == tile.columns && tile.pitch", "merged = tile.pitch"),
    Fault("plane_tile", "rows with a gap taken for one", "plane_tile.cuh", "o.step == tile.columns && tile.pitch == tile.columns", "o.step == tile.columns"),
    Fault("plane_tile", "the last element of merged rows skipped", "plane_tile.cuh", "merged ? tile.rows * tile.columns :", "merged ? tile.rows * tile.columns - 1 :"),
    Fault("plane_tile", "the last row skipped", "plane_tile.cuh", "row < tile.rows; row += warps", "row < tile.rows - 1; row += warps"),
    Fault("plane_tile", "neighbours taken where there are none", "plane_tile.cuh", "if (stride == 1) f(One{}); else f(stride);", "f(One{});"),
    Fault("parts", "cut edges taken for plain ones", "parts.cuh", "return product >= least_support<C>() && isfinite(product);", "return isfinite(product);"),
    Fault("parts", "the quick way lets NaN through cut edges", "parts.cuh", "uncut ? w * f : carried(w, f)", "w * f"),
    Fault("parts", "the reach of cut edges lost", "parts.cuh", "extend(passage.reach, part.edges[k]);", ""),
    Fault("parts", "tiny weights taken for cut edges", "parts.cuh", "ascending(part.length, [&](int k) { extend(passage.reach, part.edges[k]); });", "passage.reach.fraction = product;"),
    Fault("parts", "the reach of the quick way lost", "parts.cuh", "passage.reach.fraction = product;", ""),
    Fault("parts", "exponents lost", "parts.cuh", "exponents[at] = passage.reach.exponent;", "exponents[at] = 0;"),
    Fault("parts", "what comes from before one part short", "parts.cuh", "at < part * lines + line;", "at < (part - 1) * lines + line;"),
    Fault("parts", "what comes from behind one part short", "parts.cuh", "at > part * lines + line;", "at > (part + 1) * lines + line;"),
    Fault("parts", "the last part joined by none", "parts.cuh", "int at = (count - 1) * lines + line;", "int at = (count - 2) * lines + line;"),
    Fault("parts", "what flows into a line lost", "parts.cuh", "Passage<C> whole;", "return Passage<C>{before(count, line, C(0)), behind(-1, line, C(0)), Reach<C>{}}; Passage<C> whole;"),
    Fault("parts", "the reach of the last part alone", "parts.cuh", "whole.reach = joined(whole.reach, reach(at));", "whole.reach = reach(at);"),
    Fault("parts", "a part that is not whole taken for one, in order", "parts.cuh", "group + kGroup <= length;", "group + kGroup <= length + 1;", 0),
    Fault("parts", "a part that is not whole taken for one, back", "parts.cuh", "group + kGroup <= length;", "group + kGroup <= length + 1;", 1),
    Fault("parts", "a group of one skipped, in order", "parts.cuh", "if (group >= length) break;", "if (group + 1 >= length) break;"),
    Fault("parts", "a group of one skipped, back", "parts.cuh", "if (group >= length) continue;", "if (group + 1 >= length) continue;"),
    Fault("parts", "the last element of a group skipped, in order", "parts.cuh", "k < group + kGroup; ++k", "k < group + kGroup - 1; ++k"),
    Fault("parts", "the first element of a group skipped, back", "parts.cuh", "k >= group; --k", "k > group; --k"),
    Fault("plane_carries", "a line's passage not written", "plane.cu", "if (line >= passages.lines) return;", "if (line >= passages.lines - 1) return;"),
    Fault("plane_carries", "the passage of another part", "plane.cu", "passages.joined_line(line)", "passages.joined_line(0)"),
    Fault("plane_carries", "what a tile sends forward lost", "plane.cu", "chunks.forward[at] = passage.forward;", "chunks.forward[at] = C(0);"),
    Fault("plane_carries", "what a tile sends back lost", "plane.cu", "chunks.backward[at] = passage.backward;", "chunks.backward[at] = C(0);"),
    Fault("plane_carries", "a cut forgotten", "plane.cu", "chunks.fractions[k][at] = reach.fraction;", "chunks.fractions[k][at] = C(1);"),
    Fault("plane_carries", "an exponent lost", "plane.cu", "chunks.exponents[k][at] = reach.exponent;", "chunks.exponents[k][at] = 0;"),
    Fault("plane_carries", "the wrong operand", "plane.cu", "put_chunks(block, passages, args.down, kDownCarry, kDownWeights)", "put_chunks(block, passages, args.down, kAcrossCarry, kDownWeights)"),
    Fault("plane_carries", "the same lines for all tiles", "plane.cu", "base + column * o.step + tile_down * o.chunk", "base + tile_down * o.chunk"),
    Fault("plane_carries", "the edge that enters a tile counted for rows alone", "plane.cu", "own_of_column(block, passages, true);", "own_of_column(block, passages, false);"),
    Fault("plane_carries", "the edge that leaves a tile taken for the one that enters", "plane.cu", "line, k == 1)", "line, false)"),
    Fault("plane_carries", "border edges left out", "plane.cu", "extend(reach, border_edge(block, weights, line, k == 1));", ""),
    Fault("plane_support", "the edge behind a tile passed in full", "plane.cu", "b = carried(border_edge(block, weights, place.line, true), chunks.backward[offset]);", "b = chunks.backward[offset];"),
    Fault("plane_backward", "tiles of z take what flows into x", "plane_backward.cu", "{from_x.forward, from_x.backward, from_z.forward, from_z.backward}", "{from_x.forward, from_x.backward, from_x.forward, from_z.backward}"),
    Fault("plane_carries", "tiles along rows joined by none", "plane.cu", "if (several_across) join_chunks", "if (false) join_chunks"),
    Fault("plane_support, line", "columns scaled as rows", "plane.cu", "own * element(block, kDownReciprocal, row, column)", "own * element(block, kAcrossReciprocal, row, column)"),
    Fault("plane_support, line", "the sum along rows lost", "plane.cu", "(own + sum) * element(", "own * element("),
    Fault("plane_support, line", "the sum along rows unscaled", "plane.cu", "sum = (own + sum) * element(block, kAcrossReciprocal, row, column)", "sum = sum + own * element(block, kAcrossReciprocal, row, column)"),
    Fault("plane_support, line", "the value itself left out along rows", "plane.cu", "(own + sum) * element(", "sum * element("),
    Fault("plane_support, line", "the value itself left out along columns", "plane.cu", "+ own * element(block, kDownReciprocal, row, column);", ";"),
    Fault("plane_support, line", "what comes along columns unscaled", "plane.cu", "term *= element(block, kDownReciprocal, place.begin + k, place.line);", ""),
    Fault("plane_support, line", "what comes along columns scaled as another part", "plane.cu", "kDownReciprocal, place.begin + k, place.line", "kDownReciprocal, k, place.line"),
    Fault("plane_support, line", "reciprocals of rows and columns swapped", "plane.cu", "scales[a_down ? 0 : 1]", "scales[a_down ? 1 : 0]"),
    Fault("plane_support, line", "reciprocals of other axes taken", "filter.cu", "scales.subspan(lines), last", "scales, last"),
    Fault("plane_support, line", "axis by axis", "filter.cu", "count >= 2 && takes_planes", "count >= 2 && scales.empty() && takes_planes"),
    Fault("plane_support, line", "sums kept in memory", "filter.cu", "axes.size() == 2 && !takes_planes", "axes.size() == 2 && takes_planes"),
]
# fmt: on

# Which tests a fault in a file can show in: few enough for a short run.
PLANES = "(test_semi_global_filter or line_in_planes) and (float32 or float64)"
PLANES = f"test_forward and (nan_in_planes or across_tiles or test_axes or {PLANES})"
SUBSETS = {
    "lines.cu": "test_lines or cut_edges or growing or on_the_way or along_one_axis or test_axes or (test_semi_global_filter and shape8)",
    "lines.cuh": "test_lines or cut_edges or along_one_axis",
    "device.cuh": "cut_edges or growing or (line_in_planes and float32)",
    "lines_backward.cu": "test_backward and (test_lines or cut_edges or test_axes)",
    "sum.cu": "test_backward and (test_lines or (semi and (cross or confidence)))",
    "weights.cu": "edge_weights or equal_neighbours or many_edges",
    "plane.cu": PLANES,
    "plane_tile.cuh": PLANES,
    "parts.cuh": PLANES,
    "filter.cu": "test_axes or line_in_planes or line_keeps_no_sums",
    "packs.cuh": "(test_semi_global_filter or test_lines) and float16",
    "filter_backward.cu": "test_backward and (line_keeps_no_sums or (test_planes and line and float32))",
    "plane_backward.cu": "(test_planes and float32 and not none) or cut_planes or tiny",
}


# Between two sums into the same places, which fibers make one after the other in any case: only threads can lose one, in tests
# where other threads make the second sum.
THREADS_ALONE = {"line_backward: barrier 5 removed": "test_backward and test_axes and shape3 and float32"}

# Keeps the compiler from holding too much in registers; nothing that threads do depends on it.
FOR_REGISTERS = {"plane_support: barrier 3 removed"}


def barriers() -> list[Fault]:
    faults = []
    for source in sorted((ROOT / "cuda").glob("*.cu")):
        text = source.read_text()
        seen: dict[str, int] = {}
        for number, match in enumerate(re.finditer(r"__syncthreads\(\);", text)):
            # A kernel, or a function that several kernels call.
            kernel = re.findall(r"__(?:global|device)__[^{;]*?\b(?!__)(\w+)\(", text[: match.start()])[-1]
            seen[kernel] = seen.get(kernel, 0) + 1
            what = f"barrier {seen[kernel]} removed"
            kind = "threads" if f"{kernel}: {what}" in THREADS_ALONE else "fibers"
            if f"{kernel}: {what}" not in FOR_REGISTERS:
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
