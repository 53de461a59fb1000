#include "base/results_format.h"

#include <fl_sim_results_readme.h>

#include <charconv>

#include "base/check.h"

namespace fl_sim {

const char* results_readme() { return kResultsReadme; }

void check_results_format(const Hdf5File& file, const std::string& path) {
  if (!file.has("/provenance") || !file.has_attribute("/provenance", "format")) return;
  const std::string text = file.read_text_attribute("/provenance", "format");
  int64_t format = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), format);
  FL_CHECK(error == std::errc() && end == text.data() + text.size() && format >= 1, path,
           ": /provenance/format is '", text, "' (must be a whole number)");
  FL_CHECK(format <= kResultsFormat, path, ": is of format ", format,
           " of results files, by fl_sim ",
           file.has_attribute("/provenance", "fl_sim")
               ? file.read_text_attribute("/provenance", "fl_sim")
               : std::string("of another version"),
           " (this one reads formats up to ", kResultsFormat, "; use the one that wrote it)");
}

}  // namespace fl_sim
