// Which fl_sim this is, where it runs, and when.
#pragma once

#include <string>

namespace fl_sim {

std::string version();    // "0.2.0 (git revision)"
std::string headers();    // what tells apart two states of the headers that plug-ins include
std::string utc_now();    // "2026-11-21T18:20:00Z"
std::string host_name();  // of this machine

}  // namespace fl_sim
