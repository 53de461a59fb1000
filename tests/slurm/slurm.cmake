# The scripts of slurm/, submitted to a Slurm that the test starts; skipped, with a line that says
# why, where it cannot.
if(NOT FL_SIM_TEST_PYTHON OR h5py_missing)
  return()
endif()
add_test(NAME slurm COMMAND ${FL_SIM_TEST_PYTHON} -B ${CMAKE_CURRENT_LIST_DIR}/slurm_scripts.py)
set_tests_properties(slurm PROPERTIES LABELS whole_program TIMEOUT 3000 COST 310
                     ENVIRONMENT FL_SIM=$<TARGET_FILE:fl_sim>
                     SKIP_REGULAR_EXPRESSION "no Slurm here: ")
