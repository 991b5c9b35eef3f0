"""Device functions, in Triton alone: no tensor library, no device's name, no state.

Each kernel can be compiled and launched from outside. Its arguments come in the order of its
signature: pointers, then sizes and strides as integers (strides in elements; the last axis of
every array has stride 1, and where no stride is named the array is contiguous), then floats, then
``constexpr`` in capitals. The docstring gives the grid and the shapes. Programs with indices beyond
the data store nothing.

Sizes that change from step to step are not specialised upon, so that a model's kernels are few and
can all be compiled ahead.
"""
