// Lines of a tile in shared memory, cut into parts: a thread holds one part of one line in registers, so that all
// threads of a block walk at a time, and no load waits for a store to shared memory. First each part is walked as if
// nothing flowed in; then every thread joins what the parts before and behind its own let through, and walks again.
#pragma once

#include "device.cuh"

namespace sgs::cuda {

constexpr int kPart = 20; // elements of a part at most
constexpr int kGroup = 4; // of them, that are looked at together

/// f(k) for the elements of a part, in order or from the last one back; whole groups without asking for each element.
template <class F> __device__ inline void ascending(int length, const F& f) {
    SGS_UNROLL_ALL
    for (int group = 0; group < kPart; group += kGroup) {
        if (group >= length) break;
        const bool whole = group + kGroup <= length;
        SGS_UNROLL_ALL
        for (int k = group; k < group + kGroup; ++k)
            if (whole || k < length) f(k);
    }
}
template <class F> __device__ inline void descending(int length, const F& f) {
    SGS_UNROLL_ALL
    for (int group = kPart - kGroup; group >= 0; group -= kGroup) {
        if (group >= length) continue;
        const bool whole = group + kGroup <= length;
        SGS_UNROLL_ALL
        for (int k = group + kGroup - 1; k >= group; --k)
            if (whole || k < length) f(k);
    }
}

/// Elements of one line and the weights of the edges that enter them.
template <class C> struct Part {
    int length = 0;
    C values[kPart], edges[kPart];
};

/// What a part makes of what flows in: F of its last element (4), what its first hands on to the element before it,
/// both as if nothing flowed in, and how much of it gets through (3), which is the same both ways.
template <class C> struct Passage {
    C forward = C(0), backward = C(0);
    Reach<C> reach;
};

/// w f, on a part without cut edges or on any.
template <bool uncut, class C> __device__ inline C crossing(C w, C f) { return uncut ? w * f : carried(w, f); }

/// at(k, what reaches element k from before); f is F before the part. Returns F of the last element (4).
template <bool uncut, class C, class At> __device__ inline C walk_forward(const Part<C>& part, C f, const At& at) {
    ascending(part.length, [&](int k) {
        const C term = crossing<uncut>(part.edges[k], f);
        at(k, term);
        f = part.values[k] + term;
    });
    return f;
}

/// at(k, what reaches element k from behind), `term` the last one. Returns what reaches the element before the part.
template <bool uncut, class C, class At> __device__ inline C walk_backward(const Part<C>& part, C term, const At& at) {
    descending(part.length, [&](int k) {
        at(k, term);
        term = crossing<uncut>(part.edges[k], part.values[k] + term);
    });
    return term;
}

/// Whether a product of weights of at most 1 is what it should be: nothing is cut, and it did not vanish.
template <class C> __device__ inline bool is_plain(C product) {
    return product >= least_support<C>() && isfinite(product);
}

/// uncut: whether the quick walks may be taken.
template <class C> __device__ inline Passage<C> passage_of(const Part<C>& part, bool& uncut) {
    C product = C(1);
    ascending(part.length, [&](int k) { product *= part.edges[k]; });
    uncut = is_plain(product);
    const auto nothing = [](int, C) {};
    Passage<C> passage;
    if (uncut) {
        passage.forward = walk_forward<true>(part, C(0), nothing);
        passage.backward = walk_backward<true>(part, C(0), nothing);
        passage.reach.fraction = product;
    } else {
        passage.forward = walk_forward<false>(part, C(0), nothing);
        passage.backward = walk_backward<false>(part, C(0), nothing);
        ascending(part.length, [&](int k) { extend(passage.reach, part.edges[k]); });
    }
    return passage;
}

/// Passages of all parts of a tile's lines, in shared memory: part after part, in each line after line.
template <class C> struct Passages {
    C *forward, *backward, *fractions;
    int* exponents;
    int lines, count; // count: parts of a line

    __device__ Passages(void* memory, int capacity, int lines_, int count_)
        : forward(static_cast<C*>(memory)), backward(forward + capacity), fractions(backward + capacity),
          exponents(reinterpret_cast<int*>(fractions + capacity)), lines(lines_), count(count_) {}

    __device__ void put(int part, int line, const Passage<C>& passage) const {
        const int at = part * lines + line;
        forward[at] = passage.forward;
        backward[at] = passage.backward;
        fractions[at] = passage.reach.fraction;
        exponents[at] = passage.reach.exponent;
    }
    __device__ Reach<C> reach(int at) const { return Reach<C>{fractions[at], exponents[at]}; }

    /// F before a part, `in` being F before the line.
    __device__ C before(int part, int line, C in) const {
        SGS_UNROLL_NOT // a few parts, and the rare way through one is long
            for (int at = line; at < part * lines + line; at += lines) in = forward[at] + through(reach(at), in);
        return in;
    }
    /// What reaches the last element of a part from behind, `in` being what reaches the last one of the line.
    __device__ C behind(int part, int line, C in) const {
        SGS_UNROLL_NOT
        for (int at = (count - 1) * lines + line; at > part * lines + line; at -= lines)
            in = backward[at] + through(reach(at), in);
        return in;
    }
    /// Of the whole line.
    __device__ Passage<C> joined_line(int line) const {
        Passage<C> whole;
        whole.forward = before(count, line, C(0));
        whole.backward = behind(-1, line, C(0));
        for (int at = line; at < count * lines; at += lines) whole.reach = joined(whole.reach, reach(at));
        return whole;
    }
};

/// Bytes of the passages of so many parts.
template <class C> constexpr std::int64_t passage_bytes(std::int64_t parts) {
    return parts * static_cast<std::int64_t>(3 * sizeof(C) + sizeof(int));
}

} // namespace sgs::cuda
