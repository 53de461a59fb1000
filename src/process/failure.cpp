#include "process/failure.h"

#include <c10/util/Exception.h>

namespace fl_sim {

std::string text_of_error() {
  try {
    throw;
  } catch (const c10::Error& error) {
    return error.what_without_backtrace();
  } catch (const std::exception& error) {
    return error.what();
  } catch (...) {
    return "something was thrown that is no std::exception (a plug-in's, most likely)";
  }
}

}  // namespace fl_sim
