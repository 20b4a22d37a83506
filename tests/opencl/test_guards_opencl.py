"""What keeps kernels and the code that launches them in step."""

from __future__ import annotations

import ast
import re
from importlib.resources import files
from pathlib import Path

import numpy as np

from wcodec.coders.rans import Rans
from wcodec.coders.rans.fit import fit
from wcodec.opencl import accelerate, launch
from wcodec.opencl.batch import GROUP_FIELDS, BatchBuilder
from wcodec.opencl.layout import KERNEL_FIELDS

OPENCL = Path(str(files("wcodec.opencl")))
KERNELS = {path.name: path.read_text() for path in (OPENCL / "kernels").iterdir()}


def enums(source: str) -> list[list[str]]:
    return [re.sub(r"\s|=\s*\d+", "", body).split(",") for body in re.findall(r"enum \{(.*?)\}", source, re.DOTALL)]


def strings() -> set[str]:
    """Those in the code that launches kernels."""
    modules = [OPENCL / "launch.py", *(OPENCL.parent / "infer").rglob("*.py")]
    nodes = [node for module in modules for node in ast.walk(ast.parse(module.read_text()))]
    return {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def struct(source: str, name: str) -> list[str]:
    [body] = re.findall(r"typedef struct \{\s*uint ([^;]*);\s*\} " + name, source)
    fields: list[str] = body.split(", ")
    return fields


def test_every_file_of_kernels_is_launched() -> None:
    assert KERNELS.keys() == {name for name in strings() if name.endswith(".cl")}


def test_every_switch_of_a_kernel_is_known() -> None:
    """What kernels ask for by #if is defined by them or by the code that builds them."""
    text = "\n".join(KERNELS.values())
    conditions = " ".join(re.findall(r"#(?:el)?if(?:n?def)? (.*)", text))
    asked = set(re.findall(r"[A-Z]\w+", conditions))
    given = {name for string in strings() for name in re.findall(r"^([A-Z]\w*)(?:=|$)", string)}
    assert "DST_" in given
    assert {"TRAIL", "LANES", "SRC_BF16", "TILED"} <= asked
    assert asked <= given | set(re.findall(r"#define (\w+)", text)) | {"DST_8"}


def test_the_fields_of_a_chunk_are_those_that_the_decoder_reads() -> None:
    [chunk, group] = enums(KERNELS["rans_decode.cl"])
    frames = np.arange(54).astype(np.int8).reshape(1, 2, 27)
    coder = Rans(128, 9)
    builder = BatchBuilder(coder, 27, 1)
    builder.add(coder.encode(frames), 2, 41)
    [fields] = builder._chunks
    assert chunk[-1] == "CHUNK_FIELDS"
    assert len(fields) == len(chunk) - 1
    model = fit(frames[0], 9)
    found = dict(zip(chunk, fields, strict=False))
    assert found["FIRST_ROW"] == 41
    assert found["LOW_BITS"] == model.low
    assert found["ORIGIN"] == model.origin == -128
    assert found["LAST_CLASS"] == len(model.classes) - 1
    assert 1 << found["LOG_SIZE"] == model.size
    assert 1 << found["LOG_PHASES"] == model.phases
    assert found["CENTER_STEP"] == int(len(model.center) > 1)
    side = np.concatenate(builder._side.parts)
    place = found["POSITION"]
    assert side[place : place + 9].tolist() == model.position.tolist()
    assert group[:-1] == ["CHUNK", "VALID", "ROWS", "FIRST_COLUMN", "COLUMNS"]
    assert len(group) - 1 <= GROUP_FIELDS


def test_the_fields_of_a_chunk_are_those_that_the_encoder_reads() -> None:
    [encoder] = enums(KERNELS["rans_encode.cl"])
    [decoder, _] = enums(KERNELS["rans_decode.cl"])
    frames = np.arange(54).astype(np.int8).reshape(2, 27)
    model = fit(frames, 9)
    side, chunk = accelerate._encoder_side(model, 3)
    assert len(chunk) == len(encoder)
    found = dict(zip(encoder, chunk.tolist(), strict=True))
    assert found["ORIGIN"] == model.origin
    assert side[found["CELLS"]] == model.tables()[0].frequencies[0]
    # what `SideBuilder.put_model` gives to both is in the same order
    first, last = encoder.index("LOG_SIZE"), encoder.index("LOW_BITS")
    shared = encoder[first : last + 1]
    assert shared == decoder[decoder.index("LOG_SIZE") : decoder.index("LOW_BITS") + 1]


def test_groups_have_as_many_fields_as_kernels_pass_over() -> None:
    [number] = re.findall(r"GROUP_FIELDS = (\d+)", KERNELS["rans_decode.cl"])
    assert int(number) == GROUP_FIELDS


def test_structs_have_the_size_that_is_passed() -> None:
    assert 4 * len(struct(KERNELS["store.cl"], "Layout")) == KERNEL_FIELDS.itemsize
    assert 4 * len(struct(KERNELS["unpack.cl"], "Frames")) == launch._FRAMES.itemsize


def test_kernels_need_no_extension_but_where_the_device_has_it() -> None:
    for name, text in KERNELS.items():
        optional = r"^#if defined\(HALVES\).*\n#pragma OPENCL EXTENSION cl_khr_fp16 : enable\n#endif\n"
        others = re.sub(optional, "", text, count=name == "infer.cl", flags=re.MULTILINE)
        assert not re.search(r"\bdouble\b|#pragma OPENCL|^\s*half\d* ", others, re.MULTILINE), name


def test_names_that_comments_give_exist() -> None:
    """Comments of kernels that point to Python name what is there."""
    for name, text in KERNELS.items():
        for thing, path in re.findall(r"see ([\w.]+) in ([\w/]+\.py)", text):
            assert (OPENCL.parents[1] / path).exists(), f"{name}: {path}"
            made = rf"^ *(?:def|class) {thing.split('.')[-1]}\b"
            assert re.search(made, (OPENCL.parents[1] / path).read_text(), re.MULTILINE), f"{name}: {thing}"
