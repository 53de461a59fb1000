#include "commands/partition_picture.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <iomanip>
#include <numeric>
#include <sstream>

#include "base/check.h"
#include "base/text.h"
#include "commands/gnuplot.h"

namespace fl_sim {
namespace {

constexpr int64_t kMostTableClasses = 20, kMostTableClients = 20;

// [classes] what a client holds of each class.
std::vector<int64_t> class_counts(const PartitionFacts& facts, int64_t client) {
  std::vector<int64_t> counts(static_cast<size_t>(facts.classes));
  for (const int64_t index : facts.partition.of(client))
    ++counts[static_cast<size_t>(facts.labels[static_cast<size_t>(index)])];
  return counts;
}

std::string right(const std::string& text, size_t width) {
  return text.size() < width ? std::string(width - text.size(), ' ') + text : text;
}

// The beginning of a name that fits `width` columns, padded. Bytes of UTF-8 that go on a character
// take no column.
std::string left(const std::string& text, size_t width) {
  std::string out;
  size_t columns = 0;
  for (const char c : text) {
    const bool starts = (static_cast<unsigned char>(c) & 0xC0) != 0x80;
    if (starts && columns == width) break;
    columns += starts ? 1 : 0;
    out += c;
  }
  return out + std::string(width - columns, ' ');
}

std::string class_name(const PartitionFacts& facts, int64_t c) {
  if (facts.class_names.empty()) return std::to_string(c);
  return facts.class_names[static_cast<size_t>(c)];
}

// 1, 2 or 5 times a power of ten, at most `value`.
int64_t round_number(double value) {
  int64_t power = 1;
  while (static_cast<double>(power) * 10 <= value) power *= 10;
  for (const int64_t factor : {5, 2}) {
    if (static_cast<double>(factor * power) <= value) return factor * power;
  }
  return power;
}

// Clients that a picture has room for. Not every m-th one: patterns of i mod K would be hidden.
struct Shown {
  int64_t all;
  std::vector<int64_t> clients;

  Shown(int64_t all_clients, int64_t most) : all(all_clients) {
    const int64_t count = std::min(all, most);
    for (int64_t i = 0; i < count; ++i) clients.push_back(i * all / count);
  }
  bool some() const { return std::ssize(clients) < all; }
  // Which of those shown stands at the client's place.
  int64_t place(int64_t client) const { return client * std::ssize(clients) / all; }
};

}  // namespace

std::string partition_table(const PartitionFacts& facts, const Skew& skew) {
  const Partition& partition = facts.partition;
  const int64_t clients = partition.clients(), columns = std::min(facts.classes, kMostTableClasses);
  std::vector<std::vector<std::string>> rows = {{"client", "samples", "classes"}};
  for (int64_t c = 0; c < columns; ++c) rows[0].push_back(message("class ", c));
  if (columns > 3)  // short, so that ten fit a terminal
    for (int64_t c = 1; c < columns; ++c) rows[0][static_cast<size_t>(c + 3)] = std::to_string(c);
  const int64_t listed = clients <= kMostTableClients + 5 ? clients : kMostTableClients;
  for (int64_t k = 0; k < listed; ++k) {
    const std::vector<int64_t> counts = class_counts(facts, k);
    const int64_t held = facts.classes - std::count(counts.begin(), counts.end(), 0);
    rows.push_back({std::to_string(k), std::to_string(partition.size(k)), std::to_string(held)});
    for (int64_t c = 0; c < columns; ++c) {
      const int64_t count = counts[static_cast<size_t>(c)];
      rows.back().push_back(count == 0 ? "-" : std::to_string(count));
    }
  }
  std::vector<size_t> widths(rows[0].size());
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::ostringstream out;
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) out << (i == 0 ? "" : "  ") << right(row[i], widths[i]);
    out << "\n";
  }
  if (listed < clients) out << "... and " << clients - listed << " more clients\n";
  if (columns < facts.classes)
    out << "(classes " << columns << " to " << facts.classes - 1 << " are not shown)\n";

  const int64_t held = std::ssize(partition.indices), all = std::ssize(facts.labels);
  out << "\nclients         " << clients << ", with " << held << " of " << all << " samples\n"
      << "size            min " << skew.min_size << ", quartiles " << skew.lower_quartile << " "
      << skew.median << " " << skew.upper_quartile << ", max " << skew.max_size << "\n";
  const auto measure = [&](const char* name, double mean, double most) {
    out << name << "mean " << fixed(mean, 4) << ", max " << fixed(most, 4) << "\n";
  };
  out << "distance of a client's labels to those of all, 0 to 1:\n";
  measure("  Jensen-Shannon  ", skew.mean_jensen_shannon, skew.max_jensen_shannon);
  measure("  Hellinger       ", skew.mean_hellinger, skew.max_hellinger);
  measure("  earth mover's   ", skew.mean_earth_mover, skew.max_earth_mover);
  return out.str();
}

