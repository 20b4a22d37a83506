"""`rans`: the project's own entropy coder, smaller than serial ones and decoded by any number of lanes at once."""

from wcodec.coders.rans.coder import Rans

__all__ = ["Rans"]
