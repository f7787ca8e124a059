"""RoIAlign as TensorFlow operations of our own, in C++ and CUDA, built on demand on the user's machine.

    kmaskrcnn build-kernels     compiles them against the installed TensorFlow, once
    builder.py                  that command
    library.py                  where the result lies, and loading it
    roi_align.py                the operation, with its gradient
    roi_align_geometry.h        where samples lie              lanes.h           float, bfloat16, float16 as vectors
    roi_align_cpu.{h,cc}        the kernels for CPUs           roi_align_op.cc   what TensorFlow needs to call them
    roi_align_cuda.{h,cu}       the kernels for GPUs           roi_align_gpu.cc  what TensorFlow needs to call those
    roi_align_inputs.h          what the operations refuse

Nothing else needs them: without the library the layers use TensorFlow's own operations.
"""
