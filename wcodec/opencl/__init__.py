"""Devices through OpenCL: finding them, building kernels for them, and decoding archives into their memory.

pyopencl is imported by `platforms.import_pyopencl` alone, when a device is asked for.
"""
