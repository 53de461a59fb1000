# Run at every build: writes which state of the source it is into a header, and touches that only if it changed.
#
#   cmake -DSOURCE=... -DVERSION=0.2.0 -DOUTPUT=.../revision.h -P revision.cmake
execute_process(COMMAND git -C ${SOURCE} rev-parse --show-toplevel
                OUTPUT_VARIABLE top OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
get_filename_component(source ${SOURCE} REALPATH)
set(revision unknown)
if(top STREQUAL source)  # not a folder within somebody else's repository
  execute_process(COMMAND git -C ${SOURCE} describe --always --dirty --tags
                  OUTPUT_VARIABLE revision OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  # Files that git does not know yet are built all the same.
  execute_process(COMMAND git -C ${SOURCE} ls-files --others --exclude-standard -- src algorithms partitioners
                  OUTPUT_VARIABLE untracked OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(revision STREQUAL "")
    set(revision unknown)
  elseif(NOT revision MATCHES "-dirty$" AND untracked MATCHES "\\.(cpp|h)\"?(\n|$)")
    string(APPEND revision -dirty)
  endif()
endif()

# What a plug-in is compiled against: two states of the source that are both dirty differ in it where it matters.
set(headers ${SOURCE}/src/fl_sim.h)
foreach(room base data network learning)
  file(GLOB room_headers ${SOURCE}/src/${room}/*.h)
  list(SORT room_headers)
  list(APPEND headers ${room_headers})
endforeach()
set(hashes "")
foreach(header ${headers})
  file(SHA256 ${header} hash)
  string(APPEND hashes ${hash})
endforeach()
string(SHA256 headers "${hashes}")
string(SUBSTRING ${headers} 0 12 headers)

set(text "// Written by packaging/revision.cmake at every build.\n#pragma once\n\n\
#define FL_SIM_VERSION \"${VERSION}\"\n\
#define FL_SIM_REVISION \"${revision}\"\n\
#define FL_SIM_HEADERS \"${headers}\"\n")
set(before "")
if(EXISTS ${OUTPUT})
  file(READ ${OUTPUT} before)
endif()
if(NOT before STREQUAL text)
  file(WRITE ${OUTPUT} "${text}")
endif()
