#include "plugins/datasets/text.h"

namespace fl_sim {

std::string shown_character(char c) {
  if (c == '\n') return "\\n";
  if (c == '\r') return "\\r";
  return std::string(1, c);
}

namespace {

// The place of each byte in an alphabet; -1: it is not there.
std::array<int, 256> places(std::string_view alphabet) {
  std::array<int, 256> place;
  place.fill(-1);
  for (size_t i = 0; i < alphabet.size(); ++i)
    place[static_cast<unsigned char>(alphabet[i])] = static_cast<int>(i);
  return place;
}

}  // namespace

namespace tff_text {
namespace {

// McMahan et al. 2017's texts; the order is that of TensorFlow Federated's tutorial "Federated
// learning for text generation" and of FedML.
constexpr std::string_view kCharacters =
    "dhlptx@DHLPTX $(,048cgkoswCGKOSW[_#'/37;?bfjnrvzBFJNRVZ\"&*.26:\naeimquyAEIMQUY]!%)-159\r";
static_assert(kCharacters.size() + 1 == kBegin);

}  // namespace

void append_windows(std::string_view snippet, std::vector<uint8_t>& windows) {
  static const std::array<int, 256> kPlaces = places(kCharacters);
  constexpr size_t kWindow = kLength + 1;
  std::vector<uint8_t> codes = {kBegin};
  for (const char c : snippet) {
    const int place = kPlaces[static_cast<unsigned char>(c)];
    codes.push_back(place < 0 ? kUnknown : static_cast<uint8_t>(place + 1));
  }
  codes.push_back(kEnd);
  codes.resize((codes.size() + kWindow - 1) / kWindow * kWindow, kPad);
  for (size_t at = 0; at < codes.size(); at += kWindow) {
    if (codes[at + 1] == kPad) continue;
    windows.insert(windows.end(), codes.begin() + static_cast<std::ptrdiff_t>(at),
                   codes.begin() + static_cast<std::ptrdiff_t>(at + kWindow));
  }
}

std::vector<std::string> names() {
  std::vector<std::string> out = {"<pad>"};
  for (const char c : kCharacters) out.push_back(shown_character(c));
  for (const char* name : {"<bos>", "<eos>", "<oov>"}) out.emplace_back(name);
  return out;
}

}  // namespace tff_text

namespace leaf_text {
namespace {

constexpr std::string_view kCharacters =
    "\n !\"&'(),-.0123456789:;>?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz}";
static_assert(kCharacters.size() == kVocabulary);

}  // namespace

int64_t index_of(char c) {
  static const std::array<int, 256> kPlaces = places(kCharacters);
  return kPlaces[static_cast<unsigned char>(c)];
}

std::vector<std::string> names() {
  std::vector<std::string> out;
  for (const char c : kCharacters) out.push_back(shown_character(c));
  return out;
}

}  // namespace leaf_text
}  // namespace fl_sim
