// Tables and pictures of partitions: what they say, and that they fit.
#include <gmock/gmock.h>

#include <numeric>
#include <sstream>

#include "commands/partition_picture.h"
#include "partition_trial.h"

namespace fl_sim {
namespace {

std::vector<std::string> lines_of(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

// Columns that UTF-8 text takes.
int64_t width(const std::string& line) {
  return std::count_if(line.begin(), line.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

// Three clients: 4 and 1 of two classes, 4 of one, 1 of the other; one sample is nobody's.
PartitionFacts small_facts() {
  return {.title = "by hand",
          .partition = make_partition({{0, 1, 2, 3, 8}, {4, 5, 6, 7}, {9}}),
          .labels = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1},
          .classes = 2,
          .class_names = {"cats", "dogs"}};
}

PartitionFacts dealt(int64_t clients, int64_t classes) {
  PartitionFacts facts{.title = "dealt", .classes = classes};
  facts.labels = even_labels(classes, 20 * clients / classes + 10);
  facts.partition = split("iid", "", {facts.labels, classes, clients});
  return facts;
}

TEST(PartitionTable, SaysWhatClientsHold) {
  const PartitionFacts facts = small_facts();
  const Skew skew = measure_skew(facts.partition, facts.labels, 2);
  const std::vector<std::string> lines = lines_of(partition_table(facts, skew));
  EXPECT_EQ(lines.at(0), "client  samples  classes  class 0  class 1");
  EXPECT_EQ(lines.at(1), "     0        5        2        4        1");
  EXPECT_EQ(lines.at(2), "     1        4        1        4        -");
  EXPECT_EQ(lines.at(3), "     2        1        1        -        1");
  EXPECT_EQ(lines.at(5), "clients         3, with 10 of 11 samples");
  EXPECT_EQ(lines.at(6), "size            min 1, quartiles 1 4 5, max 5");
  // Half the L1 distance to 8/11, 3/11: 4/55, 3/11 and 8/11.
  EXPECT_EQ(lines.at(10), "  earth mover's   mean 0.3576, max 0.7273");
}

TEST(PartitionTable, LeavesOutWhatIsTooMuch) {
  const PartitionFacts facts = dealt(1000, 30);
  const Skew skew = measure_skew(facts.partition, facts.labels, 30);
  const std::string table = partition_table(facts, skew);
  EXPECT_LT(std::ssize(lines_of(table)), 35);
  EXPECT_NE(table.find("... and 980 more clients"), std::string::npos);
  EXPECT_NE(table.find("(classes 20 to 29 are not shown)"), std::string::npos);
}

// By hand: cells of 6 columns with a gap; shades end at 1/16, 4/16, 9/16 and all of the largest
// count, 4; sizes are eighths of the largest, 5, rounded up.
TEST(PartitionBlocks, ShadesCounts) {
  const std::vector<std::string> lines = lines_of(partition_blocks(small_facts(), 80));
  EXPECT_EQ(lines.at(0), "size    │█████ ▇▇▇▇▇ ▂▂▂▂▂ │");
  EXPECT_EQ(lines.at(1), "cats    │█████ █████       │");
  EXPECT_EQ(lines.at(2), "dogs    │▒▒▒▒▒       ▒▒▒▒▒ │");
  EXPECT_EQ(lines.at(3), "client   0     1     2     ");
  EXPECT_EQ(lines.at(4), "▒ 1   ▓ 2   █ 3 to 4 samples of a class");
}

// Every number of clients and classes fits the terminal, in width and nearly in height.
TEST(PartitionBlocks, FitTheTerminal) {
  for (const int64_t clients : {1, 10, 40, 97, 100, 333, 1000}) {
    for (const int64_t classes : {1, 2, 10, 62, 100}) {
      const PartitionFacts facts = dealt(clients, classes);
      for (const int columns : {40, 80, 120}) {
        SCOPED_TRACE(message(clients, " clients, ", classes, " classes, ", columns, " columns"));
        const std::vector<std::string> lines = lines_of(partition_blocks(facts, columns));
        EXPECT_LE(std::ssize(lines), 45);
        for (size_t i = 0; i + 1 < lines.size(); ++i)
          EXPECT_LE(width(lines[i]), columns) << lines[i];
        const int64_t frame = width(lines[0]);
        for (size_t i = 0; lines[i].starts_with("client") == false; ++i)
          EXPECT_EQ(width(lines[i]), frame);
        const bool all = clients <= columns - 10;
        EXPECT_EQ(lines.at(lines.size() - 2).ends_with(" clients are shown)"), !all);
      }
    }
  }
}

// What gnuplot gets: every client's counts, names as they are, quotes doubled; and only picture
// files whose kind it knows.
TEST(PartitionPicture, ScriptHasTheCounts) {
  PartitionFacts facts = small_facts();
  facts.class_names[1] = "dog's";
  const std::string bubbles = picture_script(facts, PictureKind::kBubbles, "x.svg");
  EXPECT_NE(bubbles.find("$counts << EOD\n0 0 4\n0 1 1\n1 0 4\n2 1 1\nEOD\n"), std::string::npos)
      << bubbles;
  EXPECT_NE(bubbles.find("'dog''s' 1"), std::string::npos);
  EXPECT_NE(bubbles.find("set terminal svg"), std::string::npos);
  const std::string bars = picture_script(facts, PictureKind::kBars, "a'b.png");
  EXPECT_NE(bars.find("$counts << EOD\n0 4 1\n1 4 0\n2 0 1\nEOD\n"), std::string::npos) << bars;
  EXPECT_NE(bars.find("set output 'a''b.png'"), std::string::npos);
  EXPECT_NE(bars.find("set terminal pngcairo"), std::string::npos);
  facts.title = "'quoted'";
  const std::string odd = picture_script(facts, PictureKind::kBars, "'a'.svg");
  EXPECT_NE(odd.find("set title ' ''quoted'''\n"), std::string::npos) << odd;
  EXPECT_NE(odd.find("set output './''a''.svg'\n"), std::string::npos) << odd;
  EXPECT_ERROR(picture_script(facts, PictureKind::kBars, "x.pdf"),
               "--picture is x.pdf (must be the name of a .svg or .png file)");
}

}  // namespace
}  // namespace fl_sim
