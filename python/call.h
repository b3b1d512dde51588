// A call into the core: without the interpreter's lock, and with Ctrl-C.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>

#include "sgs.h"

namespace sgs::python {

/// True once a signal handler raised (Ctrl-C); runs on the thread that called.
inline bool interrupted(void*) {
    const pybind11::gil_scoped_acquire lock;
    return PyErr_CheckSignals() != 0;
}

template <class F> void call(int num_threads, const F& f) {
    const Options options{num_threads, interrupted, nullptr};
    try {
        const pybind11::gil_scoped_release unlock;
        f(options);
    } catch (const Cancelled&) {
        throw pybind11::error_already_set();
    }
}

inline const AnyView* pointer(const std::optional<AnyView>& v) { return v ? &*v : nullptr; }

} // namespace sgs::python
