// Python arguments as views: an ndarray, or (address, dtype code, shape, strides in elements) for what lives elsewhere.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

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

inline std::optional<AnyView> to_view_or_null(pybind11::handle object) {
    if (object.is_none()) return std::nullopt;
    return to_view(object);
}

} // namespace sgs::python
