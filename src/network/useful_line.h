// What LibTorch's exceptions say, in one line.
#pragma once

#include <exception>
#include <string>

namespace fl_sim {

// The line of an exception's text that says what is wrong. LibTorch adds places in its own source,
// TorchScript a trace of the module's.
std::string useful_line(const std::exception& error);
std::string useful_line(const std::string& text);

}  // namespace fl_sim
