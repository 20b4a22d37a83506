"""Whole models into archives and back: every coder, every way in and out."""

import io
import itertools
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec
import msgspec
import numpy as np
import pytest

import wcodec
from tests.support.containers import assemble, dissect
from tests.support.models import awkward_arrays, awkward_model, same_bits
from wcodec import Policy
from wcodec.coders import CODERS
from wcodec.quantize import dequantize, quantize
from wcodec.report import describe
from wcodec.scales import Uniform

ARRAYS = awkward_arrays()
QUANTIZED = ("conv.weight", "fc.weight", "bf16.weight", "f64.weight", "zeros", "huge row")
LOSSLESS_CODERS = sorted(CODERS.keys() - {"floats"})


FAST = Policy(coder="zstd")


def encoded(policy: Policy = FAST, model: wcodec.Model | None = None, **more: Any) -> bytes:
    stream = io.BytesIO()
    wcodec.encode(model or awkward_model(), stream, policy, **more)
    return stream.getvalue()


def plainly_quantized(name: str, bits: int, block: tuple[int, ...], symmetric: bool = True) -> np.ndarray:
    tensor = wcodec.Tensor.from_array(name, ARRAYS[name])
    return dequantize(quantize(tensor, Uniform(bits, symmetric, block, "max")))


@pytest.fixture(scope="module")
def data() -> bytes:
    return encoded()


@pytest.mark.parametrize("coder", ["auto", *LOSSLESS_CODERS])
def test_lossless_coders_give_what_plain_quantization_gives(coder):
    archive = wcodec.open(encoded(Policy(coder=coder)))
    assert list(archive) == list(ARRAYS)
    for name, array in ARRAYS.items():
        block = (1, *(0,) * (array.ndim - 1))
        expected = plainly_quantized(name, 8, block) if name in QUANTIZED else array
        assert same_bits(archive[name], expected), name
        assert archive.tensor(name).recipe.lossless == (name not in QUANTIZED)
    assert wcodec.verify(archive) == []


@pytest.mark.parametrize("coder", ["auto", "raw", "zstd", "floats"])
def test_lossless_keeps_every_bit(coder):
    archive = wcodec.open(encoded(Policy(coder=coder, lossless=True)))
    assert all(same_bits(archive[name], array) for name, array in ARRAYS.items())
    assert all(tensor.recipe.lossless for tensor in archive.tensors())


@pytest.mark.parametrize("per", ["tensor", "channel", "group"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 7, 8, 10, 16])
def test_every_granularity_and_width(per, symmetric, bits):
    policy = Policy(coder="zstd", per=per, symmetric=symmetric, bits=bits, group_size=8)
    blocks = {"tensor": (0, 0, 0, 0), "channel": (1, 0, 0, 0), "group": (1, 8, 0, 0)}
    archive = wcodec.open(encoded(policy))
    assert same_bits(archive["conv.weight"], plainly_quantized("conv.weight", bits, blocks[per], symmetric))
    assert same_bits(archive["huge row"], plainly_quantized("huge row", bits, blocks[per][:2], symmetric))


@pytest.mark.parametrize("coder", ["h264", "hevc", "av1", "vp9"])
def test_lossy_video_is_close_and_smaller_with_qp(coder):
    sizes, errors = [], []
    for qp in (12, 30):
        archive = wcodec.open(encoded(Policy(coder=coder, qp=qp)))
        exact = plainly_quantized("huge row", 8, (1, 0))
        sizes.append(archive.tensor("huge row").stored_bytes)
        errors.append(float(np.square(archive["huge row"] - exact).mean() / np.square(exact).mean()))
        assert not archive.tensor("huge row").recipe.lossless
        kept = [name for name in ARRAYS if name not in QUANTIZED]
        assert all(same_bits(archive[name], ARRAYS[name]) for name in kept)
    assert sizes[1] < sizes[0]
    assert 0 < errors[0] < errors[1] < 1


