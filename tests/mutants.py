"""Mutants: small, plausible mistakes put into a copy of the library, each of which must make a test fail.

    python tests/mutants.py [NAME ...]

Builds a copy of the source tree in a temporary folder, then for each mutant replaces one text, rebuilds what depends on it and
runs the tests that should notice. Exit status 1 if one survives, or if its text is no longer found exactly once: whoever
rewrites that line says here what the same mistake looks like now.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TREE = ("CMakeLists.txt", "LICENSE", "README.md", "pyproject.toml", "src", "cpp", "cuda", "python", "tests")


class Mutant(NamedTuple):
    """One mistake, and the pytest arguments of the tests that are to find it."""

    name: str
    file: str
    text: str
    replacement: str
    tests: str


FILTER = "tests/test_semi_global_filter.py"
LINE = "tests/test_line_filter.py"
SCAN = "tests/test_scan.py"
TREE_FORM = "tests/test_tree.py"
WEIGHTS = "tests/test_edge_weights.py"
RULES = "tests/test_rules.py"
ATTENTION = "tests/test_attention_map.py"
CONCURRENCY = "tests/test_concurrency.py"
TORCH = "tests/test_torch_ops.py"
BANDS = "tests/test_bands.py"
SHARED = "tests/test_shared_weights_backward.py"
WAYS = "tests/test_line_ways.py"
IMAGES = "tests/test_images.py"
BATCH = "tests/test_batch_innermost.py"
VOLUMES = "tests/test_volumes.py"
BLOCKS = "tests/test_nn.py::test_autocast"

MUTANTS = [
    Mutant(
        "an edge dropped: the first one of each line",
        "cpp/lines.h",
        "    load(tile + begin * kLanes, w, first + begin - 1, end - begin);\n",
        "    load(tile + begin * kLanes, w, first + begin - 1, end - begin);\n"
        "    for (int l = 0; begin == 1 && end > 1 && l < kLanes; ++l) tile[kLanes + l] = C(0);\n",
        LINE,
    ),
    Mutant(
        "an edge dropped: the last one, where a chunk ends before it",
        "cpp/lines.h",
        "steps + (first + steps < total ? 1 : 0); // row after the last",
        "steps + (first + steps < total - 1 ? 1 : 0);",
        LINE,
    ),
    Mutant(
        "an edge dropped: the one between two chunks of a line",
        "cpp/walk.h",
        "std::copy_n(s.forward, kLanes, s.carries.get() + k * kLanes);",
        "std::fill_n(s.carries.get() + k * kLanes, kLanes, C(0));",
        LINE,
    ),
    Mutant(
        "the two scales swapped",
        "src/sgs/filters.py",
        "in zip(self.axes, self.scales, self.steps, strict=True):",
        "in zip(self.axes, self.scales[::-1], self.steps, strict=True):",
        FILTER,
    ),
    Mutant(
        "the two steps swapped",
        "src/sgs/filters.py",
        "in zip(self.axes, self.scales, self.steps, strict=True):",
        "in zip(self.axes, self.scales, self.steps[::-1], strict=True):",
        FILTER,
    ),
    Mutant(
        "a confidence ignored: values are not weighted by it",
        "cpp/kernels/pointwise.cpp",
        "x[k] = trusted(c[k], x[k]);",
        "x[k] = c[k] != C(0) ? x[k] : C(0);",
        FILTER,
    ),
    Mutant(
        "a confidence ignored: the normaliser sums ones",
        "cpp/filter.cpp",
        "const AnyView source = o.confidence ? *o.confidence : field_of_ones<C>(o.x);",
        "const AnyView source = field_of_ones<C>(o.x);",
        FILTER,
    ),
    Mutant(
        "a confidence ignored: the next block trusts as the first did",
        "src/sgs/filters.py",
        "source, c = result, support",
        "source, c = result, c",
        f"{FILTER} {RULES}",
    ),
    Mutant(
        "a confidence ignored: distances to missing values count",
        "cpp/weights.cpp",
        "if (trust_) {",
        "if (false) {",
        f"{RULES} {FILTER}",
    ),
    Mutant(
        "a confidence ignored: the residual adds missing values",
        "cpp/filter_axis.cpp",
        "pointwise.mask(s.x.get(), side, count);",
        "",
        f"{RULES} {FILTER}",
    ),
    Mutant(
        "a centre counted twice: by tiles of a third axis",
        "cpp/filter_axis.cpp",
        "o.each_centre() || !o.sums, load_x",
        "true, load_x",
        VOLUMES,
    ),
    Mutant(
        "a centre counted twice: by columns of a third axis",
        "cpp/kernels/line.cpp",
        "return finish.centre ? sums + value : sums;",
        "return sums + value;",
        VOLUMES,
    ),
    Mutant(
        "sums lost: of an axis between the first two and the last",
        "cpp/filter_volumes.cpp",
        "        line.sums = sums;\n",
        "        if (i + 1 == places.size()) line.sums = sums;\n",
        VOLUMES,
    ),
    Mutant(
        "a confidence ignored: columns add missing values",
        "cpp/kernels/line.cpp",
        "masked_vector<C>(field_at(finish.trust, i, j), value) : value;",
        "value : value;",
        VOLUMES,
    ),
    Mutant(
        "a fill value in sums that are not divided yet",
        "cpp/plane_set.h",
        "return o.confidence && o.filter.normalization == Normalization::cross;",
        "return o.confidence.has_value();",
        VOLUMES,
    ),
    Mutant(
        "a last row skipped",
        "cpp/walk.h",
        "        finish(first, steps);\n",
        "        finish(first, k + 1 == chunks ? steps - 1 : steps);\n",
        LINE,
    ),
    Mutant(
        "a last line skipped in each ragged tile",
        "cpp/lines.cpp",
        "return static_cast<int>(std::min<std::int64_t>(kLanes, lines_ - tile * kLanes));",
        "return static_cast<int>(std::min<std::int64_t>(kLanes, std::max<std::int64_t>(1, lines_ - tile * kLanes - 1)));",
        SCAN,
    ),
    Mutant(
        "a stride forgotten: rows of an operand are taken for contiguous",
        "cpp/lines.cpp",
        "out.strides[d] = own == 1 ? 0 : v.strides[from];",
        "out.strides[d] = own == 1 ? 0 : d + 1 == shape.ndim ? 1 : v.strides[from];",
        SCAN,
    ),
    Mutant(
        "a stride forgotten: a negative one",
        "cpp/lines.cpp",
        "stride[k] = operand.strides[order_.dims[k]];",
        "stride[k] = std::abs(operand.strides[order_.dims[k]]);",
        SCAN,
    ),
    Mutant(
        "the cut rule removed",
        "cpp/step.h",
        "return w != C(0) ? w * f : C(0);",
        "return w * f;",
        RULES,
    ),
    Mutant(
        "the reverse scan runs forward",
        "cpp/line.cpp",
        "if (reverse) {",
        "if (false && reverse) {",
        SCAN,
    ),
    Mutant(
        "what flows in at the ends ignored",
        "cpp/walk.h",
        "if (initial != nullptr) load(carry, Strand(lines, *initial, tile), 0, 1);",
        "(void)lines, (void)initial, (void)tile;",
        SCAN,
    ),
    Mutant(
        "left and right of what flows in exchanged",
        "src/sgs/filters.py",
        "return line.run(_core.line_filter, left, right)",
        "return line.run(_core.line_filter, right, left)",
        LINE,
    ),
    Mutant(
        "fill_value ignored",
        "cpp/kernels/pointwise.cpp",
        "y[k] = r[k] < C(0) ? fill : y[k] * r[k];",
        "y[k] = (void(fill), r[k] < C(0) ? C(0) : y[k] * r[k]);",
        f"{RULES} {FILTER}",
    ),
    Mutant(
        "support below the smallest normal number counts",
        "cpp/kernels/pointwise.cpp",
        "const C least = least_support<C>();",
        "const C least = C(1e-45);",
        RULES,
    ),
    Mutant(
        "all heads weighted as the first",
        "cpp/weights.cpp",
        "first_channel_.strides[channel_axis] *= channels_;",
        "first_channel_.strides[channel_axis] = 0;",
        f"{WEIGHTS} {FILTER}",
    ),
    Mutant(
        "a channel of the guide skipped",
        "cpp/segments.h",
        "values.read(far, offset, count), count, channels, stride);",
        "values.read(far, offset, count), count, channels - (channels > 2), stride);",
        WEIGHTS,
    ),
    Mutant(
        "the terms of a vector that overlaps another added twice",
        "cpp/kernels/weights.cpp",
        "left < 2 * kTogether ? left / 2 : kTogether;",
        "kTogether;",
        WEIGHTS,
    ),
    Mutant(
        "the square root forgotten",
        "cpp/weights.cpp",
        "metric_ == Metric::euclidean);",
        "false);",
        WEIGHTS,
    ),
    Mutant(
        "sums of half types kept in half between the axes",
        "cpp/filter.h",
        "    return o.y.dtype == dtype_of<C>::value && o.y.data != o.x.data;\n",
        "    return o.y.data != o.x.data;\n",
        FILTER,
    ),
    Mutant(
        "x overwritten in place before the second axis has read it",
        "cpp/filter.h",
        "    return o.y.dtype == dtype_of<C>::value && o.y.data != o.x.data;\n",
        "    return o.y.dtype == dtype_of<C>::value;\n",
        FILTER,
    ),
    Mutant(
        "overlapping input and output not copied",
        "src/sgs/filters.py",
        "return a if in_place and same else np.array(a)",
        "return a",
        f"{LINE} {FILTER}",
    ),
    Mutant(
        "the root counted from both of its sides",
        "cpp/tree.cpp",
        "if (root < n - 1) add_child(root, s.backward);",
        "if (root < n - 1) add_child(root, root > 0 ? s.forward : s.backward);",
        TREE_FORM,
    ),
    Mutant(
        "1 - w instead of 1 - w^2 in the update",
        "cpp/step.h",
        "return one_minus_square(w) * a;",
        "return (C(1) - w) * a;",
        TREE_FORM,
    ),
    Mutant(
        "the adjoint's blocks in the order of application",
        "src/sgs/filters.py",
        "for block in reversed(range(len(passes))):",
        "for block in range(len(passes)):",
        ATTENTION,
    ),
    Mutant(
        "the interpreter's lock kept",
        "python/call.h",
        "        const pybind11::gil_scoped_release unlock;\n",
        "",
        f"{CONCURRENCY} -k other_threads",
    ),
    Mutant(
        "Ctrl-C not heard",
        "cpp/parallel.cpp",
        "return options.cancelled(options.context);",
        "return false;",
        f"{CONCURRENCY} -k leaves_the_rest",
    ),
    Mutant(
        "a centre counted twice, in blocks of rows",
        "cpp/kernels/plane.cpp",
        "return across + term + p.centres * x;",
        "return across + term + C(2) * x;",
        FILTER,
    ),
    Mutant(
        "a centre counted twice, with channels side by side",
        "cpp/kernels/lanes.h",
        "sum[r] = arrive<cuts>(apart ? x[r] : along[r], w, d);",
        "sum[r] = arrive<cuts>(apart ? x[r] : along[r] + x[r], w, d);",
        FILTER,
    ),
    Mutant(
        "an edge dropped: between two blocks of rows",
        "cpp/plane_weights.h",
        "p.load_rows(w.down, p.pitch, p.o.weights[p.down_axis], plane, first - 1, 1);",
        "std::fill_n(w.down, p.pitch, C(0));",
        FILTER,
    ),
    Mutant(
        "an edge dropped: the last column's, with channels side by side",
        "cpp/kernels/lanes.h",
        "along[r] = arrive<cuts>(f[r], at<own, n>(across, edge + 1, l), load_vector(p.backward + here));",
        "along[r] = j + 2 == width\n"
        "    ? f[r]\n"
        "    : arrive<cuts>(f[r], at<own, n>(across, edge + 1, l), load_vector(p.backward + here));",
        FILTER,
    ),
    Mutant(
        "a centre counted once without a normaliser, with channels side by side",
        "cpp/kernels/lanes.h",
        "return fused(more_centres, x, sum);",
        "return fused(more_centres, Vec<C>{}, sum);",
        FILTER,
    ),
    Mutant(
        "a last weight made of the exponent before it",
        "cpp/kernels/edge_weights.h",
        "store(k++, power_of_two<C>(waiting[i]));",
        "store(k++, power_of_two<C>(waiting[i > 0 ? i - 1 : 0]));",
        WEIGHTS,
    ),
    Mutant(
        "infinite values times no further centre",
        "cpp/kernels/lanes.h",
        "else if (p.reciprocal == nullptr && p.centres == C(1))",
        "else if (p.reciprocal == nullptr && p.centres == C(0))",
        VOLUMES,
    ),
    Mutant(
        "a last row skipped, in blocks of rows",
        "cpp/kernels/plane.cpp",
        "for (int row = kRows - 1; row >= 0; --row) {",
        "for (int row = kRows - 2; row >= 0; --row) {",
        FILTER,
    ),
    Mutant(
        "a last plane skipped, with channels side by side",
        "cpp/lanes_part.h",
        "tail_ = (size_ - head_) % lanes_;",
        "tail_ = 0;",
        FILTER,
    ),
    Mutant(
        "a stride forgotten: that of the columns, where rows are stored",
        "cpp/kernels/plane.cpp",
        "narrow(from[j], to[j * stride]);",
        "narrow(from[j], to[j]);",
        f"{FILTER} {WEIGHTS}",
    ),
    Mutant(
        "a confidence ignored, in blocks of rows",
        "cpp/plane_set.h",
        "if (o.confidence) kernels<C>().pointwise.trust(rows, trust, kRows * pitch);",
        "(void)trust;",
        FILTER,
    ),
    Mutant(
        "a confidence ignored, with channels side by side",
        "cpp/lanes.cpp",
        "if (p_.o.confidence) trust(x, rows, false);",
        "",
        FILTER,
    ),
    Mutant(
        "a carry lost: between bands of planes side by side",
        "cpp/lanes.cpp",
        "        weights.down -= s_.weights_row;\n",
        "",
        BANDS,
    ),
    Mutant(
        "a carry lost: from above into bands of few parts, planes side by side",
        "cpp/lanes.cpp",
        "get(s_.above.get(), first_row(band), ends.above(band));",
        "std::fill_n(s_.above.get(), s_.row, C(0));",
        BANDS,
    ),
    Mutant(
        "a carry lost: from above into bands of many parts, planes side by side",
        "cpp/lanes.cpp",
        "get(s_.above.get(), first_row(band), s_.ends.get() + band * s_.row);",
        "std::fill_n(s_.above.get(), s_.row, C(0));",
        BANDS,
    ),
    Mutant(
        "cuts overlooked: of planes with weights of their own, side by side",
        "cpp/kernels/lanes.h",
        "run(Number<true>{}, Number<true>{}, Number<rows>{});",
        "run(Number<false>{}, Number<true>{}, Number<rows>{});",
        BATCH,
    ),
    Mutant(
        "supports summed in another order than their planes, neighbours with weights of their own",
        "cpp/plane_set.h",
        "(o.sharing == 0 || o.by_neighbours) && ",
        "",
        BATCH,
    ),
    Mutant(
        "a last plane takes the weights of another, planes with weights of their own",
        "cpp/lanes_part.h",
        "offsets[l] = neighbour(l) * p_->plane_stride(v);",
        "offsets[l] = l * p_->plane_stride(v);",
        BATCH,
    ),
    Mutant(
        "what flows between bands kept in a row of y that is needed, planes side by side",
        "cpp/lanes.cpp",
        "return first_row(band) + rows_of(band) - 1;",
        "return first_row(band);",
        BANDS,
    ),
    Mutant(
        "what flows between bands kept in y where that is x, planes side by side",
        "cpp/lanes.cpp",
        "return holds_sums<C>(p.o) && p.o.filter.blocks == 1;",
        "return p.o.y.dtype == dtype_of<C>::value && p.o.filter.blocks == 1;",
        BANDS,
    ),
    Mutant(
        "what flows between bands kept in y, which the next block reads, planes side by side",
        "cpp/lanes.cpp",
        "return holds_sums<C>(p.o) && p.o.filter.blocks == 1;",
        "return holds_sums<C>(p.o);",
        BANDS,
    ),
    Mutant(
        "a block too few, of planes side by side in one band",
        "cpp/lanes.cpp",
        "for (std::int64_t left = p_.o.filter.blocks; left > 0; --left) {",
        "for (std::int64_t left = p_.o.filter.blocks; left > 0; left -= 1 + (left > 2)) {",
        f"{BANDS} -k at_once",
    ),
    Mutant(
        "a carry lost: between bands, from the block before, planes side by side",
        "cpp/lanes.cpp",
        "std::copy_n(next, s_.row, slot);",
        "if (up) std::copy_n(next, s_.row, slot);",
        f"{BANDS} -k at_once",
    ),
    Mutant(
        "a carry lost: downward from band to band, planes side by side",
        "cpp/lanes.cpp",
        "if (!up) std::copy_n(s_.above.get()",
        "if (!up && !last_block) std::copy_n(s_.above.get()",
        f"{BANDS} -k at_once",
    ),
    Mutant(
        "a carry lost: from below into bands that threads share",
        "cpp/lanes_shared.cpp",
        "if (next % band_rows_ == 0 || next >= p_.height)",
        "if (next >= p_.height)",
        f"{BANDS} -k at_once",
    ),
    Mutant(
        "columns that threads share one too few",
        "cpp/lanes_shared.cpp",
        "std::min(columns_, p_.width - first)",
        "std::min(columns_, p_.width - first - (first > 0))",
        f"{BANDS} -k at_once",
    ),
    Mutant(
        "all planes that threads share weighted as the first",
        "cpp/lanes_shared.cpp",
        "if (k == first || of_set == 0) weights",
        "if (k == first) weights",
        f"{BANDS} -k at_once",
    ),
    Mutant(
        "what flows through the middle, found while it is in use",
        "cpp/lanes_halves.cpp",
        "2 * (round % 2) + (upper ? 1 : 0)",
        "(upper ? 1 : 0)",
        f"{BANDS} -k at_once",
    ),
    Mutant(
        "a carry lost: downward in the lower half of a plane",
        "cpp/lanes_halves.cpp",
        "b.last = upper ? nullptr : flow;",
        "b.last = nullptr;",
        f"{BANDS} -k at_once",
    ),
    Mutant(
        "all planes that pairs of threads have weighted as the first",
        "cpp/lanes_halves.cpp",
        "weights.load(PartRows<C>(p, parts.get(set, 0)), options);",
        "if (set == 0) weights.load(PartRows<C>(p, parts.get(set, 0)), options);",
        f"{BANDS} -k at_once",
    ),
    Mutant(
        "a part too few, of those that pairs of threads have in turns",
        "cpp/lanes_halves.cpp",
        "(per_set + together - 1) / together * blocks;",
        "per_set / together * blocks;",
        f"{BANDS} -k at_once",
    ),
    Mutant(
        "cuts overlooked: of planes that threads share",
        "cpp/lanes_weights.h",
        "has_zero(across_.get() + 1, width + 1, width - 1, p_.height);",
        "false;",
        f"{BANDS} -k share",
    ),
    Mutant(
        "rounded twice where the step is fused elsewhere, planes side by side",
        "cpp/kernels/lanes.h",
        "u = arrive<cuts>(x[r], w, u);",
        "u = x[r] + carry_over<cuts>(w, u);",
        f"{BANDS} -k at_once",
    ),
    Mutant(
        "cuts overlooked: horizontal ones",
        "cpp/plane_weights.h",
        "has_zero(across, p.across_pitch, p.width - 1, p.block_rows(block));",
        "false;",
        BANDS,
    ),
    Mutant(
        "cuts overlooked: vertical ones",
        "cpp/plane_weights.h",
        "has_zero(w.down + p.pitch, p.pitch, p.width, std::min<std::int64_t>(kRows, p.height - 1 - first)) ||",
        "false ||",
        BANDS,
    ),
    Mutant(
        "an edge dropped: between two bands",
        "cpp/plane.cpp",
        "if (band > 0) std::fill_n(s.down, p.pitch, C(1)); // what enters has crossed the edge",
        "if (band > 0) std::fill_n(s.down, p.pitch, C(0));",
        BANDS,
    ),
    Mutant(
        "an edge counted twice: between two bands",
        "cpp/plane.cpp",
        "if (band > 0) std::fill_n(s.down, p.pitch, C(1)); // what enters has crossed the edge",
        "",
        BANDS,
    ),
    Mutant(
        "upward support lost after a band",
        "cpp/lines.h",
        "for (std::int64_t k = parts - 1; k >= 0; --k)",
        "for (std::int64_t k = parts - 1; k >= parts - 1; --k)",
        BANDS,
    ),
    Mutant(
        "a band's product of weights forgets a cut",
        "cpp/kernels/plane.cpp",
        "(through[j] != 0) & (w != C(0))",
        "w != C(0)",
        BANDS,
    ),
    Mutant(
        "a long line's product of weights forgets its sign",
        "cpp/kernels/plane.cpp",
        "__builtin_copysign(kept, product)",
        "kept",
        BANDS,
    ),
    Mutant(
        "a confidence ignored: distances to missing values count where weights are made",
        "cpp/image.cpp",
        "if (guide.confidence) b.guide_trust = rows_of(p, *guide.confidence, 1);",
        "",
        f"{BANDS} {RULES} {IMAGES}",
    ),
    Mutant(
        "the guide overwritten before all weights are made",
        "cpp/filter.cpp",
        "const bool overlaps = may_overlap(guide.view, y);",
        "const bool overlaps = false;",
        IMAGES,
    ),
    Mutant(
        "an edge dropped: between two blocks of an image",
        "cpp/kernels/image.cpp",
        "if (edges < kRows) copy_in(b.leaving + p * kRows, 0, w + kTile, 1);",
        "for (int k = 0; k < kRows; ++k) w[kTile + k] = edges < kRows ? C(0) : w[kTile + k];",
        IMAGES,
    ),
    Mutant(
        "an edge dropped: between two panels of an image",
        "cpp/kernels/image.cpp",
        "p > 0 ? across - kRows : nothing_before;",
        "nothing_before;",
        IMAGES,
    ),
    Mutant(
        "upward support lost after a block of an image",
        "cpp/kernels/image.cpp",
        "flows.upward ? below : unused, finish);",
        "unused, finish);",
        IMAGES,
    ),
    Mutant(
        "cuts overlooked: horizontal ones, in images",
        "cpp/kernels/image.cpp",
        "const bool cuts = any_cut(rows, b.rows * kRows);",
        "const bool cuts = false;",
        IMAGES,
    ),
    Mutant(
        "cuts overlooked: vertical ones, in images",
        "cpp/kernels/image.cpp",
        "return cuts || any_cut(w, kRows) || any_cut(w + kTile, kRows);",
        "return any_cut(w, kRows) || any_cut(w + kTile, kRows);",
        IMAGES,
    ),
    Mutant(
        "cuts overlooked: those between blocks, in images",
        "cpp/kernels/image.cpp",
        "return cuts || any_cut(w, kRows) || any_cut(w + kTile, kRows);",
        "return cuts;",
        IMAGES,
    ),
    Mutant(
        "an image's block filtered before what flows into it is known",
        "cpp/image.cpp",
        "if (i > 0) await(done(block(upper, i - 1)), end);",
        "",
        IMAGES,
    ),
    Mutant(
        "columns of an image forgotten on the way to the middle",
        "cpp/image.cpp",
        "const std::int64_t first = task / 2 * width;",
        "const std::int64_t first = 0;",
        IMAGES,
    ),
    Mutant(
        "an edge dropped: into a block of planes that guide themselves",
        "cpp/kernels/image.cpp",
        "store_vector(b.leaving + j, w);",
        "store_vector(b.leaving + j, Vec<C>{});",
        IMAGES,
    ),
    Mutant(
        "a confidence ignored, in images",
        "cpp/kernels/image.cpp",
        "= trusted(c[k], tiles[plane * kTaller + k]);",
        "= c[k] != C(0) ? tiles[plane * kTaller + k] : C(0);",
        IMAGES,
    ),
    Mutant(
        "the last row of a block forgotten where an image is written past the caches",
        "cpp/kernels/image.cpp",
        "for (std::int64_t r = 0; b.y.mixed && r < b.rows; ++r) {",
        "for (std::int64_t r = 0; b.y.mixed && r + 1 < b.rows; ++r) {",
        f"{IMAGES} -k caches",
    ),
    Mutant(
        "scratch given to two calls",
        "cpp/scratch.cpp",
        "        blocks_.erase(best);\n",
        "",
        "tests/test_scratch.py",
    ),
    Mutant(
        "all scratch kept",
        "cpp/scratch.cpp",
        "        shrink(limit_ - block.bytes, kMostBlocks - 1);\n",
        "",
        "tests/test_scratch.py",
    ),
    Mutant(
        "backward: the edge to the next segment of a guide's row from a node to itself",
        "cpp/weights_backward.cpp",
        "skipped = from_before ? 1 : 0, beyond = to_after ? 1 : 0;",
        "skipped = from_before ? 1 : 0, beyond = 0;",
        SHARED,
    ),
    Mutant(
        "planes that lie otherwise taken for their own guide",
        "cpp/image.h",
        "same &= p.row_stride(guide.view) == p.row_stride(x) && p.column_stride(guide.view) == p.column_stride(x);",
        "",
        IMAGES,
    ),
    Mutant(
        "an edge dropped: after a segment of a long line",
        "cpp/long_lines.h",
        "const std::int64_t edges = steps - (linked ? 0 : 1);",
        "const std::int64_t edges = steps - 1;",
        BANDS,
    ),
    Mutant(
        "cuts overlooked: upward ones, with channels side by side",
        "cpp/lanes.cpp",
        "s_.cuts |= !p_.own_weights && has_zero(across + position, row, row - position, 1);",
        "",
        RULES,
    ),
    Mutant(
        "backward: the second term of a weight's derivative dropped",
        "cpp/kernels/backward.cpp",
        "w_bar[k + kLanes] += fp[k] * bq[l] + fq[k] * bp[l];",
        "w_bar[k + kLanes] += fp[k] * bq[l];",
        TORCH,
    ),
    Mutant(
        "backward: the first term of a weight's derivative dropped",
        "cpp/kernels/backward.cpp",
        "w_bar[k + kLanes] += fp[k] * bq[l] + fq[k] * bp[l];",
        "w_bar[k + kLanes] += fq[k] * bp[l];",
        TORCH,
    ),
    Mutant(
        "backward: the weight's derivative given to the edge before",
        "cpp/kernels/backward.cpp",
        "            w_bar[k + kLanes] += fp[k] * bq[l];\n",
        "            w_bar[k] += fp[k] * bq[l];\n",
        TORCH,
    ),
    Mutant(
        "backward: the normaliser's derivative has the wrong sign",
        "cpp/kernels/backward.cpp",
        "C(0) : -s[k] * r[k];",
        "C(0) : s[k] * r[k];",
        TORCH,
    ),
    Mutant(
        "backward: the normaliser's derivative dropped",
        "cpp/filter_backward.cpp",
        "for (std::size_t k = 0; k < support_sums_.size(); ++k) add_support(k);",
        "for (std::size_t k = 0; k < 0 * support_sums_.size(); ++k) add_support(k);",
        TORCH,
    ),
    Mutant(
        "backward: the centre left out of what the support divides",
        "cpp/gradient.cpp",
        "if (centre) pointwise.add(s.fp.get(), s.p.get(), count);",
        "if (centre && g.each_centre) pointwise.add(s.fp.get(), s.p.get(), count);",
        TORCH,
    ),
    Mutant(
        "backward: the confidence's derivative by the support dropped",
        "cpp/filter_backward.cpp",
        "if (confidence_sums_) kernels<C>().pointwise.add(confidence_sums_->get(), by_field.get(), by_field.stride());",
        "",
        TORCH,
    ),
    Mutant(
        "backward: the confidence's derivative kept where the confidence is 0",
        "cpp/filter_backward.cpp",
        "kernels<C>().pointwise.mask(confidence_sums_->get() + chunk * field_->stride(), field_->get(),",
        "if (chunk < 0) kernels<C>().pointwise.mask(confidence_sums_->get() + chunk * field_->stride(), field_->get(),",
        TORCH,
    ),
    Mutant(
        "backward: the residual passes a derivative where the confidence is 0",
        "cpp/gradient.cpp",
        "if (c) pointwise.mask(s.side.get(), s.c.get(), count);",
        "",
        TORCH,
    ),
    Mutant(
        "backward: distance derivatives not divided by the scale",
        "cpp/kernels/backward.cpp",
        "const C d_bar = w != C(0) ? -w * w_bar[k] / scale : C(0);",
        "const C d_bar = w != C(0) ? -w * w_bar[k] : C(0);",
        TORCH,
    ),
    Mutant(
        "backward: the step left out of the scale's derivative",
        "cpp/kernels/backward.cpp",
        "d_bar * ((distance + step_length) / scale)",
        "d_bar * (distance / scale)",
        TORCH,
    ),
    Mutant(
        "backward: 0 / 0 at equal neighbours",
        "cpp/kernels/backward.cpp",
        "d[k] = distance != C(0) ? d_bar / distance : C(0);",
        "d[k] = d_bar / distance;",
        TORCH,
    ),
    Mutant(
        "backward: a cut edge passes NaN to the guide",
        "cpp/kernels/backward.cpp",
        "    return carried(factor, difference);",
        "    return factor * difference;",
        TORCH,
    ),
    Mutant(
        "backward: F is lost between two chunks of a line",
        "cpp/gradient.cpp",
        "std::copy_n(s.carry_q, kLanes, s.forward_q.get() + j * kLanes);",
        "std::fill_n(s.forward_q.get() + j * kLanes, kLanes, C(0));",
        TORCH,
    ),
    Mutant(
        "backward: the edge between two segments of a guide's row dropped",
        "cpp/weights_backward.cpp",
        "count + (to_after ? 1 : 0) - skipped);",
        "count - skipped);",
        SHARED,
    ),
    Mutant(
        "backward: the edge from the row above dropped",
        "cpp/weights_backward.cpp",
        "if (from_before) enter = edges.read(entering, -back, count);",
        "",
        SHARED,
    ),
    Mutant(
        "backward, side by side: the second term of a horizontal weight's derivative dropped",
        "cpp/kernels/lanes_backward.cpp",
        "return x_here * z_right + z_here * x_right;",
        "return x_here * z_right;",
        SHARED,
    ),
    Mutant(
        "backward, side by side: the first term of a vertical weight's derivative dropped",
        "cpp/kernels/lanes_backward.cpp",
        "found[r] = fx * below_z[r] + fz * below_x[r];",
        "found[r] = fz * below_x[r];",
        SHARED,
    ),
    Mutant(
        "backward, side by side: a cut overlooked on the way up",
        "cpp/kernels/lanes_backward.cpp",
        "b[k] = x + carry_over<cuts>(w, b[k]);",
        "b[k] = x + w * b[k];",
        SHARED,
    ),
    Mutant(
        "backward, side by side: a cut overlooked between two blocks",
        "cpp/lanes_backward.cpp",
        "(first > 0 && has_zero(s_.down.get(), width)) ||",
        "false ||",
        SHARED,
    ),
    Mutant(
        "backward, side by side: the residual passes a derivative where the confidence is 0",
        "cpp/kernels/lanes_backward.cpp",
        "if (y != nullptr && trust != C(0)) v += y[at + l];",
        "if (y != nullptr) v += y[at + l];",
        SHARED,
    ),
    Mutant(
        "backward, side by side: the last groups of a chunk left out",
        "cpp/lanes_backward.cpp",
        "(p.groups() + g.chunks - 1) / g.chunks",
        "p.groups() / g.chunks",
        SHARED,
    ),
    Mutant(
        "backward, side by side: B starts anew in every block",
        "cpp/kernels/lanes_backward.cpp",
        "b[k] = load_vector(carry + k * n);",
        "b[k] = Vec<C>{};",
        SHARED,
    ),
    Mutant(
        "backward: the last chunk of channels not summed",
        "cpp/gradient.h",
        "        v.shape[0] = chunks_;",
        "        v.shape[0] = chunks_ > 1 ? chunks_ - 1 : 1;",
        TORCH,
    ),
    Mutant(
        "backward: only half of the lanes that share a weight are summed",
        "cpp/gradient.cpp",
        "for (int l = 0; l < kLanes; ++l) total += rows[i * kLanes + l];",
        "for (int l = 0; l < kLanes / 2; ++l) total += rows[i * kLanes + l];",
        TORCH,
    ),
    Mutant(
        "backward, composed: the derivative through the support has the wrong sign",
        "src/sgs/_torch_ops.py",
        "s_bar = -_sum_to(z * p.divide(k, p.sums(k, p.source)), p.field)",
        "s_bar = _sum_to(z * p.divide(k, p.sums(k, p.source)), p.field)",
        TORCH,
    ),
    Mutant(
        "jvp: the tangent of the support dropped",
        "src/sgs/_torch_ops.py",
        "            if s_t is not None:\n",
        "            if s_t is not None and k < 0:\n",
        "tests/test_torch_transforms.py",
    ),
    Mutant(
        "the cut rule removed: lines straight from memory",
        "cpp/kernels/vector.h",
        "if constexpr (cuts) return w != V{} ? sum : x + V{};",
        "if constexpr (cuts) return w == w ? sum : x;",
        f"{WAYS} -k crosses",
    ),
    Mutant(
        "cuts overlooked: those of lines that share their weights",
        "cpp/line_rows.cpp",
        "s_.cuts |= load_links(s_.links.get() + g, offsets, 0, n_);",
        "s_.cuts = load_links(s_.links.get() + g, offsets, 0, n_) && g > kRows;",
        f"{WAYS} -k crosses",
    ),
    Mutant(
        "an edge dropped: the one between two parts of a line along memory",
        "cpp/line_rows.cpp",
        "std::copy_n(kept(k), kRows, s_.forward);",
        "std::fill_n(s_.forward, kRows, C(0));",
        f"{WAYS} -k every_way",
    ),
    Mutant(
        "an edge dropped: the one between two parts of lines side by side",
        "cpp/line_columns.cpp",
        "std::copy_n(s.carries.get() + k * s.width_pitch, p.width, p.forward);",
        "std::fill_n(p.forward, p.width, C(0));",
        f"{WAYS} -k every_way",
    ),
    Mutant(
        "the steps beside the squares begin one too early",
        "cpp/kernels/line.cpp",
        "const std::int64_t from = first > 0 ? first + count - n : 0;",
        "const std::int64_t from = first > 0 ? first + count - n - 1 : 0;",
        f"{WAYS} -k every_way",
    ),
    Mutant(
        "weights of a period taken for those of another line",
        "cpp/line_rows.cpp",
        "bundle * kRows % plan_.period",
        "bundle % plan_.period",
        f"{WAYS} -k every_way",
    ),
    Mutant(
        "what is written past the caches begins one too late",
        "cpp/kernels/vector.h",
        "% kVectorBytes != 0; ++j) to[j] = from[j];",
        "% kVectorBytes != 0; ++j) (void)from;",
        f"{WAYS} -k caches",
    ),
    Mutant(
        "ends of T(1) exchanged",
        "cpp/filter.cpp",
        "segments.ones_left = &ones_above;",
        "segments.ones_left = &ones_below;",
        f"{WAYS} -k one_axis",
    ),
    Mutant(
        "a block's input added in place where the sum is of a half type",
        "src/sgs/nn/semi_global.py",
        "return y.add_(x) if self.heads == 1 and y.dtype == x.dtype else y + x",
        "return y.add_(x) if self.heads == 1 else y + x",
        BLOCKS,
    ),
]

# A development installation finds its own `sgs` before any path; Python runs this file at start, in subprocesses too.
SITE = """
import sys
sys.meta_path[:] = [f for f in sys.meta_path if "ScikitBuild" not in type(f).__name__]
"""


class Copy:
    """A copy of the source tree, built and installed beside it."""

    def __init__(self, folder: Path) -> None:
        self.tree, self.build, self.package = folder / "tree", folder / "build", folder / "installed"
        self.tree.mkdir()
        ignored = shutil.ignore_patterns("__pycache__", "*.so", ".*")
        for source in (ROOT / name for name in TREE):
            if source.is_dir():
                shutil.copytree(source, self.tree / source.name, ignore=ignored)
            elif source.exists():
                shutil.copy2(source, self.tree / source.name)
        self.environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        for name in ("SKBUILD_CMAKE_DEFINE", "SGS_NUM_THREADS", "SGS_ISA"):  # a mutant may well give warnings
            self.environment.pop(name, None)
        self._provide_build_tools(folder / "tools")
        arguments = ["install", "-q", "--no-build-isolation", "--no-deps", "--target", str(self.package)]
        arguments += ["-C", f"build-dir={self.build}", "-C", "cmake.define.SGS_CUDA=OFF", str(self.tree)]
        self._check(sys.executable, "-m", "pip", *arguments)
        (self.package / "sitecustomize.py").write_text(SITE)
        paths = [str(self.package), self.environment.get("PYTHONPATH", "")]
        self.environment["PYTHONPATH"] = os.pathsep.join(p for p in paths if p)

    def _provide_build_tools(self, folder: Path) -> None:
        """What pip would put into a build environment, but to stay, so that rebuilds are quick."""
        lines = re.search(r"^requires = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)
        assert lines is not None
        required = re.findall(r'"([^"]+)"', lines[1])
        here = all(importlib.util.find_spec(name) for name in ("scikit_build_core", "pybind11", "Cython"))
        if not here or shutil.which("cmake") is None or shutil.which("ninja") is None:
            self._check(
                sys.executable, "-m", "pip", "install", "-q", "--target", str(folder), *required, "cmake", "ninja"
            )
            self.environment["PYTHONPATH"] = str(folder)
            self.environment["PATH"] = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"

    def _check(self, *command: str) -> None:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")

    def refresh(self, file: str) -> None:
        """Bring a changed source file into the installed package."""
        if file.startswith("src/"):
            shutil.copy2(self.tree / file, self.package / Path(file).relative_to("src"))
            return
        self._check("cmake", "--build", str(self.build), "--target", "_core")
        for extension in self.build.glob("_core*.so"):
            # A new file: an old one may still be mapped by a process that has not quite ended.
            target = self.package / "sgs" / extension.name
            target.unlink()
            shutil.copy2(extension, target)

    def fails(self, tests: str, verbose: bool = False) -> str:
        """The first test that fails, or ""; anything else but a pass ends the whole run."""
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "0", "-p", "no:cacheprovider", *tests.split()]
        try:
            done = subprocess.run(
                command, cwd=self.tree, env=self.environment, capture_output=True, text=True, timeout=600, check=False
            )
        except subprocess.TimeoutExpired:
            return "timeout"
        if done.returncode not in (0, 1):
            # A crash of the process is noticed as well as a failure is.
            if done.returncode < 0:
                return f"signal {-done.returncode}"
            raise SystemExit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
        if done.returncode and verbose:
            print(done.stdout)
        failed = re.search(r"^FAILED \S*?(\w+\.py::\w+)", done.stdout, re.MULTILINE)
        return failed[1] if failed else "failed" if done.returncode else ""


def main(names: list[str]) -> int:
    lost = [m for m in MUTANTS if (ROOT / m.file).read_text().count(m.text) != 1]
    for m in lost:
        print(f"NOT FOUND once in {m.file}: {m.text!r} ({m.name})")
    chosen = [m for m in MUTANTS if m not in lost and (not names or any(name in m.name for name in names))]
    survived = []
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        copy = Copy(Path(folder))
        needed = sorted({part for m in chosen for part in m.tests.split(" -k ")[0].split()})
        failure = copy.fails(" ".join(needed), verbose=True)
        if failure:
            raise SystemExit(f"fails without any mutant: {failure}")
        print(f"{len(chosen)} mutants; built and tested without them in {time.monotonic() - start:.0f} s\n", flush=True)
        for k, m in enumerate(chosen):
            start = time.monotonic()
            file = copy.tree / m.file
            original = file.read_text()
            file.write_text(original.replace(m.text, m.replacement))
            copy.refresh(m.file)
            failure = copy.fails(m.tests)
            file.write_text(original)
            # The next mutant of the core builds it anew in any case.
            if k + 1 == len(chosen) or m.file.startswith("src/") or chosen[k + 1].file.startswith("src/"):
                copy.refresh(m.file)
            if not failure:
                survived.append(m)
            verdict = f"caught by {failure}" if failure else "SURVIVED"
            print(f"{time.monotonic() - start:5.0f} s  {m.name}: {verdict}", flush=True)
    print(f"\n{len(chosen) - len(survived)} caught, {len(survived)} survived, {len(lost)} not found")
    return 1 if survived or lost else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
