"""The kernels that each operation can be computed by, and what they are given."""
