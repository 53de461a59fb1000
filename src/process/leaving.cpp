#include "process/leaving.h"

namespace fl_sim {

std::atomic<std::atomic<int32_t>*> own_left{nullptr};
static_assert(std::atomic<int32_t>::is_always_lock_free);

void leave_roll() {
  if (std::atomic<int32_t>* left = own_left; left != nullptr) *left = 1;
}

}  // namespace fl_sim
