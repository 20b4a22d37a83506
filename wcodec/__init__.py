"""A codec and storage format for neural-network weights."""
