// Characters as small numbers, for models that predict the next one.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace fl_sim {

// The character set of TensorFlow Federated's text tutorials: 86 characters and what frames a text.
namespace tff_text {
constexpr uint8_t kPad = 0;  // 1 to 86 are characters
constexpr uint8_t kBegin = 87, kEnd = 88, kUnknown = 89;
constexpr int64_t kVocabulary = 90;
constexpr int64_t kLength = 80;  // positions of a window

// A snippet's windows of kLength + 1 numbers, one behind the other: begin, the characters, end,
// padding. Position t's label is what stands at t + 1. Windows with nothing to predict (their
// second number is padding already) are left out.
void append_windows(std::string_view snippet, std::vector<uint8_t>& windows);
}  // namespace tff_text

// LEAF's 80 characters: a character's place, or -1.
namespace leaf_text {
constexpr int64_t kVocabulary = 80;
constexpr int64_t kLength = 80;
int64_t index_of(char c);
std::vector<std::string> names();
}  // namespace leaf_text

// For tables: "a", "\\n".
std::string shown_character(char c);

namespace tff_text {
std::vector<std::string> names();
}

}  // namespace fl_sim
