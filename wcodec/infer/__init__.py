"""Running a model from its archive: its graph lowered, its weights on an OpenCL device, its layers as kernels."""
