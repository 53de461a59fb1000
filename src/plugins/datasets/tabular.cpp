#include "plugins/datasets/tabular.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/check.h"

namespace fl_sim {

Matrix Matrix::select(const std::vector<int64_t>& indices) const {
  Matrix out{columns};
  out.values.reserve(indices.size() * static_cast<size_t>(columns));
  for (const int64_t i : indices) out.values.insert(out.values.end(), row(i), row(i) + columns);
  return out;
}

torch::Tensor Matrix::floats() const {
  std::vector<float> out(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    out[i] = static_cast<float>(values[i]);
    FL_CHECK(std::isfinite(out[i]), "the number ", values[i],
             " does not fit float32 (standardise the inputs, or drop its column)");
  }
  return to_tensor(std::move(out), {rows(), columns});
}

bool CellReader::next(std::vector<std::string>& cells) {
  cells.clear();
  do {
    if (!lines_.next(line_)) return false;
  } while (trimmed(line_).empty());

  size_t at = 0;
  const auto skip_blanks = [&] {
    while (at < line_.size() && (line_[at] == ' ' || (line_[at] == '\t' && separator_ != '\t')))
      ++at;
  };
  for (;;) {
    skip_blanks();
    std::string cell;
    if (at < line_.size() && line_[at] == '"') {
      const std::string begin = where();
      ++at;
      for (;;) {
        const size_t quote = line_.find('"', at);
        cell.append(line_, at, quote - at);  // up to the end if there is none
        if (quote == std::string::npos) {
          FL_CHECK(lines_.next(more_), begin, ": a quote is opened here and never closed");
          cell += '\n';
          line_.swap(more_);
          at = 0;
        } else if (quote + 1 < line_.size() && line_[quote + 1] == '"') {
          cell += '"';
          at = quote + 2;
        } else {
          at = quote + 1;
          break;
        }
      }
      const size_t after = at;
      skip_blanks();
      FL_CHECK(at >= line_.size() || line_[at] == separator_ || (separator_ == ' ' && at > after),
               where(), ": ", shown(line_.substr(at)),
               " stands behind a closing quote (a quote inside quotes is written twice)");
    } else {
      size_t stop = line_.find(separator_, at);
      if (separator_ == ' ') stop = line_.find_first_of(" \t", at);
      stop = std::min(stop, line_.size());
      cell = trimmed(std::string_view(line_).substr(at, stop - at));
      at = stop;
    }
    cells.push_back(std::move(cell));
    if (separator_ == ' ') {
      skip_blanks();
      if (at >= line_.size()) return true;
    } else {
      if (at >= line_.size()) return true;
      ++at;  // the separator
    }
  }
}

void LevelColumn::add(std::string_view cell) {
  double number = 0;
  char canonical[32];
  // Beyond 2^53 whole numbers do not fit a double: such a level is its text.
  if (parse_number(cell, number) && std::abs(number) <= 0x1p53) {
    const auto end = std::to_chars(canonical, canonical + sizeof canonical, number + 0.0).ptr;
    const std::string_view same(canonical, static_cast<size_t>(end - canonical));
    if (kind_ == Kind::kValues) {
      cell = same;
    } else {
      numeric_ = numeric_ && cell == same;
    }
  } else {
    numeric_ = false;
  }
  auto found = index_.find(cell);
  if (found == index_.end()) found = index_.emplace(cell, std::ssize(index_)).first;
  codes_.push_back(found->second);
}

std::vector<std::string> LevelColumn::new_levels(size_t known) const {
  std::vector<std::string> out;
  for (const auto& [name, code] : index_) {
    if (static_cast<size_t>(code) >= known) out.push_back(name);
  }
  return out;
}

LevelColumn::Sorted LevelColumn::sorted() const {
  Sorted out;
  std::vector<std::pair<double, std::string>> levels;  // all 0 where they are texts
  for (const auto& [name, code] : index_) {
    double number = 0;
    if (numeric_) parse_number(name, number);
    levels.emplace_back(number, name);
  }
  std::sort(levels.begin(), levels.end());
  std::vector<int64_t> place(levels.size());
  for (const auto& [number, name] : levels) {
    place[static_cast<size_t>(index_.find(name)->second)] = std::ssize(out.names);
    out.names.push_back(name);
    if (numeric_) out.numbers.push_back(number);
  }
  out.codes.reserve(codes_.size());
  for (const int64_t code : codes_) out.codes.push_back(place[static_cast<size_t>(code)]);
  return out;
}

std::string Table::column_name(size_t column) const {
  return names_.empty() ? message("column ", column)
                        : message("column ", column, " (", shown(names_[column]), ")");
}

int64_t Table::column_of(const std::string& path, const std::string& name,
                         const std::string& key) const {
  const auto found = std::find(names_.begin(), names_.end(), name);
  if (found != names_.end()) {
    FL_CHECK(std::find(found + 1, names_.end(), name) == names_.end(), path, ": two columns are ",
             "called ", shown(name), " (give ", format_.key, ".", key, " as a number, from 0)");
    return found - names_.begin();
  }
  const int64_t columns = std::ssize(roles_);
  int64_t number = 0;
  const bool is_number = parse_number(name, number);
  const std::string near = nearest(name, names_);
  FL_CHECK(is_number && number >= -columns && number < columns, path, ": there is no column ",
           shown(name), " for ", format_.key, ".", key, " (there are ", columns, " columns",
           names_.empty() ? ", without names"
           : near.empty() ? message(", the first is ", shown(names_[0]))
                          : message("; did you mean ", shown(near), "?"),
           "; a column may also be given as its number, from 0, or from -1 backwards)");
  return number < 0 ? number + columns : number;
}

void Table::assign_roles(const std::string& path, const std::vector<std::string>& cells) {
  if (format_.header) {
    double number = 0;
    bool numbers = true, counted = true;  // 0, 1, 2, ... are names that pandas gives
    for (size_t c = 0; c < cells.size(); ++c) {
      numbers = numbers && parse_number(cells[c], number);
      counted = counted && number == static_cast<double>(c);
    }
    FL_CHECK(!numbers || counted, path, ": the first line holds numbers only, so it looks like a ",
             "sample and not like a header (", format_.key, ".header = false)");
    names_ = cells;
  }
  roles_.assign(cells.size(), Role::kNumber);
  std::vector<std::string> level_names(cells.size());
  const auto assign = [&](const std::string& name, const std::string& key, Role role) {
    const auto column = static_cast<size_t>(column_of(path, name, key));
    FL_CHECK(roles_[column] == Role::kNumber, path, ": ", column_name(column), " is named by ",
             format_.key, ".", key, " and by another option (keep one)");
    roles_[column] = role;
  };
  assign(format_.label, "label", Role::kLabel);
  if (!format_.client.empty()) assign(format_.client, "client", Role::kClient);
  for (const std::string& name : format_.drop) assign(name, "drop", Role::kDropped);
  for (const std::string& name : format_.onehot) assign(name, "onehot", Role::kLevels);
  for (size_t c = 0; format_.header && c < roles_.size(); ++c) {
    FL_CHECK(!names_[c].empty() || roles_[c] != Role::kNumber, path, ": column ", c,
             " has no name, as the index that pandas writes (", format_.key, ".drop = ", c,
             " leaves it out; give it a name to keep it as an input)");
  }
  numbers_ = std::count(roles_.begin(), roles_.end(), Role::kNumber);
  for (size_t c = 0; c < roles_.size(); ++c) {
    if (roles_[c] == Role::kLevels) level_names_.push_back(column_name(c));
  }
  levels_.resize(level_names_.size());
  FL_CHECK(numbers_ + std::ssize(levels_) > 0, path,
           ": no column is left for the inputs (there are ", roles_.size(), ")");
}

bool Table::is_missing(const std::string& cell) const {
  return std::any_of(format_.missing.begin(), format_.missing.end(), [&](const std::string& mark) {
    return mark == "empty" ? cell.empty() : cell == mark;
  });
}

namespace {

bool has_decimal_comma(std::string cell) {
  double number = 0;
  return std::count(cell.begin(), cell.end(), ',') == 1 &&
         parse_number(cell.replace(cell.find(','), 1, "."), number);
}

}  // namespace

int64_t Table::read(const std::string& path) {
  constexpr size_t kMostLevels = 1000;
  CellReader in(path, format_.separator);
  std::vector<std::string> cells;
  const int64_t before = rows_;
  bool header = format_.header;
  std::vector<double> numbers;
  bool empty = true;
  while (in.next(cells)) {
    empty = false;
    if (roles_.empty()) {
      FL_CHECK(!header || !cells[0].starts_with("sep="), in.where(), ": is ", shown(cells[0]),
               ", which tells Excel the separator (take the line out; ", format_.key,
               ".separator says it here)");
      assign_roles(path, cells);
    } else if (header) {
      FL_CHECK(cells == names_, in.where(), ": the header differs from that of the first file ",
               "(the columns must be the same)");
    }
    if (std::exchange(header, false)) continue;
    FL_CHECK(cells.size() == roles_.size(), in.where(), ": ", cells.size(), " cells were found (",
             roles_.size(), " are expected, as in the first line; ",
             cells[0].starts_with('|') || cells[0].starts_with('#')
                 ? message("is ", shown(cells[0]), " a comment? Take it out)")
                 : "is the separator right?)");

    bool whole = true;
    for (size_t c = 0; c < cells.size(); ++c)
      whole = whole && (roles_[c] == Role::kDropped || !is_missing(cells[c]));
    if (!whole) {
      ++left_out_;
      continue;
    }
    numbers.clear();
    size_t level = 0;
    for (size_t c = 0; c < cells.size(); ++c) {
      const std::string& cell = cells[c];
      FL_CHECK(roles_[c] == Role::kDropped || !cell.empty(), in.where(), ": ", column_name(c),
               " is empty (", format_.key, ".missing = empty leaves such rows out)");
      switch (roles_[c]) {
        case Role::kNumber: {
          double number = 0;
          FL_CHECK(parse_number(cell, number), in.where(), ": ", column_name(c), " is ",
                   shown(cell), " (must be a number",
                   has_decimal_comma(cell) ? " with a decimal point, not a comma; " : "; ",
                   format_.key, ".onehot, ", format_.key, ".drop and ", format_.key,
                   ".missing are for what is none)");
          numbers.push_back(number);
          break;
        }
        case Role::kLevels:
          levels_[level].add(cell);
          FL_CHECK(levels_[level].size() <= kMostLevels, in.where(), ": ", column_name(c),
                   " has more than ", kMostLevels,
                   " different values, too many to one-hot encode (drop it?)");
          ++level;
          break;
        case Role::kLabel:
          labels_.add(cell);
          break;
        case Role::kClient:
          clients_.add(cell);
          break;
        case Role::kDropped:
          break;
      }
    }
    values_.insert(values_.end(), numbers.begin(), numbers.end());
    ++rows_;
  }
  FL_CHECK(!empty, path, ": is empty (must have ", format_.header ? "a header line and " : "",
           "a line a sample)");
  FL_CHECK(rows_ > before, path, ": no rows were found", format_.header ? " below the header" : "",
           format_.missing.empty() ? "" : " that have all their values");
  return rows_ - before;
}

Matrix Table::inputs() const {
  std::vector<LevelColumn::Sorted> levels;
  int64_t columns = numbers_;
  const int64_t skipped = format_.drop_first ? 1 : 0;
  for (const LevelColumn& column : levels_) {
    levels.push_back(column.sorted());
    columns += std::ssize(levels.back().names) - skipped;
  }
  FL_CHECK(columns > 0, format_.key, ": no inputs are left (every one-hot column has one level)");
  Matrix out{columns};
  out.values.resize(static_cast<size_t>(rows_ * columns));
  for (int64_t i = 0; i < rows_; ++i) {
    double* to = std::copy_n(values_.data() + i * numbers_, numbers_, out.row(i));
    for (const LevelColumn::Sorted& level : levels) {
      const int64_t code = level.codes[static_cast<size_t>(i)] - skipped;
      if (code >= 0) to[code] = 1;
      to += std::ssize(level.names) - skipped;
    }
  }
  return out;
}

void standardise(Matrix& train, const std::vector<int64_t>& train_group, Matrix& test,
                 const std::vector<int64_t>& test_group, const std::string& name) {
  const int64_t groups = 1 + *std::max_element(train_group.begin(), train_group.end());
  const int64_t columns = train.columns;
  const auto at = [&](int64_t group) { return static_cast<size_t>(group * columns); };
  std::vector<double> count(static_cast<size_t>(groups)), mean(at(groups)), deviation(at(groups));
  // Of a constant column the sum, and with it the mean, may be rounded: its first value tells.
  std::vector<double> first(at(groups));
  std::vector<char> constant(at(groups), 1);
  const auto for_rows = [&](const auto& action) {
    for (int64_t i = 0; i < train.rows(); ++i) {
      const int64_t group = train_group[static_cast<size_t>(i)];
      action(train.row(i), group, mean.data() + at(group), deviation.data() + at(group));
    }
  };
  for_rows([&](const double* row, int64_t group, double* m, double*) {
    const bool is_first = ++count[static_cast<size_t>(group)] == 1;
    for (int64_t c = 0; c < columns; ++c) {
      const size_t j = at(group) + static_cast<size_t>(c);
      if (is_first) first[j] = row[c];
      if (row[c] != first[j]) constant[j] = 0;
      m[c] += row[c];
    }
  });
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t c = 0; c < columns; ++c)
      mean[at(g) + static_cast<size_t>(c)] /= std::max(1.0, count[static_cast<size_t>(g)]);
  }
  for_rows([&](const double* row, int64_t, const double* m, double* d) {
    for (int64_t c = 0; c < columns; ++c) d[c] += (row[c] - m[c]) * (row[c] - m[c]);
  });
  for (int64_t g = 0; g < groups; ++g) {
    const double rows = count[static_cast<size_t>(g)];
    for (int64_t c = 0; c < columns; ++c) {
      const size_t j = at(g) + static_cast<size_t>(c);
      double& d = deviation[j];
      d = constant[j] == 0 ? std::sqrt(d / (rows - 1)) : 1;
      if (constant[j] != 0 && rows > 0) mean[j] = first[j];
    }
  }
  const auto apply = [&](Matrix& matrix, const std::vector<int64_t>& group) {
    for (int64_t i = 0; i < matrix.rows(); ++i) {
      const int64_t g = group[static_cast<size_t>(i)];
      FL_CHECK(
          g < groups && count[static_cast<size_t>(g)] > 0, name, ": test row ", i,
          " is of a client without training rows, so it cannot be standardised as that client's"
          " rows are (choose standardise = pooled)");
      for (int64_t c = 0; c < columns; ++c) {
        const size_t j = at(g) + static_cast<size_t>(c);
        matrix.row(i)[c] = (matrix.row(i)[c] - mean[j]) / deviation[j];
      }
    }
  };
  apply(train, train_group);
  apply(test, test_group);
}

}  // namespace fl_sim
