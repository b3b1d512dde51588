#pragma once

#include <pybind11/pybind11.h>

namespace sgs::python {

/// Adds the derivatives to the module.
void bind_backward(pybind11::module_& m);

} // namespace sgs::python
