"""The compiled library: one for each TensorFlow, processor and state of the sources, in the user's cache folder."""

import functools
import hashlib
import logging
import os
import platform
import threading
from pathlib import Path

logger = logging.getLogger(__name__)

SOURCES = Path(__file__).parent


def kernels_folder() -> Path:
    """Where libraries lie: `$KMASKRCNN_KERNELS`, else `kmaskrcnn/kernels` in the user's cache folder."""
    if folder := os.environ.get("KMASKRCNN_KERNELS"):
        return Path(folder)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "kmaskrcnn", "kernels")


def library_path(cuda=False) -> Path:
    """The library that fits this process, with kernels for GPUs or without, whether it was built yet or not."""
    return kernels_folder() / f"{_library_stem()}{'-cuda' if cuda else ''}.so"


def load_library():
    """The operations as a Python module, or None, which is logged once, where there is no library that loads.

    Of two libraries it is the one with kernels for GPUs.
    """
    with_gpu = library_path(cuda=True)
    return _load(with_gpu if with_gpu.exists() else library_path())


def forget_library():
    """Look again at the next `load_library`: a library was built."""
    _load.cache_clear()


def has_gpu_kernels(library) -> bool:
    """Whether a loaded library was built with CUDA."""
    return library is not None and _has_gpu_kernels()


def _has_gpu_kernels():
    from tensorflow.python.framework import kernels

    registered = kernels.get_registered_kernels_for_op("KmaskrcnnRoiAlign").kernel
    return any(kernel.device_type == "GPU" for kernel in registered)


@functools.cache
def _load(path):
    import tensorflow as tf

    if not path.exists():
        logger.info(
            "RoIAlign and 3x3 convolutions run on TensorFlow's own operations; "
            "`kmaskrcnn build-kernels` builds faster ones"
        )
        return None
    try:
        return tf.load_op_library(str(path))
    except (tf.errors.OpError, OSError) as error:
        logger.warning(
            "%s does not load, TensorFlow's own operations take its place: %s", path, error
        )
        return None


def once(function):
    """Decorator: a function without arguments is called once in a process, whatever its threads do."""
    lock, cached = threading.Lock(), functools.cache(function)

    @functools.wraps(function)
    def locked():
        with lock:
            return cached()

    return locked


@functools.cache
def _library_stem():
    """Another TensorFlow, processor or source is another file, so no process ever loads one that does not fit."""
    import tensorflow as tf

    flags = [flag for flag in tf.sysconfig.get_compile_flags() if not flag.startswith("-I")]
    parts = [tf.version.GIT_VERSION, *flags, _processor()]
    built_from = [path for path in sorted(SOURCES.glob("*.*")) if path.suffix != ".py"]
    parts += [path.read_text() for path in (*built_from, SOURCES / "builder.py")]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return f"tensorflow-{tf.__version__}-{digest[:12]}"


def _processor():
    """What `-march=native` depends on: a cache folder may be shared by unlike machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line for line in lines if line.startswith(("flags", "Features"))), platform.processor()
    )
