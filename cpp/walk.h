// Walks along the lines of one tile, in chunks of kSteps, for lines of any length.
#pragma once

#include <algorithm>
#include <vector>

#include "lines.h"
#include "parallel.h"

namespace sgs {

/// Scratch of one thread for walks along lines of up to `steps` elements.
template <class C> struct WalkScratch {
    explicit WalkScratch(std::int64_t steps) : carries((steps + kSteps - 1) / kSteps * kLanes) {}
    /// For lines so long that one takes seconds.
    void check_cancelled() const { cancel->check(worker); }

    CancelFlag* cancel = nullptr;
    int worker = 0;
    Buffer<C> x{kTileSize}, w{kTileSize}, terms{kTileSize}, side{kTileSize};
    Buffer<C> carries; // F before each chunk
    alignas(64) C forward[kLanes], backward[kLanes];
};

/// What flows into one end of the lines: `initial` if there is one, else 0.
template <class C> void load_initial(C* carry, const Lines& lines, const AnyView* initial, std::int64_t tile) {
    std::fill_n(carry, kLanes, C(0));
    if (initial != nullptr) load(carry, Strand(lines, *initial, tile), 0, 1);
}

/// (4) from step 0 to the last; carry comes in as what flows into step 0 and goes out as F of the last.
/// load_x(first, steps) fills s.x.
template <class C, class LoadX>
void walk_scan(std::int64_t n, const LoadX& load_x, const Strand& w, const Strand& y, C* carry, WalkScratch<C>& s) {
    for (std::int64_t first = 0; first < n; first += kSteps) {
        const std::int64_t steps = std::min<std::int64_t>(kSteps, n - first);
        s.check_cancelled();
        load_links(s.w.get(), w, first, steps, n);
        load_x(first, steps);
        kernels<C>().scan.scan(s.x.get(), s.w.get(), steps, carry);
        store(s.x.get(), y, first, steps);
    }
}

/// (5) the support that reaches each step from both sides: finish(first, steps) finds w F + w B, with the centre plus
/// x, in s.terms and x in s.x. s.forward and s.backward hold what flows into the two ends. Chunks are finished last to
/// first, so that y may be x; where there are several, a first walk leaves F before each, and x is read twice rather
/// than F kept for the whole line. `linked` says that an edge follows step n - 1, which s.backward is still to cross.
template <class C, class LoadX, class Finish> void walk_line(std::int64_t n, bool linked, bool centre,
                                                             const LoadX& load_x, const Strand& w, WalkScratch<C>& s,
                                                             const Finish& finish) {
    const std::int64_t chunks = (n + kSteps - 1) / kSteps;
    const std::int64_t edges = linked ? n + 1 : n;
    for (std::int64_t k = 0; k < chunks; ++k) {
        std::copy_n(s.forward, kLanes, s.carries.get() + k * kLanes);
        if (k + 1 == chunks) break;
        s.check_cancelled();
        load_links(s.w.get(), w, k * kSteps, kSteps, edges);
        load_x(k * kSteps, kSteps);
        kernels<C>().scan.scan_carry(s.x.get(), s.w.get(), kSteps, s.forward);
    }
    for (std::int64_t k = chunks - 1; k >= 0; --k) {
        const std::int64_t first = k * kSteps;
        const std::int64_t steps = std::min<std::int64_t>(kSteps, n - first);
        s.check_cancelled();
        load_links(s.w.get(), w, first, steps, edges);
        load_x(first, steps);
        kernels<C>().scan.line_terms(s.terms.get(), s.x.get(), s.w.get(), steps, s.carries.get() + k * kLanes,
                                     s.backward, centre);
        finish(first, steps);
    }
}

/// One scratch for each worker of a parallel_for over `tasks`.
template <class C> class Scratches {
  public:
    Scratches(std::int64_t tasks, std::int64_t steps, const Options& options)
        : cancel_(options), all_(tasks, options, steps) {
        for (int k = 0; k < all_.count(); ++k) {
            all_[k].cancel = &cancel_;
            all_[k].worker = k;
        }
    }
    WalkScratch<C>& operator[](int worker) const { return all_[worker]; }

  private:
    CancelFlag cancel_;
    PerWorker<WalkScratch<C>> all_;
};

} // namespace sgs