std::string partition_blocks(const PartitionFacts& facts, int columns) {
  constexpr int64_t kMostRows = 40, kWidestCell = 6;
  constexpr size_t kWidestName = 14;
  // Neighbouring classes in one row, where there are many.
  const int64_t merged = (facts.classes + kMostRows - 1) / kMostRows;
  std::vector<std::string> names;
  for (int64_t c = 0; c < facts.classes; c += merged) {
    const int64_t last = std::min(c + merged, facts.classes) - 1;
    names.push_back(merged == 1
                        ? class_name(facts, c)
                        : message(c, last > c ? "-" : "", last > c ? std::to_string(last) : ""));
  }
  size_t name_width = 7;
  for (const std::string& name : names)
    name_width = std::max(name_width, std::min(width_of(name), kWidestName));

  const int64_t room = std::max<int64_t>(columns - static_cast<int64_t>(name_width) - 3, 10);
  const int64_t clients = facts.partition.clients();
  const int64_t cell = std::clamp<int64_t>(room / clients, 1, kWidestCell);
  const Shown shown(clients, room / cell);

  std::vector<std::vector<int64_t>> counts;  // [shown][rows]
  std::vector<int64_t> sizes;
  int64_t most = 1, largest = 1;
  for (const int64_t k : shown.clients) {
    const std::vector<int64_t> of_classes = class_counts(facts, k);
    std::vector<int64_t> of_rows(names.size());
    for (int64_t c = 0; c < facts.classes; ++c)
      of_rows[static_cast<size_t>(c / merged)] += of_classes[static_cast<size_t>(c)];
    for (const int64_t count : of_rows) most = std::max(most, count);
    counts.push_back(std::move(of_rows));
    sizes.push_back(facts.partition.size(k));
    largest = std::max(largest, sizes.back());
  }

  const auto block = [&](const std::string& glyph) {  // a gap between wide cells
    std::string text;
    for (int64_t i = 0; i < cell; ++i) text += cell >= 3 && i + 1 == cell ? " " : glyph;
    return text;
  };
  std::ostringstream out;
  const std::array<std::string, 9> heights = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  out << left("size", name_width) << " │";
  for (const int64_t size : sizes)
    out << block(heights[static_cast<size_t>((8 * size + largest - 1) / largest)]);
  out << "│\n";

  // Shades by the root of the count, as an area would show it: a quarter of the classes' largest
  // count is half as dark.
  const std::array<std::string, 5> shades = {" ", "░", "▒", "▓", "█"};
  std::array<int64_t, 5> limits{};  // the largest count of each shade
  for (int64_t i = 1; i <= 4; ++i) limits[static_cast<size_t>(i)] = most * i * i / 16;
  for (size_t row = 0; row < names.size(); ++row) {
    out << left(names[row], name_width) << " │";
    for (const std::vector<int64_t>& of_rows : counts) {
      size_t shade = 0;
      while (shade < 4 && of_rows[row] > limits[shade]) ++shade;
      out << block(shades[shade]);
    }
    out << "│\n";
  }

  // Clients' numbers, as many as fit.
  std::string axis(static_cast<size_t>(cell * std::ssize(shown.clients)), ' ');
  const int64_t step =
      cell >= 4 ? 1 : round_number(static_cast<double>(std::max<int64_t>(clients / 8, 1)));
  int64_t free = 0;
  for (int64_t client = 0; client < clients; client += step) {
    const std::string number = std::to_string(client);
    const int64_t at = shown.place(client) * cell;
    if (at < free || at + std::ssize(number) > std::ssize(axis)) continue;
    axis.replace(static_cast<size_t>(at), number.size(), number);
    free = at + std::ssize(number) + 1;
  }
  out << left("client", name_width) << "  " << axis << "\n";
  if (shown.some())
    out << "(" << shown.clients.size() << " of " << clients << " clients are shown)\n";
  int64_t from = 1;
  for (size_t shade = 1; shade <= 4; ++shade) {
    if (limits[shade] < from) continue;
    out << shades[shade] << " " << from;
    if (limits[shade] > from) out << " to " << limits[shade];
    out << (shade < 4 ? "   " : " samples of a class\n");
    from = limits[shade] + 1;
  }
  return out.str();
}

