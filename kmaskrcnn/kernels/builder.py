"""Compiles the kernels with the user's compilers: `kmaskrcnn build-kernels`."""

import logging
import os
import shlex
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kmaskrcnn.kernels.library import SOURCES, forget_library, library_path

logger = logging.getLogger(__name__)


def build_kernels(cuda=None, force=False) -> Path:
    """Compile the kernels against the installed TensorFlow, and put the library where `load_library` looks.

    It takes about 20 s, with CUDA a minute.

    Args:
        cuda: with kernels for GPUs, which needs CUDA's `nvcc`; None for where TensorFlow sees a GPU and nvcc is there.
        force: also where the library is there already.

    Returns:
        The library's path.

    Raises:
        RuntimeError: there is no compiler, or it fails; its own words are in the message.
    """
    cuda = _sees_gpu() and bool(_nvcc()) if cuda is None else cuda
    path = library_path(cuda)
    if path.exists() and not force:
        logger.info("%s is there already", path)
        return path
    commands = compile_commands(cuda)
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the folder itself, so that the library comes into being in one step.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="building-") as folder:
        objects = [str(Path(folder, f"{name}.o")) for name in commands]
        with ThreadPoolExecutor() as pool:
            list(pool.map(_run, ([*c, "-o", o] for c, o in zip(commands.values(), objects))))
        built = str(Path(folder, path.name))
        _run(link_command(objects, built, cuda))
        os.replace(built, path)
    forget_library()
    return path


def compile_commands(cuda) -> dict[str, list[str]]:
    """The compiler's command for each source, without its output."""
    import tensorflow as tf

    flags = tf.sysconfig.get_compile_flags()  # the last word on which C++ TensorFlow was built with
    defines = ["-DKMASKRCNN_CUDA"] if cuda else []
    common = [*_compiler(), "-fPIC", "-w", *defines]
    # The kernels profit from every instruction there is, the operations' glue from none.
    kernels = [*common, "-std=c++17", "-O3", "-march=native"]
    commands = {name: kernels for name in ("roi_align_cpu.cc", "winograd_cpu.cc")}
    commands |= {name: [*common, "-O1", *flags] for name in ("roi_align_op.cc", "winograd_op.cc")}
    if cuda:
        commands["roi_align_gpu.cc"] = [*common, "-O1", *flags]
        nvcc = _nvcc() or _missing("nvcc", "NVCC", "CUDA's toolkit brings it")
        where = "native" if _sees_gpu() else "all-major"
        commands["roi_align_cuda.cu"] = [
            *nvcc,
            "-O3",
            "-std=c++17",
            f"-arch={where}",
            "-Xcompiler=-fPIC",
        ]
    return {name: [*command, "-c", str(SOURCES / name)] for name, command in commands.items()}


def link_command(objects, output, cuda) -> list[str]:
    """The command that makes the library of the compiled sources."""
    import tensorflow as tf

    # nvcc knows where CUDA's runtime lies, and puts it into the library.
    linker = _nvcc() if cuda else _compiler()
    return [*linker, "-shared", *objects, "-o", output, *tf.sysconfig.get_link_flags()]


def _compiler():
    command = shlex.split(os.environ.get("CXX", ""))
    for candidate in ([command] if command else [["g++"], ["clang++"], ["c++"]]):
        if shutil.which(candidate[0]):
            return candidate
    return _missing(
        command[0] if command else "g++", "CXX", "your distribution's package `g++` brings it"
    )


def _nvcc():
    for command in (os.environ.get("NVCC", "nvcc"), "/usr/local/cuda/bin/nvcc"):
        if shutil.which(command):
            return [command]
    return None


def _missing(name, variable, advice):
    raise RuntimeError(
        f"{name}: no such compiler; {advice}, or the environment variable {variable} names another"
    )


def _sees_gpu():
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def _run(command):
    logger.debug("%s", shlex.join(command))
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise RuntimeError(f"{command[0]} does not start: {error}") from error
    if done.returncode:
        words = "\n".join(done.stderr.strip().splitlines()[-20:])
        raise RuntimeError(f"{shlex.join(command)} failed with {done.returncode}: {words}")
