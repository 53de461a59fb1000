// Partitions to look at: a table, a picture for terminals, and one drawn by gnuplot.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/partitioner.h"

namespace fl_sim {

struct PartitionFacts {
  std::string title;  // "dirichlet (alpha 0.5) of fashion-mnist"
  Partition partition = {};
  std::vector<int64_t> labels = {};  // [samples] in [0, classes)
  int64_t classes = 0;
  std::vector<std::string> class_names = {};  // [classes], or empty
};

// A line for each of the first clients: samples, classes, samples of each class (of up to 20);
// then sizes and skew of all clients. Lines end with "\n".
std::string partition_table(const PartitionFacts& facts, const Skew& skew);

// Classes down, clients across, shaded by the number of samples, in `columns` columns: some of
// the clients where they are too many, neighbouring classes together where these are.
std::string partition_blocks(const PartitionFacts& facts, int columns);

enum class PictureKind { kBubbles, kBars };

// What gnuplot is told to draw into `path`, a .svg or .png: bubbles of classes over clients, their
// area the number of samples, or a bar for each client, stacked class by class.
std::string picture_script(const PartitionFacts& facts, PictureKind kind, const std::string& path);

// Draws it. Throws Error where gnuplot is missing or fails.
void draw_picture(const PartitionFacts& facts, PictureKind kind, const std::string& path);

}  // namespace fl_sim
