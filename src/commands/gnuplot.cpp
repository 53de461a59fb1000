#include "commands/gnuplot.h"

#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "base/check.h"

namespace fl_sim {
namespace {

const std::array<const char*, kGnuplotColours> kColours = {
    "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2",
    "#7f7f7f", "#bcbd22", "#17becf", "#aec7e8", "#ffbb78", "#98df8a", "#ff9896",
    "#c5b0d5", "#c49c94", "#f7b6d2", "#c7c7c7", "#dbdb8d", "#9edae5"};

}  // namespace

// Nothing but quotes is special in it. Gnuplot takes one at the start for the end.
std::string gnuplot_quoted(const std::string& text) {
  std::string out = text.starts_with("'") ? "' " : "'";
  for (const char c : text) {
    if (c == '\n') continue;
    out += c;
    if (c == '\'') out += c;
  }
  return out + "'";
}

std::string gnuplot_head(const std::string& path, int64_t width, int64_t height) {
  const std::string end = std::filesystem::path(path).extension();
  FL_CHECK(end == ".svg" || end == ".png", "--picture is ", path,
           " (must be the name of a .svg or .png file)");
  return message("set terminal ", end == ".svg" ? "svg" : "pngcairo", " noenhanced size ", width,
                 ",", height, " font 'sans,11' background '#ffffff'\nset output ",
                 gnuplot_quoted(path.starts_with("'") ? "./" + path : path), "\n");
}

const char* gnuplot_colour(int64_t series) {
  return kColours[static_cast<size_t>(series % kGnuplotColours)];
}

void draw_by_gnuplot(const std::string& script, const std::string& path) {
  FL_CHECK(std::system("command -v gnuplot > /dev/null 2>&1") == 0,
           "--picture needs gnuplot, which is not on the PATH (apt install gnuplot-nox, or leave "
           "--picture out)");
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  std::error_code error;
  if (!folder.empty()) std::filesystem::create_directories(folder, error);
  FILE* gnuplot = popen("gnuplot", "w");
  FL_CHECK(gnuplot != nullptr, path, ": cannot be drawn (gnuplot does not start)");
  const bool told = std::fwrite(script.data(), 1, script.size(), gnuplot) == script.size();
  const int status = pclose(gnuplot);
  FL_CHECK(told && WIFEXITED(status) && WEXITSTATUS(status) == 0, path,
           ": cannot be drawn (gnuplot says why above)");
}

}  // namespace fl_sim