@pytest.mark.parametrize("coder", ["hevc", "vp9"])
def test_lossy_symbols_stay_in_the_quantizers_range(coder):
    archive = wcodec.open(encoded(Policy(coder=coder, qp=40, bits=4)))
    tensor = archive.tensor("huge row")
    symbols = tensor.symbols((0, tensor.rows.count))
    assert symbols.min() >= -7
    assert symbols.max() <= 7


def test_auto_is_the_smallest_coder_tensor_by_tensor():
    sizes = {coder: wcodec.open(encoded(Policy(coder=coder))) for coder in ("auto", *LOSSLESS_CODERS)}
    for name in QUANTIZED:
        stored = {coder: archive.tensor(name).stored_bytes for coder, archive in sizes.items()}
        assert stored["auto"] == min(stored.values()), name


def test_the_same_input_gives_the_same_bytes_whatever_the_workers(data):
    assert data == encoded()
    assert encoded(workers=1) == encoded(workers=7) == data
    assert encoded(Policy(), workers=1) == encoded(Policy(), workers=3)


def test_rows_are_read_without_the_rest(data):
    archive = wcodec.open(data)
    whole = {name: archive[name] for name in archive}
    for name, start, stop in itertools.product(
        ("conv.weight", "huge row", "uint8", "empty rows"), (0, 1, -3), (None, 2, 99)
    ):
        assert same_bits(archive.tensor(name)[start:stop], whole[name][start:stop])
    with pytest.raises(wcodec.UsageError):
        archive.tensor("conv.weight")[::2]
    with pytest.raises(wcodec.UsageError):
        archive.tensor("scalar")[0:1]
    with pytest.raises(KeyError):
        archive["no such tensor"]


def test_metadata_and_what_an_archive_says_of_itself(data):
    archive = wcodec.open(encoded(metadata={"more": "text"}))
    assert archive.metadata == {"made by": "a test", "ключ": "värde", "more": "text"}
    assert archive.file_bytes > 0
    assert not archive.has_graph
    assert archive.fidelity is None
    assert archive.digests == wcodec.open(data).digests
    for tensor in archive.tensors():
        assert tensor.shape == ARRAYS[tensor.name].shape
        assert tensor.nbytes == ARRAYS[tensor.name].nbytes
        assert str(tensor.recipe)


def test_tied_tensors_are_stored_once_and_loaded_as_one():
    shared = np.random.default_rng(0).standard_normal((500, 40)).astype(np.float32)
    model = wcodec.Model.from_arrays({"embed": shared, "head": shared})
    alone = wcodec.Model.from_arrays({"embed": shared})
    tied, single = encoded(model=model), encoded(model=alone)
    assert len(tied) < len(single) + 200
    archive = wcodec.open(tied)
    assert archive.ties == {"head": "embed"}
    assert same_bits(archive["head"], archive["embed"])
    loaded = wcodec.load(archive)
    assert loaded["head"] is loaded["embed"]


def test_shards_hold_the_same_model(tmp_path):
    whole = wcodec.open(encoded())
    wcodec.encode(awkward_model(), tmp_path / "m.wcodec", Policy(coder="zstd"), shard_size=5_000)
    names = sorted(path.name for path in tmp_path.iterdir())
    count = len(names) - 1
    assert count > 1
    assert names == [f"m-{n:05d}-of-{count:05d}.wcodec" for n in range(1, count + 1)] + ["m.wcodec.index.json"]
    archive = wcodec.open(tmp_path / "m.wcodec.index.json")
    assert set(archive) == set(whole)
    assert archive.metadata == whole.metadata
    assert all(same_bits(archive[name], whole[name]) for name in whole)
    assert wcodec.verify(archive) == []
    (tmp_path / names[0]).unlink()
    assert wcodec.verify(wcodec.open(tmp_path / "m.wcodec.index.json")) != []


