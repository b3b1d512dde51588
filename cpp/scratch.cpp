#include "scratch.h"

#include <algorithm>
#include <mutex>
#include <new>
#include <vector>

#include "large_pages.h"
#include "parallel.h"

namespace sgs {
namespace {

constexpr std::align_val_t kAlignment{64};
constexpr std::size_t kLeast = 1 << 10; // bytes of a block that is kept here
constexpr std::size_t kMostBlocks = 256;

void release(ScratchBlock block) noexcept { ::operator delete(block.data, kAlignment); }

// What was given back, the oldest first. An allocator gives blocks of this size back to the system, which clears every
// page before it hands it out again: that takes longer than to filter a map of middle size.
class Kept {
  public:
    Kept() { blocks_.reserve(kMostBlocks); }

    /// The smallest block that is large enough and not much larger, or none.
    ScratchBlock take(std::size_t bytes) {
        const std::lock_guard lock(mutex_);
        auto best = blocks_.end();
        for (auto b = blocks_.begin(); b != blocks_.end(); ++b)
            if (b->bytes >= bytes && b->bytes <= 2 * bytes && (best == blocks_.end() || b->bytes < best->bytes))
                best = b;
        if (best == blocks_.end()) return {};
        const ScratchBlock block = *best;
        total_ -= block.bytes;
        blocks_.erase(best);
        return block;
    }

    void put(ScratchBlock block) noexcept {
        const std::lock_guard lock(mutex_);
        if (block.bytes > limit_) {
            release(block);
            return;
        }
        shrink(limit_ - block.bytes, kMostBlocks - 1);
        blocks_.push_back(block);
        total_ += block.bytes;
    }

    void set_limit(std::size_t bytes) {
        const std::lock_guard lock(mutex_);
        limit_ = bytes;
        shrink(bytes, kMostBlocks);
    }

  private:
    void shrink(std::size_t bytes, std::size_t count) noexcept {
        auto end = blocks_.begin();
        for (; total_ > bytes || static_cast<std::size_t>(blocks_.end() - end) > count; ++end) {
            total_ -= end->bytes;
            release(*end);
        }
        blocks_.erase(blocks_.begin(), end);
    }

    std::mutex mutex_;
    std::vector<ScratchBlock> blocks_;
    std::size_t total_ = 0, limit_ = std::size_t{1} << 26;
};

Kept& kept() {
    static Kept& all = *new Kept; // threads may still give back while the process ends
    return all;
}

// In a forked child another thread's lock would be held for ever.
bool worth_keeping(std::size_t bytes) { return bytes >= kLeast && !forked(); }

} // namespace

ScratchBlock take_scratch(std::size_t bytes) {
    if (worth_keeping(bytes))
        if (const ScratchBlock block = kept().take(bytes); block.data != nullptr) return block;
    void* const data = ::operator new(bytes, kAlignment);
    prefer_large_pages(data, bytes);
    return {data, bytes};
}

void give_back_scratch(ScratchBlock block) noexcept {
    if (worth_keeping(block.bytes))
        kept().put(block);
    else
        release(block);
}

void keep_scratch(std::size_t bytes) {
    if (!forked()) kept().set_limit(bytes);
}

} // namespace sgs
