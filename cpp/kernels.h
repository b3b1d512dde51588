// The leaf kernels: tight loops on tiles, compiled once per instruction set and chosen at run time (dispatch.cpp).
//
// A tile is C[steps][kLanes]: kLanes lines side by side, one row per step along them, 64-byte aligned. Kernels check
// nothing. Preconditions: 0 < steps <= kSteps (+ 1 row for weights), 0 < lanes <= kLanes; lanes beyond `lanes` are
// loaded as 0.
#pragma once

#include "sgs.h"

namespace sgs {

constexpr int kLanes = 32;
constexpr int kSteps = 128;

template <class C> struct ConvertKernels {
    /// tile[i][l] = source[i * step + offsets[l]], by the source's dtype.
    using Load = void (*)(C* tile, const void* source, std::int64_t steps, std::int64_t step,
                          const std::int64_t* offsets, int lanes);
    using Store = void (*)(const C* tile, void* target, std::int64_t steps, std::int64_t step,
                           const std::int64_t* offsets, int lanes);
    Load load[4];
    Store store[4];
};

/// Recurrences down a tile. Row i of w is the weight of the edge that enters step i; row `steps` leaves the tile.
template <class C> struct ScanKernels {
    /// (4) F_i in place of x_i; carry comes in as F before the tile and goes out as F of its last row.
    void (*scan)(C* x, const C* w, std::int64_t steps, C* carry);
    /// The same without storing F.
    void (*scan_carry)(const C* x, const C* w, std::int64_t steps, C* carry);
    /// (5) terms_i = w_{i-1} F_{i-1} + w_i B_{i+1}, and with the centre x_i more; forward is F before the tile,
    /// backward comes in as B after it and goes out as B of its first row.
    void (*line_terms)(C* terms, const C* x, const C* w, std::int64_t steps, const C* forward, C* backward,
                       bool centre);
    /// (6) a_i becomes (1 - w^2) a_i with w the edge that enters step i: what an update step adds.
    void (*update_source)(C* a, const C* w, std::int64_t steps);
};

/// Element by element on whole tiles (count = steps * kLanes).
template <class C> struct PointwiseKernels {
    void (*add)(C* y, const C* x, std::int64_t count);
    void (*multiply)(C* y, const C* x, std::int64_t count);
    /// (8) x becomes c x, and 0 where c = 0.
    void (*trust)(C* x, const C* c, std::int64_t count);
    /// x becomes 0 where c = 0.
    void (*mask)(C* x, const C* c, std::int64_t count);
    /// S becomes 1 / S; where only_supported, -1 marks a position whose S is not at least the least support.
    void (*reciprocal)(C* s, std::int64_t count, bool only_supported);
    /// y becomes y times the reciprocal support, and where only_supported fill where that is marked.
    void (*normalize)(C* y, const C* reciprocal, C fill, std::int64_t count, bool only_supported);
};

/// On rows of count elements.
template <class C> struct WeightKernels {
    /// (1) d += term of |b - a|, for channels that lie `stride` elements apart. One entry per Metric.
    void (*accumulate_distance[3])(C* d, const C* a, const C* b, std::int64_t count, std::int64_t channels,
                                   std::int64_t stride);
    /// d = 0 where a confidence at either end is 0 (8).
    void (*ignore_untrusted)(C* d, const C* a, const C* b, std::int64_t count);
    /// (2) d becomes w; the square root is taken first for the Euclidean distance.
    void (*finish)(C* d, std::int64_t count, C step_length, C scale, bool square_root);
};

constexpr int kRows = 16; // rows of a plane that are filtered together

/// kRows rows of memory, `stride` bytes apart, to be brought into the caches in passing; or null.
struct Ahead {
    const char* rows;
    std::int64_t stride;
};

/// A block of up to kRows rows of a plane with contiguous rows, in aligned memory of `pitch` (a multiple of kRows)
/// elements a row.
template <class C> struct PlaneBlock {
    std::int64_t rows, width, pitch;
    const C* x;                 // [kRows][pitch], 0 beyond the block and the width
    const C* down;              // [rows + 1][pitch], row i the weights that enter row i
    const C* across;            // [width + 1][kRows], row j the weights that enter column j
    const C* reciprocal;        // [rows][pitch] 1 / S, or 1 / T_vertical(1) for "line", or null
    const C* reciprocal_across; // 1 / T_horizontal(1) for "line", else null
    C* columns;                 // [pitch][kRows] scratch
    C* terms;                   // [pitch][kRows] scratch
    C* above;                   // [pitch] F of the row above the block; left as the next block needs it
    const C* below;             // [pitch] B of the row below the block
    C* y;                       // [kRows][pitch] the result
    const C* residual;          // [rows][pitch] what is added at the end, or null
    C centres;                  // how often the centre counts: 1 for "cross", 2 for None
    C fill;
    bool supported_only; // a negative reciprocal marks an unsupported position
    bool cuts;           // some weight is 0
    Ahead read, written; // what is needed soon
};

template <class C> struct PlaneKernels {
    /// rows[r][j] = source[r * row_stride + j * column_stride] for `total` rows, 0 beyond count rows and width columns.
    void (*load_rows[4])(C* rows, std::int64_t pitch, const void* source, std::int64_t row_stride,
                         std::int64_t column_stride, std::int64_t count, std::int64_t width, std::int64_t total);
    void (*store_rows[4])(const C* rows, std::int64_t pitch, void* target, std::int64_t row_stride,
                          std::int64_t column_stride, std::int64_t count, std::int64_t width);
    /// A copy past the caches: lines of memory are written whole, and not read before.
    void (*stream)(const C* from, C* to, std::int64_t count);
    /// columns[j][r] = rows[r][j], for kRows rows.
    void (*transpose)(const C* rows, std::int64_t pitch, std::int64_t width, C* columns);
    /// B of the first row of a block, from B of the row below it: all that the blocks above need of it. May be in
    /// place.
    void (*climb)(const PlaneBlock<C>& block, C* first);
    /// (7) of a block: both line filters, normalisation and residual.
    void (*filter)(const PlaneBlock<C>& block);
    /// Of a block and those before it, or from a `start`: what leaves below, w F of the last row.
    void (*descend)(const PlaneBlock<C>& block, bool start, C* below);
    /// Likewise the product of the weights from the first row to the one after the last, 0 only where one of them is.
    void (*products)(const PlaneBlock<C>& block, bool start, double* through);
    bool (*has_zero)(const C* row, std::int64_t count);
    /// next += through times carry, where there is a way through.
    void (*pass_on)(C* next, const double* through, const C* carry, std::int64_t count);
};

constexpr int kMostPlanes = 16; // that the image kernels take together

/// The same rows of some planes, as they lie in memory; data is null where there are none.
struct PlaneRows {
    void* data = nullptr; // the first row of the first plane
    DType dtype = DType::float32;
    std::int64_t rows = 0, width = 0; // from there on
    std::int64_t row_stride = 0, column_stride = 0;
    std::int64_t planes = 0;
    std::int64_t offsets[kMostPlanes] = {};
    bool mixed = false; // 2 to 4 planes that are the channels of pixels without gaps
};

/// Up to kRows rows of a few planes that share weights and supports.
template <class C> struct ImageBlock {
    std::int64_t rows, width;
    bool linked;        // more rows follow
    std::int64_t next;  // the row, from the first on, where kRows begin that are needed soon
    std::int64_t chunk; // panels whose rows are asked for together
    PlaneRows x, y;
    PlaneRows guide, guide_trust; // weights are made of: distances to where guide_trust is 0 are 0 (8)
    bool own_guide;               // which is x as the sums take it
    PlaneRows down, across;       // or given, those of the edge that leaves each row, each column
    PlaneRows trust;              // the confidence, or none
    PlaneRows reciprocal;         // 1 / S where it is given
    bool makes_support;           // or found here
    Metric metric;
    C steps[2], scales[2]; // down, across
    C centres;             // how often the centre counts: 1 for "cross", 2 for None
    C fill;
    bool supported_only; // a negative reciprocal marks an unsupported position
    bool residual;
    bool streams; // y, whose rows are without gaps and of the computing type, is written past the caches
    // Weights of the edges to the rows above and below, in rows of whole panels: 1 where no row is. What leaves a block
    // is found by descend and climb, and enters the next.
    const C* entering;
    C* leaving;
    C* scratch; // image_scratch elements
};

/// Elements of scratch for a block.
inline std::int64_t image_scratch(std::int64_t width, std::int64_t planes, std::int64_t guide_planes) {
    constexpr std::int64_t tile = kRows * kRows, taller = tile + kRows;
    const std::int64_t panels = (width + kRows - 1) / kRows;
    return panels * (planes + 1) * taller + 2 * (guide_planes + 1) * taller + planes * tile +
           (panels + 1) * (planes + 1) * kRows + panels * (tile + kRows + planes * kRows);
}

/// F of the row above a block and B of the row below, in rows of whole panels. Upward, below becomes B of the block's
/// first row; else above becomes F of its last.
template <class C> struct ImageFlows {
    C *above, *below;
    std::int64_t stride; // from plane to plane, and to the support where it is found
    bool upward;
};

template <class C> struct ImageKernels {
    /// (4) `to` becomes F of the last row of a block from F of the row above, or B of the first from B of the row
    /// below; both are laid out as in ImageFlows. Where there is a row below, block.leaving is found as well.
    void (*descend)(const ImageBlock<C>& block, const C* from, C* to, std::int64_t stride);
    void (*climb)(const ImageBlock<C>& block, const C* from, C* to, std::int64_t stride);
    /// A block to its scratch, and (4) B along its rows before each panel.
    void (*bring_in)(const ImageBlock<C>& block);
    /// (7), (8) of a block that is there: panels of kRows columns from `begin` to before `end`; begin is 0 in the
    /// first call, and in the next where the last one ended.
    void (*filter)(const ImageBlock<C>& block, const ImageFlows<C>& flows, std::int64_t begin, std::int64_t end);
    /// What is gathered of a block that streams, to y.
    void (*stream)(const ImageBlock<C>& block);
};

constexpr int kChannels = 16;   // planes side by side: a row of a tile is one position of all
constexpr int kFewChannels = 8; // the same of large planes, of which more would outgrow the caches
constexpr int kGroupRows = 4;   // rows of positions that are filtered together

/// Rows of planes side by side in memory that are to be brought into the caches in passing, a line of memory with each
/// position (of kFewChannels planes, with every other): where a plane's positions follow one another, that of one
/// plane and kChannels positions. So many are a line in float32; in float64 every other line is asked for. Other
/// strides get lines of the first plane.
struct RowsAhead {
    const char* rows;               // the first of them; null in LanesBlock if there are none
    std::int64_t stride, step;      // bytes from row to row, and from position to position
    std::int64_t places[kChannels]; // bytes from the start of a row, for each of kChannels positions
};

/// A few rows of positions of kChannels or kFewChannels planes: tiles [rows][width][planes], and what planes that share
/// their weights have one number of for each position.
template <class C> struct LanesBlock {
    std::int64_t rows, width;   // rows: 1 to kGroupRows
    std::int64_t pitch;         // positions from row to row of x and down, for F and B alone; else as wide as the rows
    const C* x;                 // tile [rows][pitch]
    bool own;                   // the next four are tiles too, else one number for each position; cuts do not count
    const C* down;              // [rows + 1][pitch], row i the weights that enter row i from above
    const C* across;            // [rows][width + 1], those that enter each position from the left; 0 at both ends
    const C* reciprocal;        // [rows][width] 1 / S, or 1 / T_vertical(1) for "line", or null
    const C* reciprocal_across; // 1 / T_horizontal(1) for "line", else null
    const C* above;             // tile [width]: F of the row above
    C* below;                   // tile [width]: B of the row below; left as B of the first row
    C* last;                    // tile [width]: becomes F of the last row, or null; may be `above`
    C* backward;                // tile [rows][width], scratch: B of the position to the right
    C* y;                       // tile [rows][width]; may be x, or backward
    const C* residual;          // tile [rows][width]: what is added at the end, or null
    C centres;
    C fill;
    bool supported_only;
    bool cuts;
    RowsAhead written;      // where y goes
    const LanesBlock* next; // to be brought into the cache in passing, or null
};

template <class C> struct LanesKernels {
    std::int64_t largest; // plane, in positions, that is not better taken with fewer others
    /// tile[i][l] = source[i * step + offsets[l]] for count positions and `lanes` planes; other lanes are 0 or
    /// those of the first plane again.
    void (*load[4])(C* tile, const void* source, std::int64_t count, std::int64_t step, const std::int64_t* offsets,
                    int lanes);
    void (*store[4])(const C* tile, void* target, std::int64_t count, std::int64_t step, const std::int64_t* offsets,
                     int lanes);
    /// (8) x becomes c x, c one number for each position unless it is `own`, or with only_mask 0 where c is 0.
    void (*trust)(C* x, const C* c, std::int64_t count, bool own, bool only_mask);
    /// (4) downward: F of the last row of a block from F of the row above. May be in place.
    void (*descend)(const LanesBlock<C>& block, C* last);
    /// (4) upward: B of the first row from B of the row below. May be in place.
    void (*climb)(const LanesBlock<C>& block, C* first);
    /// next += through times carry, where there is a way through; one number for each position unless it is `own`.
    void (*pass_on)(C* next, const double* through, const C* carry, std::int64_t count, bool own);
    /// (7) of a block: both line filters, normalisation and residual.
    void (*filter)(const LanesBlock<C>& block);
};

constexpr int kLinkPitch = 2 * kRows;

/// kRows lines along memory, where each step is next to the one before.
template <class C> struct RowLines {
    const void* x;               // step 0
    std::int64_t offsets[kRows]; // where each line starts; places without a line repeat one
    std::int64_t steps;
    bool readable_beyond;  // kRows elements from the start of each line, also if there are fewer steps
    std::int64_t ahead;    // elements from x to what is needed soon
    const C* links;        // [steps + 1][kLinkPitch], row i the weights that enter step i
    C* values;             // [steps + kRows][kRows] scratch
    C* sums;               // [steps / 2 + 2 kRows][kRows] scratch
    C* support;            // the same, where the result is divided by T(1), else null
    C *forward, *backward; // [kRows] F before the first step, B after the last; left as the next part needs it
    C *ones_forward, *ones_backward; // the same of ones
    C* y;                            // [kRows][steps] the result, and kRows elements of scratch
    const void* written;             // where it goes soon, if that is one piece that is to be asked for, else null
    bool cuts, reverse;
    bool residual; // x is added to what is divided
};

/// Numbers for the steps of lines side by side, those of a step next to each other, or one for all lines.
template <class C> struct ColumnField {
    const C* data; // step 0, or null
    std::int64_t step;
    bool shared;
};

/// (7), (8): what becomes of the line filter.
template <class C> struct ColumnFinish {
    ColumnField<C> sums;       // of other axes, added before the division, or after it if divided_alone
    ColumnField<C> reciprocal; // a factor; a negative one marks where there is no support, if there is trust
    ColumnField<C> trust;      // what x is multiplied by
    bool centre;               // counts, which sums may hold already
    bool divided_alone, residual;
    C fill;
};

/// Lines side by side in memory, at least kRows of them.
template <class C> struct ColumnLines {
    const void* x;     // step 0 of the first line
    std::int64_t step; // elements from step to step
    std::int64_t steps, width, width_pitch;
    std::int64_t ahead; // elements from x to what is needed soon
    const C* links;     // [steps + 1][pitch], or [steps + 1] where the lines share their weights
    std::int64_t pitch;
    C* forward;                // [.][width_pitch] F before every `deep` steps; for scans two rows by turns
    C* backward;               // [2][width_pitch] B after the steps k deep in row k % 2
    C* y;                      // [kRows][width] the result of up to kRows steps
    const void* written;       // where its first row goes soon, if that is to be asked for, else null
    std::int64_t written_step; // elements
    bool cuts, shared, reverse;
    const ColumnFinish<C>* finish; // of the filter, or null
    bool one_value;                // x is one number for all lines; only where there is a finish, and no residual
};

/// (4) and (5) from memory to memory, by the dtype of x.
template <class C> struct LineKernels {
    int deep;
    /// tile[i][k] = source[i * step + offsets[k]] for kRows lines, rows `pitch` apart, by the dtype of the source; the
    /// tile has kRows rows at least. Returns whether one of them is 0.
    bool (*load_lines[4])(C* tile, std::int64_t pitch, const void* source, const std::int64_t* offsets,
                          std::int64_t steps, std::int64_t step, bool readable_beyond);
    /// Only what flows out at the end.
    void (*carry_rows[4])(const RowLines<C>& lines);
    void (*filter_rows[4])(const RowLines<C>& lines);
    void (*scan_rows[4])(const RowLines<C>& lines);
    void (*carry_columns[4])(const ColumnLines<C>& lines);
    void (*filter_columns[4])(const ColumnLines<C>& lines, std::int64_t from, std::int64_t steps);
    void (*scan_columns[4])(const ColumnLines<C>& lines, std::int64_t from, std::int64_t steps);
    /// y[offsets[r] + j] = rows[r][j], by the dtype of y; past the caches if `stream`.
    void (*write_rows[4])(const C* rows, std::int64_t count, std::int64_t width, void* y, const std::int64_t* offsets,
                          bool stream);
    /// Before other threads may read what was written past the caches.
    void (*finish_writes)();
};

/// Derivatives (11).
template <class C> struct BackwardKernels {
    /// p and q become, in fp and fq, the terms of (5) as line_terms finds them; row i + 1 of w_bar, the edge that
    /// leaves step i, gets F_i(p) B_{i+1}(q) + F_i(q) B_{i+1}(p) added. before and after as in line_terms.
    void (*line_gradient)(C* fp, C* fq, C* w_bar, const C* p, const C* q, const C* w, std::int64_t steps,
                          const C* before_p, const C* before_q, C* after_p, C* after_q);
    /// q becomes its reverse scan B(q); row i + 1 of w_bar gets F_i(p) B_{i+1}(q) added; fp is scratch.
    void (*scan_gradient)(C* fp, C* q, C* w_bar, const C* p, const C* w, std::int64_t steps, const C* before_p,
                          C* after_q);
    void (*multiply_add)(C* sum, const C* x, const C* y, std::int64_t count);
    /// s becomes -s times the reciprocal support; 0 where that is marked.
    void (*support_gradient)(C* s, const C* reciprocal, std::int64_t count);
    /// d, as accumulate_distance leaves it, becomes d_bar times what the slope of the distance has in common for all
    /// channels. `rounded`: the weights were rounded to float. Derivatives by scale and step are added to kLanes sums.
    void (*distance_gradient[3])(C* d, const C* w_bar, std::int64_t count, C step_length, C scale, bool rounded,
                                 C* scale_bar, C* step_bar);
    /// g_bar from what distance_gradient left for the edges that enter and leave each node, 0 where there is none.
    void (*difference_gradient[3])(C* g_bar, const C* before, const C* g, const C* after, const C* entering,
                                   const C* leaving, std::int64_t count);
};

constexpr int kGradientLanes = 16; // planes that share their weights, side by side: the channels of one position
constexpr int kGradientRows = 8;   // rows that are differentiated together

/// Rows of up to kGradientLanes planes in memory, strides in elements.
struct GradientPlanes {
    void* data;
    std::int64_t row_stride, column_stride;
    const std::int64_t* offsets; // of each plane
    int lanes;
};

/// A block of rows of planes that lie side by side: every position is kGradientLanes values, and has one number for
/// each kind of weight.
template <class C> struct GradientBlock {
    std::int64_t rows, width, pitch; // pitch: positions from row to row of x, z and terms
    const C* x;                      // [kGradientRows][pitch], 0 beyond rows
    const C* z;                      // likewise: what flows back
    const C* down;                   // [kGradientRows + 1][width], row i the weights that enter row i
    const C* across;                 // [rows][width + 1], those that enter column j; 0 at both ends
    C *above_x, *above_z;            // [width] F of the row above; left as the next block needs it
    const C *below_x, *below_z;      // [width] B of the row below
    C *terms_x, *terms_z;            // [kGradientRows][pitch]; terms_z becomes the derivative
    C *across_sums, *down_sums;      // [rows][width] += derivative by the edge that leaves each position; or null
    C* support_sums;                 // [rows][width] += sum of z times the line filters of x; or null
    C* columns;                      // scratch, [width, in whole vectors]
    bool cuts;                       // some weight is 0
    RowsAhead written;               // where the derivative goes
};

/// B of the first row of a block, of one of x and z: all that the blocks above need of it.
template <class C> struct GradientClimb {
    std::int64_t rows, width;
    const C* down; // as in GradientBlock
    bool cuts;
    const C* factors; // [rows][width], what values in memory are multiplied by, or null; as load takes them
    bool masked;
    const C* below; // [width] positions: B of the row below
    C* first;       // [width]
    C* carry;       // what climb_planes hands from block to block, [width + kGradientLanes], 0 at first
};

/// Derivatives (11) of both axes of planes side by side.
template <class C> struct LanesBackwardKernels {
    /// rows[r][j], of `pitch` positions, for `count` rows, 0 for the others of a block and for lanes that are not
    /// there. Times factors[r][j], of `width`, if given; `masked`: a factor of 0 gives 0.
    void (*load[4])(C* rows, std::int64_t pitch, const GradientPlanes& from, std::int64_t count, std::int64_t width,
                    const C* factors, bool masked);
    void (*store[4])(const C* rows, std::int64_t pitch, const GradientPlanes& to, std::int64_t count,
                     std::int64_t width);
    /// Straight from memory, if that serves; false, and nothing done, where it does not.
    bool (*climb_planes[4])(const GradientClimb<C>& climb, const GradientPlanes& planes);
    /// From rows that `load` left.
    void (*climb)(const GradientClimb<C>& climb, const C* rows, std::int64_t pitch);
    void (*differentiate)(const GradientBlock<C>& block);
    /// sums[r][j] += sum over lanes of x y.
    void (*dot)(C* sums, const C* x, const C* y, std::int64_t pitch, std::int64_t count, std::int64_t width);
    /// (8) u becomes c u, c one number for each position, or null; y, or null, is added where c is not 0.
    void (*finish)(C* u, const C* c, const C* y, std::int64_t pitch, std::int64_t count, std::int64_t width);
};

template <class C> struct Kernels {
    ConvertKernels<C> convert;
    ScanKernels<C> scan;
    PointwiseKernels<C> pointwise;
    WeightKernels<C> weight;
    PlaneKernels<C> plane;
    ImageKernels<C> image;
    LanesKernels<C> lanes, few_lanes;
    BackwardKernels<C> backward;
    LanesBackwardKernels<C> lanes_backward;
    LineKernels<C> line;
};

/// The kernels of the active instruction set.
template <class C> const Kernels<C>& kernels();

#define SGS_DECLARE_KERNELS(isa)                                                                                       \
    namespace isa {                                                                                                    \
    extern const ConvertKernels<float> convert_float;                                                                  \
    extern const ConvertKernels<double> convert_double;                                                                \
    extern const ScanKernels<float> scan_float;                                                                        \
    extern const ScanKernels<double> scan_double;                                                                      \
    extern const PointwiseKernels<float> pointwise_float;                                                              \
    extern const PointwiseKernels<double> pointwise_double;                                                            \
    extern const WeightKernels<float> weight_float;                                                                    \
    extern const WeightKernels<double> weight_double;                                                                  \
    extern const PlaneKernels<float> plane_float;                                                                      \
    extern const PlaneKernels<double> plane_double;                                                                    \
    extern const ImageKernels<float> image_float;                                                                      \
    extern const ImageKernels<double> image_double;                                                                    \
    extern const LanesKernels<float> lanes_float;                                                                      \
    extern const LanesKernels<double> lanes_double;                                                                    \
    extern const LanesKernels<float> few_lanes_float;                                                                  \
    extern const LanesKernels<double> few_lanes_double;                                                                \
    extern const BackwardKernels<float> backward_float;                                                                \
    extern const BackwardKernels<double> backward_double;                                                              \
    extern const LanesBackwardKernels<float> lanes_backward_float;                                                     \
    extern const LanesBackwardKernels<double> lanes_backward_double;                                                   \
    extern const LineKernels<float> line_float;                                                                        \
    extern const LineKernels<double> line_double;                                                                      \
    }
#if defined(__x86_64__)
SGS_DECLARE_KERNELS(v2)
SGS_DECLARE_KERNELS(v3)
SGS_DECLARE_KERNELS(v4)
#else
SGS_DECLARE_KERNELS(generic)
#endif

} // namespace sgs
