"""What the C library of this process does with freed memory."""

from __future__ import annotations

import ctypes
import os

# By name of glibc's environment variable: the parameter's number in its malloc.h, and the bytes to set.
SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": (-3, 32 * 2**20),  # larger buffers are the system's own, as large as glibc allows
    "MALLOC_TRIM_THRESHOLD_": (-1, 2**30),  # freed memory beyond goes back to the system
}


def keep_freed_memory() -> None:
    """Keep freed buffers for the next ones, here and in processes that this one starts.

    By default glibc gives buffers of a megabyte back to the system after each use, which then has to
    clear them page by page for the next layer (docs/speed.md). Variables that are set win; other C
    libraries are left as they are. It is the whole process's setting, so only the command line makes it.
    """
    set_parameter = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if set_parameter is None:
        return
    for name, (number, size) in SETTINGS.items():
        if name not in os.environ:
            set_parameter(number, size)
            os.environ[name] = str(size)
