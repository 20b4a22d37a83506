"""Files written by the first version of the format: every later version reads them to the same bits."""

import io

import pytest

import wcodec
from tests.golden.make_archives import FOLDER, POLICIES, tensors
from tests.support.containers import dissect
from tests.support.models import same_bits
from tests.support.plain_decoder import decode
from wcodec.coders import CODERS


def test_every_coder_and_every_file_is_covered():
    assert {policy.coder for policy in POLICIES.values()} == set(CODERS)
    assert {path.stem for path in FOLDER.iterdir()} == set(POLICIES)


@pytest.mark.parametrize("name", POLICIES)
def test_golden_archives_decode_to_known_values(name):
    with wcodec.open(FOLDER / f"{name}.wcodec") as archive:
        expected = tensors(POLICIES[name])
        assert list(archive) == list(expected)
        for tensor, array in expected.items():
            assert same_bits(archive[tensor], array), tensor
        assert wcodec.verify(archive) == []


@pytest.mark.parametrize(
    "name", [name for name, policy in POLICIES.items() if policy.coder in ("raw", "zstd", "floats", "rans")]
)
def test_golden_archives_agree_with_a_decoder_written_from_the_specification(name):
    data = (FOLDER / f"{name}.wcodec").read_bytes()
    with wcodec.open(data) as archive:
        for tensor, array in decode(data).items():
            assert array.tobytes() == archive[tensor].astype(array.dtype).tobytes()


@pytest.mark.parametrize("name", POLICIES)
def test_the_writer_still_writes_what_the_golden_files_say(name):
    """Recipes, chunks and quantized values; the payloads' bytes may change with the libraries that make them."""
    stream = io.BytesIO()
    wcodec.encode(wcodec.Model.from_arrays(tensors(POLICIES[name])), stream, POLICIES[name])
    golden, written = ((FOLDER / f"{name}.wcodec").read_bytes(), stream.getvalue())
    if POLICIES[name].coder == "raw":
        assert written == golden
    shapes = [
        [[*entry[:5], [chunk[2] for chunk in entry[6]]] for entry in dissect(data).index["tensors"]]
        for data in (golden, written)
    ]
    assert shapes[0] == shapes[1]
    assert dissect(golden).index["recipes"] == dissect(written).index["recipes"]
