// The binding of cuda/ as a module of its own, for an emulated device: Python, pointers and launchers as they really
// are.
#include <pybind11/pybind11.h>

#include "cuda_emulation.h"

void bind_cuda(pybind11::module_& m);

PYBIND11_MODULE(SGS_MODULE, m) {
    bind_cuda(m);
    m.def("set_order", &emulation::set_order);
    m.def("set_shared_limit", &emulation::set_shared_limit);
    m.def("launches", &emulation::launches);
}
