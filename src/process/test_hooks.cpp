#include "process/test_hooks.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <sstream>
#include <string>
#include <thread>

#include "base/check.h"
#include "process/interruption.h"

namespace fl_sim {
namespace {

TestHooks parse() {
  TestHooks hooks;
  const char* text = std::getenv("FL_SIM_TEST");
  std::istringstream in(text ? text : "");
  std::string item;
  while (std::getline(in, item, ',')) {
    char colon = 0;
    std::istringstream value(item.substr(std::min(item.size(), item.find('=') + 1)));
    bool understood = true;
    if (item.starts_with("delay=")) {
      understood = static_cast<bool>(value >> hooks.delay_ms);
    } else if (item.starts_with("hold=")) {
      understood = static_cast<bool>(value >> hooks.hold_round >> colon) &&
                   std::getline(value, hooks.hold_file);
    } else if (item == "deal=random") {
      hooks.random_deal = true;
    } else if (item == "no-window") {
      hooks.no_window = true;
    } else if (item.starts_with("slow-disk=")) {
      understood = static_cast<bool>(value >> hooks.slow_disk_ms);
    } else if (item.starts_with("machines=")) {
      understood = static_cast<bool>(value >> hooks.machines);
    } else {
      understood = false;
    }
    FL_CHECK(understood, "the environment variable FL_SIM_TEST has an item '", item,
             "' that no test hook understands");
  }
  return hooks;
}

}  // namespace

const TestHooks& TestHooks::get() {
  static const TestHooks hooks = parse();
  return hooks;
}

void TestHooks::disturb() const {
  if (delay_ms == 0) return;
  static std::mt19937 generator{std::random_device{}()};  // true chance: no stream of the run
  std::this_thread::sleep_for(
      std::chrono::milliseconds(std::uniform_int_distribution<int64_t>(0, delay_ms)(generator)));
}

void TestHooks::hold(int64_t round) const {
  if (hold_round == 0) return;
  while (round >= hold_round && !Interruption::get().requested() &&
         std::filesystem::exists(hold_file)) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    Interruption::get().at_step();
  }
}

}  // namespace fl_sim
