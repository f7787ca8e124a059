"""Memory that is given back is asked for again a millisecond later: tell the C library to keep it.

A step allocates and frees hundreds of tensors of many megabytes. glibc returns each of them to the kernel and
fetches, zeroes and maps fresh pages for the next, on one core, while the others wait. Keeping them took 15 to 40 % off
the time of a small model on CPUs; the peak stays what it was (measured, benchmarks/RESULTS.md).
"""

import ctypes

# Names and numbers of glibc's malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory(one_heap=False) -> bool:
    """Let this process keep freed memory for its next tensors.

    The commands call it; call it at the start of your own program or notebook where it runs on CPUs. It changes
    the whole process, so importing the package does not do it.

    Args:
        one_heap: let all threads share one heap, where each usually keeps its own: what one has freed serves the
            others. A training step's peak is a seventh lower at the same speed, a prediction's as well, but that
            takes a tenth longer. The commands that train do it.

    Returns:
        Whether it took effect; it does with glibc (most Linux distributions), elsewhere nothing changes.

    Example:
        >>> from kmaskrcnn.allocation import keep_freed_memory
        >>> keep_freed_memory()
        True
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 64 * 2**20}
    settings |= {M_ARENA_MAX: 1} if one_heap else {}
    return all(mallopt(name, value) == 1 for name, value in settings.items())
