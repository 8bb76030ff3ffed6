# portlease::portlease is the shared library, portlease::static the static one.
get_filename_component(portlease_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)

if(NOT TARGET portlease::portlease)
  foreach(portlease_file libportlease.so libportlease.a)
    # Beside this file, wherever distributions have their libraries; never another installation's.
    find_library(portlease_${portlease_file} NAMES ${portlease_file} PATHS "${portlease_prefix}"
      PATH_SUFFIXES lib lib64 "lib/${CMAKE_LIBRARY_ARCHITECTURE}" NO_DEFAULT_PATH)
    mark_as_advanced(portlease_${portlease_file})
    if(NOT portlease_${portlease_file})
      set(portlease_FOUND FALSE)
      set(portlease_NOT_FOUND_MESSAGE "no ${portlease_file} in ${portlease_prefix}/lib")
      return()
    endif()
  endforeach()

  add_library(portlease::portlease SHARED IMPORTED)
  set_target_properties(portlease::portlease PROPERTIES
    IMPORTED_LOCATION "${portlease_libportlease.so}"
    INTERFACE_INCLUDE_DIRECTORIES "${portlease_prefix}/include")

  add_library(portlease::static STATIC IMPORTED)
  set_target_properties(portlease::static PROPERTIES
    IMPORTED_LOCATION "${portlease_libportlease.a}"
    INTERFACE_INCLUDE_DIRECTORIES "${portlease_prefix}/include"
    INTERFACE_LINK_LIBRARIES "gcc_s;util;rt;pthread;m;dl;c")
endif()
