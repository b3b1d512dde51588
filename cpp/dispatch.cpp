// Which instruction set runs: the best that this processor has, or the one that SGS_ISA or set_isa names.
#include <atomic>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "kernels.h"

namespace sgs {
namespace {

struct InstructionSet {
    const char* name;
    bool (*runs_here)();
    Kernels<float> f32;
    Kernels<double> f64;
};

#define SGS_INSTRUCTION_SET(name, isa, runs_here)                                                                      \
    InstructionSet {                                                                                                   \
        name, runs_here, {isa::convert_float,  isa::scan_float,           isa::pointwise_float, isa::weight_float,     \
                          isa::plane_float,    isa::image_float,          isa::lanes_float,     isa::few_lanes_float,  \
                          isa::backward_float, isa::lanes_backward_float, isa::line_float},                            \
            {isa::convert_double,  isa::scan_double,           isa::pointwise_double, isa::weight_double,              \
             isa::plane_double,    isa::image_double,          isa::lanes_double,     isa::few_lanes_double,           \
             isa::backward_double, isa::lanes_backward_double, isa::line_double},                                      \
    }

// Best first.
const InstructionSet instruction_sets[] = {
#if defined(__x86_64__)
    SGS_INSTRUCTION_SET("x86-64-v4", v4, [] { return __builtin_cpu_supports("x86-64-v4") != 0; }),
    SGS_INSTRUCTION_SET("x86-64-v3", v3, [] { return __builtin_cpu_supports("x86-64-v3") != 0; }),
    SGS_INSTRUCTION_SET("x86-64-v2", v2, [] { return __builtin_cpu_supports("x86-64-v2") != 0; }),
#else
    SGS_INSTRUCTION_SET("generic", generic, [] { return true; }),
#endif
};

// "v3" is short for "x86-64-v3".
const InstructionSet* find(std::string_view name) {
    for (const InstructionSet& set : instruction_sets) {
        const std::string_view full = set.name;
        constexpr std::string_view family = "x86-64-";
        const bool is_short = full.starts_with(family) && full.substr(family.size()) == name;
        if ((full == name || is_short) && set.runs_here()) return &set;
    }
    return nullptr;
}

const InstructionSet* initial() {
    if (const char* wanted = std::getenv("SGS_ISA"))
        if (const InstructionSet* set = find(wanted)) return set; // else the bindings warn
    for (const InstructionSet& set : instruction_sets)
        if (set.runs_here()) return &set;
    return &instruction_sets[std::size(instruction_sets) - 1];
}

std::atomic<const InstructionSet*>& active() {
    static std::atomic<const InstructionSet*> set{initial()};
    return set;
}

} // namespace

template <> const Kernels<float>& kernels<float>() { return active().load(std::memory_order_relaxed)->f32; }
template <> const Kernels<double>& kernels<double>() { return active().load(std::memory_order_relaxed)->f64; }

std::span<const char* const> available_isas() {
    static const std::vector<const char*> names = [] {
        std::vector<const char*> out;
        for (const InstructionSet& set : instruction_sets)
            if (set.runs_here()) out.push_back(set.name);
        return out;
    }();
    return names;
}

const char* get_isa() { return active().load()->name; }

bool set_isa(const char* name) {
    const InstructionSet* set = find(name);
    if (set == nullptr) return false;
    active() = set;
    return true;
}

} // namespace sgs
