// How a rank says on its machine's roll (see Roll) that it ends by itself, and with words of its
// own: nobody is to miss it.
#pragma once

#include <atomic>
#include <cstdint>

namespace fl_sim {

// Where it says so: 1. Null: on no roll.
extern std::atomic<std::atomic<int32_t>*> own_left;

// Any thread, and handlers of signals.
void leave_roll();

}  // namespace fl_sim
