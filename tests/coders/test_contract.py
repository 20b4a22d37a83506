"""Every coder against the contract that `wcodec.testing` holds."""

import msgspec
import numpy as np
import pytest

from wcodec.coders import CODERS
from wcodec.coders.floats import Floats
from wcodec.coders.rans import Rans
from wcodec.coders.raw import Raw
from wcodec.coders.video import VIDEO_CODERS
from wcodec.coders.zstd import Zstd
from wcodec.errors import CoderError
from wcodec.testing import SYMBOL_KINDS, check_coder, symbols_for

BYTE_CODERS = [
    Raw(),
    *(Zstd(level, layout) for layout in ("bytes", "planes", "nibbles", "crumbs") for level in (1, 19)),
    Floats(3),
    Rans(128, 1),
]
CASES = [(coder, dtype, bits) for coder in BYTE_CODERS for dtype, bits in SYMBOL_KINDS if coder.takes(dtype, bits)]


@pytest.mark.parametrize(("coder", "dtype", "bits"), CASES, ids=str)
def test_byte_coders_keep_the_contract(coder, dtype, bits):
    check_coder(coder, dtype, bits)


def test_every_coder_is_covered_and_describes_itself():
    assert {coder.id for coder in BYTE_CODERS} == CODERS.keys() - VIDEO_CODERS.keys()
    for name, kind in CODERS.items():
        assert kind.__struct_config__.tag == name
    for coder in BYTE_CODERS:
        assert msgspec.convert(msgspec.to_builtins(coder), CODERS[coder.id]) == coder


@pytest.mark.parametrize(("layout", "symbol"), [("nibbles", 8), ("nibbles", -9), ("crumbs", 2), ("crumbs", -3)])
def test_symbols_beyond_a_packed_layout_are_refused(layout, symbol):
    with pytest.raises(CoderError, match="do not fit"):
        Zstd(3, layout).encode(np.array([[[0, symbol]]], np.int8))


def test_packing_halves_and_quarters():
    frames = symbols_for(np.dtype(np.int8), 2, (1, 64, 64))
    assert len(Zstd(1, "nibbles").encode(frames)) <= 64 * 64 // 2 + 20
    assert len(Zstd(1, "crumbs").encode(frames)) <= 64 * 64 // 4 + 20
