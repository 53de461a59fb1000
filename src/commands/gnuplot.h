// Pictures that gnuplot draws.
#pragma once

#include <cstdint>
#include <string>

namespace fl_sim {

// Text in gnuplot's single quotes.
std::string gnuplot_quoted(const std::string& text);

// The lines that begin a script: a picture of so many pixels into `path`, a .svg or .png. Throws
// Error for other endings.
std::string gnuplot_head(const std::string& path, int64_t width, int64_t height);

// A series' colour, "#1f77b4": Tableau's, dark then light; again from the first after the last.
constexpr int64_t kGnuplotColours = 20;
const char* gnuplot_colour(int64_t series);

// Has gnuplot carry out the script, which draws `path`. Throws Error where gnuplot is missing or
// fails.
void draw_by_gnuplot(const std::string& script, const std::string& path);

}  // namespace fl_sim
