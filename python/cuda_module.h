#pragma once

#include <pybind11/pybind11.h>

/// Adds the submodule `cuda`.
void bind_cuda(pybind11::module_& m);