def test_archives_open_from_paths_files_bytes_and_urls(tmp_path, data):
    path = tmp_path / "m.wcodec"
    path.write_bytes(data)
    with fsspec.open("memory://test/m.wcodec", "wb") as stream:
        stream.write(data)
    with path.open("rb") as file:
        for target in (path, str(path), file, io.BytesIO(data), data, memoryview(data), "memory://test/m.wcodec"):
            with wcodec.open(target) as archive:
                assert same_bits(archive["int8.weight"], ARRAYS["int8.weight"])


def test_a_sixteen_bit_symbol_has_no_video_form_but_ffv1s():
    with pytest.raises(wcodec.UsageError, match="hevc has no form for integer symbols of 16 bits"):
        encoded(Policy(coder="hevc", bits=16))
    assert wcodec.verify(encoded(Policy(coder="ffv1", bits=16))) == []


@pytest.mark.parametrize(("coder", "bits"), [("h264", 10), ("hevc", 10), ("hevc", 12), ("av1", 10), ("ffv1", 12)])
def test_video_beyond_eight_bits(coder, bits):
    archive = wcodec.open(encoded(Policy(coder=coder, bits=bits)))
    assert same_bits(archive["fc.weight"], plainly_quantized("fc.weight", bits, (1, 0)))


PAIRS = [("zstd", "ffv1"), ("ffv1", "hevc"), ("hevc", "raw"), ("raw", "auto")]
PAIRS += [("zstd", "rans"), ("rans", "zstd"), ("rans", "ffv1"), ("hevc", "rans"), ("rans", "auto")]


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_transcoding_leaves_every_symbol(first, second):
    source, target = encoded(Policy(coder=first, bits=5)), io.BytesIO()
    wcodec.transcode(source, target, second)
    before, after = wcodec.open(source), wcodec.open(target.getvalue())
    assert all(same_bits(after[name], before[name]) for name in before)
    for tensor in after.tensors():
        rows = (0, tensor.rows.count)
        assert same_bits(tensor.symbols(rows), before.tensor(tensor.name).symbols(rows))
    direct = encoded(Policy(coder=second, bits=5))
    assert target.getvalue() == direct


def test_transcoding_a_lossy_archive_keeps_what_it_decodes_to():
    source, target = encoded(Policy(coder="hevc", qp=30, bits=4)), io.BytesIO()
    wcodec.transcode(source, target, "zstd")
    before, after = wcodec.open(source), wcodec.open(target.getvalue())
    assert all(same_bits(after[name], before[name]) for name in before)


def test_values_that_are_no_numbers():
    bad = np.zeros((40, 40), np.float32)
    bad[3, 5] = np.nan
    with pytest.raises(wcodec.NonFiniteError, match=r"'bad' holds nan at \(3, 5\)"):
        encoded(model=awkward_model(bad=bad))
    archive = wcodec.open(encoded(Policy(coder="zstd", lossless_nonfinite=True), awkward_model(bad=bad)))
    assert same_bits(archive["bad"], bad)
    assert same_bits(wcodec.open(encoded(Policy(lossless=True), awkward_model(bad=bad)))["bad"], bad)


def test_the_rule_of_what_is_quantized_can_be_set():
    policy = Policy(coder="zstd", keep=("conv.*",), quantize=("scalar", "conv.bias"), min_size=10_000)
    archive = wcodec.open(encoded(policy))
    quantized = [tensor.name for tensor in archive.tensors() if not tensor.recipe.lossless]
    assert quantized == ["scalar", "huge row"]


@pytest.mark.parametrize("wrong", [{"keep": ("conv2.*",)}, {"quantize": ("mask",)}, {"quantize": ("zeros", "typo")}])
def test_patterns_that_do_nothing_are_refused(wrong):
    with pytest.raises(wcodec.UsageError, match=r"no tensor"):
        encoded(Policy(coder="zstd", **wrong))


