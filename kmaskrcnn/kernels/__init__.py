"""RoIAlign and 3x3 convolution as TensorFlow operations of our own, in C++ and CUDA, built on demand by the user.

    kmaskrcnn build-kernels     compiles them against the installed TensorFlow, once
    builder.py                  that command
    library.py                  where the result lies, and loading it
    roi_align.py, winograd.py   the operations, with their gradients

    roi_align_geometry.h        where samples lie              numbers.h        the formats of 16 bits
    roi_align_cpu.{h,cc}        the kernels for CPUs           lanes.h          numbers of all formats as vectors
    roi_align_cuda.{h,cu}       the kernels for GPUs           parallel.h       how kernels are given threads
    roi_align_inputs.h          what the operations refuse     op_resources.h   threads, memory, formats of TensorFlow
    roi_align_op.cc, _gpu.cc    what TensorFlow needs to call them

    winograd_transforms.h       the algorithm's matrices       winograd_op.cc   what TensorFlow needs to call it
    winograd_cpu.{h,cc}         the kernels for CPUs

Nothing else needs them: without the library the layers use TensorFlow's own operations.
"""
