// scan, line_filter and the paper's tree (4) to (6): ranges of the same two walks along each line.
#include "lines.cuh"

namespace sgs::cuda {

namespace {

std::size_t run_along(const AnyView& x, const AnyView& w, const AnyView& y, int axis, const Ranges& ranges,
                      const AnyView* left, const AnyView* right, std::int64_t update_root, void* stream,
                      const Workspace* workspace) {
    return run(stream, workspace, [&](Queue& queue) {
        if (x.size() == 0) return;
        Epilogue epilogue;
        epilogue.with_source = update_root < 0; // the walk from the root gives the result itself
        with_compute_type(x.dtype, [&](auto zero) {
            using C = decltype(zero);
            run_lines<C>(queue, x, axis, Source{&x, nullptr}, w, y, ranges, epilogue, left, right, update_root);
        });
    });
}

} // namespace

std::size_t scan(const AnyView& x, const AnyView& w, const AnyView& y, int axis, bool reverse, const AnyView* initial,
                 void* stream, const Workspace* workspace) {
    const std::int64_t n = x.shape[axis];
    const Ranges ranges = reverse ? Ranges{0, 0, 0, n} : Ranges{0, n, 0, 0};
    return run_along(x, w, y, axis, ranges, reverse ? nullptr : initial, reverse ? initial : nullptr, -1, stream,
                     workspace);
}

std::size_t line_filter(const AnyView& x, const AnyView& w, const AnyView& y, int axis, const AnyView* left,
                        const AnyView* right, void* stream, const Workspace* workspace) {
    const std::int64_t n = x.shape[axis];
    return run_along(x, w, y, axis, {0, n, 0, n}, left, right, -1, stream, workspace);
}

std::size_t tree_aggregate(const AnyView& x, const AnyView& w, const AnyView& y, int axis, std::int64_t root,
                           void* stream, const Workspace* workspace) {
    const std::int64_t n = x.shape[axis];
    return run_along(x, w, y, axis, {0, root + 1, root, n}, nullptr, nullptr, -1, stream, workspace);
}

std::size_t tree_update(const AnyView& a, const AnyView& w, const AnyView& y, int axis, std::int64_t root, void* stream,
                        const Workspace* workspace) {
    const std::int64_t n = a.shape[axis];
    return run_along(a, w, y, axis, {root, n, 0, root}, nullptr, nullptr, root, stream, workspace);
}

} // namespace sgs::cuda