namespace {

// 12345 -> "12,345"
std::string with_commas(int64_t number) {
  const std::string digits = std::to_string(number);
  std::string out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) out += ',';
    out += digits[i];
  }
  return out;
}

// About ten marks along the clients' axis, at positions 0, 1, ... of those shown.
std::string client_marks(const Shown& shown) {
  const int64_t step = shown.all <= 20 ? 1 : round_number(static_cast<double>(shown.all) / 8);
  std::string marks;
  for (int64_t client = 0; client < shown.all; client += step)
    marks += message(marks.empty() ? "" : ", ", "'", client, "' ", shown.place(client));
  return "set xtics nomirror out (" + marks + ")\n";
}

// About ten marks along the classes' axis.
std::string class_marks(const PartitionFacts& facts) {
  const int64_t step = facts.classes <= 40 ? 1 : (facts.classes + 19) / 20;
  std::string marks;
  for (int64_t c = 0; c < facts.classes; c += step)
    marks += message(marks.empty() ? "" : ", ", gnuplot_quoted(class_name(facts, c)), " ", c);
  return "set ytics nomirror out (" + marks + ")\n";
}

}  // namespace

std::string picture_script(const PartitionFacts& facts, PictureKind kind, const std::string& path) {
  constexpr int64_t kMostClients = 400;  // more would be thinner than a pixel or two
  const Shown shown(facts.partition.clients(), kMostClients);
  const int64_t clients = std::ssize(shown.clients), classes = facts.classes;
  const bool bubbles = kind == PictureKind::kBubbles;
  std::vector<std::vector<int64_t>> counts;
  int64_t most = 1;
  for (const int64_t k : shown.clients) {
    counts.push_back(class_counts(facts, k));
    most = std::max(most, *std::max_element(counts.back().begin(), counts.back().end()));
  }
  size_t longest = 1;
  for (int64_t c = 0; c < classes; ++c) longest = std::max(longest, width_of(class_name(facts, c)));
  const int64_t name_pixels = 7 * static_cast<int64_t>(std::min<size_t>(longest, 24));

  const int64_t inner_width = std::clamp<int64_t>(clients * 44, 440, 1200);
  const int64_t inner_height = bubbles ? std::clamp<int64_t>(classes * 40, 240, 900) : 420;
  const int64_t width = inner_width + name_pixels + 180, height = inner_height + 110;
  const std::string x_title =
      shown.some() ? message("client (", clients, " of ", shown.all, " are shown)") : "client";

  std::ostringstream out;
  out << gnuplot_head(path, width, height) << "set title " << gnuplot_quoted(facts.title)
      << "\nset xlabel " << gnuplot_quoted(x_title)
      << "\nset border 3 lc rgb '#606060'\nset key outside right top vertical Left reverse "
         "samplen "
      << (bubbles ? "2.5 spacing 2\n" : "1 spacing 1.3\n")
      << "set xrange [-0.6:" << fixed(static_cast<double>(clients) - 0.4, 1) << "]\n"
      << client_marks(shown) << "$counts << EOD\n";
  // Bubbles: client, class, count, a line each; bars: a line for each client.
  for (size_t i = 0; i < counts.size(); ++i) {
    if (!bubbles) out << i;
    for (size_t c = 0; c < counts[i].size(); ++c) {
      if (!bubbles) out << " " << counts[i][c];
      if (bubbles && counts[i][c] > 0) out << i << " " << c << " " << counts[i][c] << "\n";
    }
    if (!bubbles) out << "\n";
  }
  out << "EOD\n";

  if (bubbles) {
    // A point of size 1 is about 8 pixels across. The largest bubble fills its row, but for high
    // ones, where it would cover the legend's other lines; it may cover its neighbours where
    // columns are narrow: bubbles are translucent.
    constexpr double kLargest = 40;  // pixels
    const double row = static_cast<double>(inner_height) / static_cast<double>(classes);
    const double column = static_cast<double>(inner_width) / static_cast<double>(clients);
    const double largest = std::min({row, std::max(column, 20.0), kLargest}) * 0.95 / 8;
    out << class_marks(facts) << "set ylabel 'class'\nset yrange [" << classes - 1
        << ".6:-0.6]\nset grid lc rgb '#e4e4e4' lt 1\nset key title 'samples' left\n"
        << "size(n) = " << fixed(largest, 4) << " * sqrt(n / " << most << ".0)\n"
        << "plot $counts using 1:2:(size($3)) with points pt 7 ps variable lc rgb '#301f77b4' "
           "notitle";
    for (const double share : {1.0, 0.4, 0.1}) {
      const int64_t count = round_number(share * static_cast<double>(most));
      out << ", NaN with points pt 7 ps size(" << count << ") lc rgb '#301f77b4' title "
          << gnuplot_quoted(with_commas(count));
    }
    out << "\n";
    return out.str();
  }

  out << "set ylabel 'samples'\nset yrange [0:*]\nset ytics nomirror out\n"
      << "set style data histograms\nset style histogram rowstacked\nset style fill solid 1 "
      << (clients <= 60 && classes <= kGnuplotColours ? "border lc rgb '#ffffff'\n" : "noborder\n")
      << "set boxwidth " << (clients <= 60 ? "0.85" : "1")
      << " relative\nset grid ytics lc rgb '#e4e4e4' lt 1\n";
  if (classes > kGnuplotColours) {
    // Too many for a legend: a colour along a scale.
    out << "set palette defined (0 '#440154', 1 '#3b528b', 2 '#21918c', 3 '#5ec962', 4 '#fde725')\n"
        << "set cbrange [0:" << classes - 1 << "]\nset colorbox\nset cblabel 'class'\n"
        << "plot for [c=0:" << classes - 1
        << "] $counts using (column(c + 2)) lc palette cb c notitle, NaN with points palette "
           "notitle\n";
    return out.str();
  }
  if (facts.class_names.empty()) out << "set key title 'class' left\n";
  out << "plot ";
  for (int64_t c = 0; c < classes; ++c) {
    out << (c == 0 ? "" : ", ") << "$counts using " << c + 2 << " lc rgb '" << gnuplot_colour(c)
        << "' title " << gnuplot_quoted(class_name(facts, c));
  }
  out << "\n";
  return out.str();
}

void draw_picture(const PartitionFacts& facts, PictureKind kind, const std::string& path) {
  draw_by_gnuplot(picture_script(facts, kind, path), path);
}

}  // namespace fl_sim
