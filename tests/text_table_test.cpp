// Tables for a terminal and for Markdown.
#include "commands/text_table.h"

#include <gtest/gtest.h>

namespace fl_sim {
namespace {

// Proves that columns are as wide as their widest cell in code points, or wider where they have to
// be, that numbers stand to the right, and that no line ends in blanks.
TEST(TextTable, ColumnsStandBelowOneAnother) {
  TextTable table({{}, {.right = true}, {.right = true, .least = 6}, {}});
  table.add({"", "mean", "n"});
  table.add({"fedavg", "0.5 ± 0.1", "3", "first"});
  table.add({"ditto", "1", "12", ""});
  EXPECT_EQ(table.text(),
            "             mean       n\n"
            "fedavg  0.5 ± 0.1       3  first\n"
            "ditto           1      12\n");
}

// Proves that Markdown's table has a rule below its heading and a cell in every column.
TEST(TextTable, MarkdownHasAHeading) {
  TextTable table({{}, {.right = true}});
  table.add({"", "seeds"});
  table.add({"fedavg", "0"});
  table.add({"x"});
  EXPECT_EQ(table.markdown(),
            "|        | seeds |\n"
            "|--------|-------|\n"
            "| fedavg |     0 |\n"
            "| x      |       |\n");
}

}  // namespace
}  // namespace fl_sim
