# cmake --install: the program, the library, what plug-ins are built with, and jobs. The tree may be moved.
include(CMakePackageConfigHelpers)
install(TARGETS fl_sim RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS libfl_sim LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})

# The headers of the rooms that plug-ins may include.
set(include_dir ${CMAKE_INSTALL_INCLUDEDIR}/fl_sim)
install(FILES ${CMAKE_SOURCE_DIR}/src/fl_sim.h DESTINATION ${include_dir})
install(FILES ${generated}/fl_sim_revision.h DESTINATION ${include_dir})
foreach(room base data network learning)
  install(DIRECTORY ${CMAKE_SOURCE_DIR}/src/${room} DESTINATION ${include_dir} FILES_MATCHING PATTERN *.h)
endforeach()

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/fl_sim)
set(library_file libfl_sim${CMAKE_SHARED_LIBRARY_SUFFIX}.${PROJECT_VERSION})
set(library_soname libfl_sim${CMAKE_SHARED_LIBRARY_SUFFIX}.${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR})
get_filename_component(torch_prefix ${torch_cpu_LIBRARY} DIRECTORY)
get_filename_component(torch_prefix ${torch_prefix} DIRECTORY)
configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/fl_simConfig.cmake.in ${generated}/fl_simConfig.cmake
  INSTALL_DESTINATION ${package_dir} PATH_VARS CMAKE_INSTALL_LIBDIR CMAKE_INSTALL_BINDIR include_dir)
write_basic_package_version_file(${generated}/fl_simConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${generated}/fl_simConfig.cmake ${generated}/fl_simConfigVersion.cmake
  ${CMAKE_CURRENT_LIST_DIR}/FindFlSimTorch.cmake ${CMAKE_CURRENT_LIST_DIR}/plugin_stamp.cpp DESTINATION ${package_dir})
install(DIRECTORY ${CMAKE_SOURCE_DIR}/jobs DESTINATION ${CMAKE_INSTALL_DATADIR}/fl_sim)
