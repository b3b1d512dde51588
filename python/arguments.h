// Python arguments as views: an ndarray, or (address, dtype code, shape, strides in elements) for what lives elsewhere.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <memory>
#include <new>
#include <optional>

#include "sgs.h"

namespace sgs::python {

inline DType dtype_of_array(const pybind11::array& a) {
    switch (a.dtype().char_()) {
    case 'f': return DType::float32;
    case 'd': return DType::float64;
    case 'e': return DType::float16;
    default: break;
    }
    // ml_dtypes.bfloat16 is a user-defined type, known by its name alone.
    if (a.dtype().attr("name").cast<std::string>() == "bfloat16") return DType::bfloat16;
    throw pybind11::type_error("expected float16, bfloat16, float32 or float64 in native byte order, got " +
                               pybind11::str(a.dtype()).cast<std::string>());
}

/// The numbers of a sequence, and how many they are; by Python's own functions, in a third of pybind's time.
inline int integers(pybind11::handle numbers, std::array<std::int64_t, kMaxDims>& to) {
    const auto sequence = pybind11::reinterpret_steal<pybind11::object>(
        PySequence_Fast(numbers.ptr(), "expected a sequence of lengths or strides"));
    if (!sequence) throw pybind11::error_already_set();
    const Py_ssize_t count = PySequence_Fast_GET_SIZE(sequence.ptr());
    if (count > kMaxDims)
        throw pybind11::value_error("at most 32 dimensions are supported, got " + std::to_string(count));
    for (Py_ssize_t d = 0; d < count; ++d)
        to[static_cast<std::size_t>(d)] = PyLong_AsLongLong(PySequence_Fast_GET_ITEM(sequence.ptr(), d));
    if (PyErr_Occurred() != nullptr) throw pybind11::error_already_set();
    return static_cast<int>(count);
}

inline AnyView to_view(pybind11::handle object) {
    AnyView v;
    if (pybind11::isinstance<pybind11::array>(object)) {
        const auto a = pybind11::reinterpret_borrow<pybind11::array>(object);
        if (a.ndim() > kMaxDims)
            throw pybind11::value_error("at most 32 dimensions are supported, got " + std::to_string(a.ndim()));
        v.dtype = dtype_of_array(a);
        v.data = const_cast<void*>(a.data());
        v.ndim = static_cast<int>(a.ndim());
        for (int d = 0; d < v.ndim; ++d) {
            v.shape[d] = a.shape(d);
            v.strides[d] = a.strides(d) / static_cast<pybind11::ssize_t>(item_size(v.dtype));
        }
        return v;
    }
    const auto t = object.cast<pybind11::tuple>();
    v.data = reinterpret_cast<void*>(t[0].cast<std::uintptr_t>()); // NOLINT: an address is what was handed over
    v.dtype = static_cast<DType>(t[1].cast<int>());
    v.ndim = integers(t[2], v.shape);
    if (integers(t[3], v.strides) != v.ndim) throw pybind11::value_error("expected as many strides as lengths");
    return v;
}

/// The view with an axis of length 1 in front.
inline AnyView with_front(const AnyView& v) {
    if (v.ndim == kMaxDims) throw pybind11::value_error("at most 31 dimensions are supported, got 32");
    AnyView w = v;
    std::copy_n(v.shape.begin(), v.ndim, w.shape.begin() + 1);
    std::copy_n(v.strides.begin(), v.ndim, w.strides.begin() + 1);
    w.shape[0] = 1;
    w.strides[0] = 0;
    w.ndim = v.ndim + 1;
    return w;
}

/// The view without its first axis, which has length 1.
inline AnyView without_front(const AnyView& v) {
    AnyView w = v;
    std::copy_n(v.shape.begin() + 1, v.ndim - 1, w.shape.begin());
    std::copy_n(v.strides.begin() + 1, v.ndim - 1, w.strides.begin());
    w.ndim = v.ndim - 1;
    return w;
}

struct Free {
    void operator()(void* p) const { ::operator delete(p, std::align_val_t{64}); }
};
using Scratch = std::unique_ptr<void, Free>;

/// Uninitialised memory that v, whose shape and dtype are set, is made the contiguous view of.
inline Scratch own_memory(AnyView& v) {
    std::int64_t size = 1;
    for (int d = v.ndim - 1; d >= 0; --d) {
        v.strides[d] = size;
        size *= std::max<std::int64_t>(v.shape[d], 1);
    }
    Scratch memory(::operator new(static_cast<std::size_t>(size) * item_size(v.dtype), std::align_val_t{64}));
    v.data = memory.get();
    return memory;
}

inline std::optional<AnyView> to_view_or_null(pybind11::handle object) {
    if (object.is_none()) return std::nullopt;
    return to_view(object);
}

} // namespace sgs::python