@pytest.mark.parametrize("fit", ["max", "mse"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_both_ways_to_fit_scales_read_back(fit, symmetric):
    archive = wcodec.open(encoded(Policy(coder="zstd", fit=fit, symmetric=symmetric, bits=4)))
    assert wcodec.verify(archive) == []
    for name in QUANTIZED:
        tensor = wcodec.Tensor.from_array(name, ARRAYS[name])
        block = (1, *(0,) * (len(tensor.shape) - 1))
        assert same_bits(archive[name], dequantize(quantize(tensor, Uniform(4, symmetric, block, fit))))


def test_what_a_group_or_a_channel_is_where_axes_are_few():
    arrays = {
        "depthwise": np.ones((40, 1, 3, 3), np.float32),
        "first": np.ones((40, 3, 3, 3), np.float32),
        "linear": np.ones((40, 70), np.float32),
        "bias": np.ones(70, np.float32),
    }
    blocks = {}
    for per in ("channel", "group"):
        policy = Policy(coder="zstd", per=per, group_size=32, min_size=1, quantize=("bias",))
        archive = wcodec.open(encoded(policy, wcodec.Model.from_arrays(arrays)))
        blocks[per] = {t.name: t.recipe.quantizer.block for t in archive.tensors()}  # type: ignore[union-attr]
    assert blocks["channel"] == {"depthwise": (1, 0, 0, 0), "first": (1, 0, 0, 0), "linear": (1, 0), "bias": (0,)}
    assert blocks["group"] == {"depthwise": (1, 32, 0, 0), "first": (1, 32, 0, 0), "linear": (1, 32), "bias": (32,)}


def test_an_archives_name_ends_as_archives_names_do(tmp_path):
    with pytest.raises(wcodec.UsageError, match=r"ends in \.wcodec"):
        wcodec.encode(awkward_model(), tmp_path / "m.npz", FAST)
    wcodec.encode(awkward_model(), tmp_path / "m.wcodec", FAST, shard_size=5_000)
    with pytest.raises(wcodec.UsageError, match=r"is in shards; open .*m\.wcodec\.index\.json"):
        wcodec.open(tmp_path / "m.wcodec")


@pytest.mark.parametrize(
    "wrong",
    [
        {"bits": 1},
        {"bits": 17},
        {"coder": "mp3"},
        {"coder": "zstd", "qp": 3},
        {"qp": 3},
        {"coder": "ffv1", "qp": 3},
        {"group_size": 1},
        {"level": 23, "coder": "zstd"},
        {"level": 3},
        {"per": "row"},
        {"bits": 7.5},
        {"bits": "8"},
        {"coder": "hevc", "qp": 1.5},
        {"min_size": -1},
        {"fit": "best"},
        {"keep": "conv.*"},
        {"lossless": True, "coder": "hevc", "qp": 3},
    ],
    ids=str,
)
def test_a_policy_that_cannot_be(wrong):
    with pytest.raises(wcodec.UsageError):
        Policy(**wrong)


def test_an_axis_that_a_tensor_lacks():
    with pytest.raises(wcodec.UsageError, match="has 2 axes"):
        encoded(Policy(coder="zstd", axis=3))


@pytest.mark.parametrize("work", [wcodec.encode, wcodec.transcode])
def test_source_and_target_must_differ(tmp_path, work):
    path = tmp_path / "m.npz"
    np.savez(path, a=np.zeros(3))
    with pytest.raises(wcodec.UsageError, match="same file"):
        work(path, path, Policy() if work is wcodec.encode else "zstd")
    assert np.load(path)["a"].tolist() == [0, 0, 0]


def test_progress_ends_at_the_total():
    seen: list[wcodec.Progress] = []
    data = encoded(progress=seen.append)
    wcodec.load(data, progress=seen.append)
    assert seen[-1].done == seen[-1].total == sum(array.nbytes for array in ARRAYS.values() if array.size)
    checked: list[wcodec.Progress] = []
    wcodec.verify(data, progress=checked.append)
    assert all(a.done <= b.done <= b.total for a, b in itertools.pairwise(checked))


def test_diff_tells_what_differs(data):
    same = wcodec.diff(wcodec.open(data), wcodec.open(data))
    assert {difference.kind for difference in same} == {"same"}
    found = {d.name: d for d in wcodec.diff(awkward_model(), wcodec.open(encoded(Policy(coder="zstd", bits=4))))}
    error = ARRAYS["conv.weight"] - plainly_quantized("conv.weight", 4, (1, 0, 0, 0))
    assert found["conv.weight"].max_error == pytest.approx(float(np.abs(error).max()))
    signal = np.square(ARRAYS["conv.weight"], dtype=np.float64).sum() / np.square(error, dtype=np.float64).sum()
    assert found["conv.weight"].snr_db == pytest.approx(10 * np.log10(signal))
    assert found["conv.bias"].kind == found["zeros"].kind == "same"
    others: dict[str, Any] = {"x": np.zeros(3), "y": np.zeros(3), "only a": np.zeros(1), "nan": np.array([np.nan, 1.0])}
    changed: dict[str, Any] = {
        "x": np.zeros(4),
        "y": np.zeros(3, np.float32),
        "only b": np.zeros(1),
        "nan": np.array([np.nan, 2.0]),
    }
    kinds = {d.name: d for d in wcodec.diff(wcodec.Model.from_arrays(others), wcodec.Model.from_arrays(changed))}
    assert {name: d.kind for name, d in kinds.items()} == {
        "x": "shape",
        "y": "dtype",
        "only a": "only in A",
        "only b": "only in B",
        "nan": "values",
    }
    assert kinds["nan"].max_error == 1


@pytest.mark.parametrize(
    ("a", "b", "error"),
    [
        ([np.nan, 1], [5, 1], np.inf),
        ([np.inf, 1], [np.inf, 2], 1),
        ([np.inf, 1], [1, 1], np.inf),
        ([np.inf, 1], [-np.inf, 1], np.inf),
        ([2**53 + 1, 0], [2**53, 0], 1),
        ([1e308, 0], [-1e308, 0], np.inf),
    ],
    ids=str,
)
def test_diff_of_what_is_not_finite_or_beyond_doubles(a, b, error):
    dtype = np.int64 if a[0] == 2**53 + 1 else np.float64
    models = [wcodec.Model.from_arrays({"x": np.array(values, dtype)}) for values in (a, b)]
    [found] = wcodec.diff(*models)
    assert found.kind == "values"
    assert found.max_error == error
    assert found.snr_db is not None
    assert np.isinf(found.snr_db) == (error == np.inf)


@pytest.mark.parametrize("coder", ["ffv1", "h264"])
def test_rows_that_fill_chunks_badly_come_back(coder):
    weights = np.random.default_rng(0).standard_normal((13, 460_000), dtype=np.float32)
    archive = wcodec.open(encoded(Policy(coder=coder), wcodec.Model.from_arrays({"w": weights})))
    assert wcodec.verify(archive) == []
    expected = dequantize(quantize(wcodec.Tensor.from_array("w", weights), Uniform(8, True, (1, 0), "max")))
    assert same_bits(archive["w"], expected)


def test_models_whose_index_is_repetitive_can_be_stored():
    small = np.zeros(16, np.float32)
    ties = {"x" * 300 + f".{i}": small for i in range(5000)}
    empty = {f"e{i}": np.zeros(0, np.float32) for i in range(20_000)}
    for arrays in (ties, empty):
        archive = wcodec.open(encoded(Policy(coder="raw"), wcodec.Model.from_arrays(arrays)))
        assert list(archive) == list(arrays)
    with pytest.raises(wcodec.UsageError, match="braces"):
        encoded(metadata={"hub": " ".join(f'{{"k{i}"}}' for i in range(270_000))})


def test_closing_while_another_thread_reads_is_an_error_of_ours():
    weights = np.random.default_rng(0).standard_normal((64, 1 << 17), dtype=np.float32)
    archive = wcodec.open(encoded(Policy(coder="ffv1"), wcodec.Model.from_arrays({"w": weights})), workers=2)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(lambda: [archive["w"] for _ in range(100)])
        while archive._pool is None:
            time.sleep(0.001)
        archive.close()
        assert isinstance(reading.exception(), wcodec.UsageError)


def test_auto_is_not_misled_by_rows_unlike_the_rest():
    rng = np.random.default_rng(0)
    weights = (rng.laplace(size=(6144, 1024)) * np.exp(rng.standard_normal((1, 1024)))).astype(np.float32)
    weights[:1100] = 0
    sizes = {}
    for coder in ("auto", "zstd", "h264", "ffv1"):
        sizes[coder] = len(encoded(Policy(coder=coder, bits=4), wcodec.Model.from_arrays({"w": weights})))
    assert sizes["auto"] <= 1.001 * min(sizes.values())


def test_metadata_that_is_no_text_and_streams_of_text_are_refused():
    with pytest.raises(wcodec.UsageError, match="metadata"):
        encoded(metadata={"epoch": 7})
    with pytest.raises(wcodec.UsageError, match="binary"):
        wcodec.encode(awkward_model(), io.StringIO())  # type: ignore[arg-type]


def test_fitting_scales_of_groups_needs_little_memory():
    rng = np.random.default_rng(0)
    model = wcodec.Model.from_arrays({"w": rng.standard_normal((1024, 2048)).astype(np.float32)})
    tracemalloc.start()
    wcodec.encode(model, io.BytesIO(), Policy(coder="zstd", per="group", group_size=4, fit="mse"), workers=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * model.nbytes  # four scales' worth of float64 a group of four, and chunks


def test_damage_in_shards_is_told_once_and_names_the_file(tmp_path):
    wcodec.encode(awkward_model(), tmp_path / "m.wcodec", FAST, shard_size=5_000)
    with wcodec.open(tmp_path / "m.wcodec.index.json") as archive:
        place = archive.tensor("huge row").entry.chunks[0].offset
    [shard] = [p for p in tmp_path.glob("*-of-*.wcodec") if p.stat().st_size > 500_000]
    data = bytearray(shard.read_bytes())
    data[place + 9] ^= 1
    shard.write_bytes(data)
    with wcodec.open(tmp_path / "m.wcodec.index.json") as archive:
        [problem] = wcodec.verify(archive)
        assert isinstance(problem, wcodec.CorruptFileError)
        assert problem.where == f"{shard.name}: tensor 'huge row', chunk 0"
        with pytest.raises(wcodec.CorruptFileError, match=shard.name):
            archive["huge row"]
    with pytest.raises(wcodec.UsageError, match="same file"):
        wcodec.transcode(tmp_path / "m.wcodec.index.json", tmp_path / "m.wcodec", "raw", shard_size=9_000)


def test_an_unknown_recipe_leaves_the_other_tensors_and_the_listing(data):
    index = dissect(data).index
    number = next(entry[4] for entry in index["tensors"] if entry[0] == "fc.weight")
    index["recipes"][number]["coder"]["id"] = "rans9"
    pieces = [piece for entry in index["tensors"] for piece in (entry[5], *entry[6]) if piece]
    archive = wcodec.open(assemble([data[p[0] : p[0] + p[1]] for p in pieces], index))
    assert same_bits(archive["int8.weight"], ARRAYS["int8.weight"])
    assert "rans9" in {t.name: t for t in describe(archive).tensors}["fc.weight"].stored_as
    with pytest.raises(wcodec.UnsupportedError, match="unknown coder 'rans9'"):
        archive["fc.weight"]


def test_recipes_of_the_file_are_those_of_the_tensors(data):
    archive = wcodec.open(data)
    for tensor in archive.tensors():
        stored = msgspec.json.decode(msgspec.json.encode(tensor.recipe.to_json()))
        assert type(tensor.recipe).from_json(stored, "here") == tensor.recipe
