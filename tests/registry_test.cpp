// Plug-ins by name: what is refused when one is registered, and several made of one class.
#include "base/registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/job_parts.h"

namespace fl_sim {
namespace {

struct Tool {
  static constexpr const char* kKind = "tool";
  struct Setup {};
  explicit Tool(std::string a_name) : name(std::move(a_name)) {}
  virtual ~Tool() = default;
  std::string name;
};

struct NamedTool final : Tool {
  NamedTool(const Setup&, const std::string& a_name) : Tool(a_name) {}
};

PluginInfo with_norm() {
  return {.summary = "x", .options = {{.name = "norm", .default_value = {}, .meaning = "x"}}};
}
PluginInfo with_bound() {
  return {.summary = "x", .options = {{.name = "bound", .default_value = {}, .meaning = "x"}}};
}

// Registers within a file of that name, and leaves the catalog as it was.
class Registry : public testing::Test {
 protected:
  Registry() { register_as_from("/x/libmine.so"); }
  ~Registry() override {
    register_as_from("");
    catalog() = before_;
  }
  const Catalog before_ = catalog();
};

// Proves that a key that a plug-in of another kind declares is refused, with both names and files,
// and that nothing is registered then.
TEST_F(Registry, AKeyIsDeclaredOnce) {
  EXPECT_FALSE(register_info("aggregator", "clip", with_norm));
  EXPECT_THAT(take_registration_problems(),
              testing::ElementsAre(
                  "the key clip.norm is declared by aggregator 'clip', of /x/libmine.so, and by "
                  "transform 'clip', fl_sim's own (give one of them another name)"));
  EXPECT_FALSE(catalog()["aggregator"].contains("clip"));
  EXPECT_TRUE(take_registration_problems().empty());
}

// Proves that plug-ins of different kinds may have one name, as algorithm and data set ifca do.
TEST_F(Registry, ANameMayServeSeveralKinds) {
  EXPECT_TRUE(register_info("aggregator", "clip", with_bound));
  EXPECT_THAT(take_registration_problems(), testing::IsEmpty());
  EXPECT_EQ(plugin_info("aggregator", "clip").file, "/x/libmine.so");
}

// Proves that presets are told which of them they are.
TEST_F(Registry, PresetsKnowTheirNames) {
  EXPECT_TRUE((register_preset<Tool, NamedTool>("saw", &with_norm)));
  EXPECT_TRUE((register_preset<Tool, NamedTool>("axe", &with_bound)));
  EXPECT_EQ(make<Tool>("saw", {})->name, "saw");
  EXPECT_EQ(make<Tool>("axe", {})->name, "axe");
  EXPECT_FALSE((register_preset<Tool, NamedTool>("axe", &with_norm)));
  EXPECT_EQ(take_registration_problems().size(), 1u);
}

// Proves that fl_sim's own plug-ins declare keys as others have to.
TEST(Declared, KeysOfTheProgram) {
  for (const auto& [kind, plugins] : catalog()) {
    for (const auto& [name, info] : plugins) EXPECT_NO_THROW(check_declared(kind, name, info));
  }
}

}  // namespace
}  // namespace fl_sim
