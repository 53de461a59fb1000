// What a plug-in is built with: fl_sim reads it in the file before it loads one, and wants its own.
// fl_sim_add_plugin() compiles this into each plug-in.
#include <fl_sim_revision.h>
#include <torch/version.h>

extern "C" [[gnu::visibility("default")]] const char fl_sim_plugin_stamp[];
const char fl_sim_plugin_stamp[] =
    "fl_sim-plugin-stamp{fl_sim " FL_SIM_VERSION " (" FL_SIM_REVISION "), headers " FL_SIM_HEADERS
    ", LibTorch " TORCH_VERSION ", compiler " __VERSION__ "}";
