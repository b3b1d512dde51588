// Memory that a call takes for itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace sgs {

/// Aligned for whole vectors.
struct ScratchBlock {
    void* data;
    std::size_t bytes; // at least what was asked for
};
ScratchBlock take_scratch(std::size_t bytes);
void give_back_scratch(ScratchBlock block) noexcept;

/// How many bytes that were given back are kept for later calls, at most.
void keep_scratch(std::size_t bytes);

/// Uninitialised memory.
template <class T> class Buffer {
  public:
    Buffer() = default;
    explicit Buffer(std::int64_t count) : Buffer(take_scratch(static_cast<std::size_t>(count) * sizeof(T))) {}
    T* get() const { return data_.get(); }

  private:
    struct GiveBack {
        std::size_t bytes = 0;
        void operator()(T* data) const { give_back_scratch({data, bytes}); }
    };
    explicit Buffer(ScratchBlock block) : data_(static_cast<T*>(block.data), GiveBack{block.bytes}) {}
    std::unique_ptr<T, GiveBack> data_;
};

} // namespace sgs
