"""What may be done to a model before it is encoded; each takes a model and gives another."""

from wcodec.transforms.fold import fold

__all__ = ["fold"]
