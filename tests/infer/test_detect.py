"""Detections: decoding against plain loops, what is kept of overlapping boxes, and the way back to the picture."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.support.attacks import bounded, is_presentable
from wcodec.errors import CorruptFileError, InputError, UnsupportedError, UsageError
from wcodec.infer.detect import (
    DETECTION_KEY,
    MAX_DETECTIONS,
    Candidates,
    Detection,
    Detector,
    class_count,
    decode,
    detect,
    detector_of,
    draw,
    label_of,
    overlap,
    suppress,
)
from wcodec.infer.preprocess import Placement, Preprocessing, place
from wcodec.model import Array

ANCHORS = (((81.0, 82.0), (135.0, 169.0), (344.0, 319.0)), ((10.0, 14.0), (23.0, 27.0), (37.0, 58.0)))
V3 = Detector(kind="yolov3", anchors=ANCHORS, score=0.3)
V8 = Detector(kind="yolov8", score=0.3)

Box = tuple[float, float, float, float]
Row = tuple[Box, float, int]
"""A box in pixels of the input, its score and its class."""


# Metadata


def test_metadata_comes_back() -> None:
    for detector in (V3, V8):
        text = detector.to_json()
        assert "\n" not in text
        assert detector_of({DETECTION_KEY: text}) == detector
    assert detector_of({}) is None
    assert Detector.from_json('{"kind": "yolov8"}') == Detector(kind="yolov8")


@pytest.mark.parametrize(
    ("stored", "kind", "problem"),
    [
        (None, CorruptFileError, "Expected `object`"),
        ({}, CorruptFileError, "kind"),
        ({"kind": "yolov99"}, UnsupportedError, "unknown kind 'yolov99'"),
        ({"kind": "yolov8", "masks": 1}, UnsupportedError, "unknown field 'masks'"),
        ({"kind": "yolov8", "score": 2}, CorruptFileError, "0 to 1"),
        ({"kind": "yolov8", "iou": -1}, CorruptFileError, "0 to 1"),
        ({"kind": "yolov8", "score": "0.5"}, CorruptFileError, "score"),
        ({"kind": "yolov8", "anchors": [[[1, 2]]]}, CorruptFileError, "no anchors"),
        ({"kind": "yolov3"}, CorruptFileError, "anchors"),
        ({"kind": "yolov3", "anchors": [[]]}, CorruptFileError, "anchors"),
        ({"kind": "yolov3", "anchors": [[[1]]]}, CorruptFileError, "anchors"),
        ({"kind": "yolov3", "anchors": [[[0, 1]]]}, CorruptFileError, "anchors"),
        ({"kind": "yolov3", "anchors": [[[1, 1e9]]]}, CorruptFileError, "anchors"),
        ({"kind": "yolov3", "anchors": [[[1, 1]]] * 9}, CorruptFileError, "anchors"),
        ({"kind": "yolov3", "anchors": [[[1, 1]] * 17]}, CorruptFileError, "anchors"),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict | None) else "",
)
def test_hostile_metadata_is_refused(stored: Any, kind: type[InputError], problem: str) -> None:
    with bounded(), pytest.raises(kind, match=problem) as caught:
        detector_of({DETECTION_KEY: json.dumps(stored)})
    assert caught.type is kind
    assert DETECTION_KEY in str(caught.value)
    assert is_presentable(caught.value)


def test_values_that_cannot_be_are_wrong_usage() -> None:
    for changes in ({"kind": "yolov3"}, {"kind": "yolov8", "score": math.nan}, {"kind": "ssd"}):
        with pytest.raises(UsageError):
            Detector(**changes)


# Decoding


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def around(cx: float, cy: float, w: float, h: float) -> Box:
    return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2


def plainly_v8(output: Array, score: float) -> list[Row]:
    found = []
    _, rows, count = output.shape
    for column in range(count):
        classes = [float(output[0, row, column]) for row in range(4, rows)]
        if max(classes) >= score:
            cx, cy, w, h = (float(output[0, row, column]) for row in range(4))
            found.append((around(cx, cy, w, h), max(classes), classes.index(max(classes))))
    return found


def plainly_v3(
    output: Array, anchors: tuple[tuple[float, float], ...], size: tuple[int, int], score: float
) -> list[Row]:
    found = []
    _, channels, rows, columns = output.shape
    each = channels // len(anchors)
    for number, (width, height) in enumerate(anchors):
        for row in range(rows):
            for column in range(columns):
                x, y, w, h, objectness, *logits = output[0, number * each : (number + 1) * each, row, column].tolist()
                classes = [sigmoid(objectness) * sigmoid(logit) for logit in logits]
                if max(classes) >= score:
                    cx = (sigmoid(x) + column) * size[1] / columns
                    cy = (sigmoid(y) + row) * size[0] / rows
                    box = around(cx, cy, math.exp(w) * width, math.exp(h) * height)
                    found.append((box, max(classes), classes.index(max(classes))))
    return found


def same(found: Candidates, plain: list[Row]) -> None:
    assert len(plain) > 10
    assert found.classes.tolist() == [row[2] for row in plain]
    assert np.allclose(found.scores, [row[1] for row in plain], atol=1e-6)
    assert np.allclose(found.boxes, [row[0] for row in plain], rtol=1e-5, atol=1e-4)


def test_yolov8_outputs_decode_as_a_plain_loop_does() -> None:
    rng = np.random.default_rng(0)
    sides = rng.uniform(1, 300, (1, 4, 200))
    output = np.concatenate([sides, rng.uniform(0, 0.4, (1, 7, 200))], axis=1).astype(np.float32)
    assert class_count([output], V8) == 7
    same(decode([output], V8, (320, 320)), plainly_v8(output, 0.3))


def test_yolov3_heads_decode_as_a_plain_loop_does() -> None:
    rng = np.random.default_rng(0)
    heads = [rng.normal(0, 2, (1, 3 * 9, rows, columns)).astype(np.float32) for rows, columns in ((3, 5), (6, 10))]
    assert class_count(heads, V3) == 4
    plain = [
        row for head, anchors in zip(heads, ANCHORS, strict=True) for row in plainly_v3(head, anchors, (96, 160), 0.3)
    ]
    same(decode(heads, V3, (96, 160)), plain)


def test_numbers_without_sense_give_no_boxes_and_no_warnings() -> None:
    output = np.full((1, 6, 8), 0.9, np.float32)
    output[0, 0, 1] = np.nan
    output[0, 1, 2] = np.inf
    output[0, 2:4, 3] = 3e38
    output[0, :2, 3] = 3e38
    output[0, 4:, 4] = np.nan
    assert len(decode([output], V8, (32, 32)).scores) == 4
    head = np.zeros((1, 21, 2, 2), np.float32)
    head[0, 2, 0, 0] = np.inf
    head[0, 4:7] = 99
    head[0, 11:14] = -np.inf
    head[0, 0, 1, 1] = np.nan
    found = decode([head], Detector(kind="yolov3", anchors=(ANCHORS[0],), score=0.5), (64, 64))
    assert np.isfinite(found.boxes).all()
    assert len(found.scores) == 3


@pytest.mark.parametrize(
    ("shapes", "detector"),
    [
        ([], V8),
        ([(1, 84)], V8),
        ([(1, 4, 100)], V8),
        ([(2, 84, 100)], V8),
        ([(1, 84, 100), (1, 84, 100)], V8),
        ([(1, 84, 10, 10)], V8),
        ([(1, 27, 3, 3)], V3),
        ([(1, 27, 3, 3), (1, 30, 6, 6)], V3),
        ([(1, 26, 3, 3), (1, 26, 6, 6)], V3),
        ([(1, 15, 3, 3), (1, 15, 6, 6)], V3),
        ([(1, 27, 9), (1, 27, 36)], V3),
        ([(1, 27, 3, 0), (1, 27, 6, 6)], V3),
        ([(2, 27, 3, 3), (2, 27, 6, 6)], V3),
        ([()], V8),
        ([(), ()], V3),
    ],
    ids=str,
)
def test_outputs_of_another_kind_are_refused(shapes: list[tuple[int, ...]], detector: Detector) -> None:
    outputs = [np.zeros(shape, np.float32) for shape in shapes]
    with pytest.raises(InputError, match=f"a {detector.kind} detector's outputs"):
        detect(outputs, detector, (96, 96), Placement(96, 96, (1.0, 1.0), (0.0, 0.0)))


# Overlaps


def plain_overlap(a: Box, b: Box) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
    return common / union if union > 0 else 0.0


def plainly_kept(rows: list[Row], iou: float) -> list[int]:
    """The numbers of the rows to keep, best first."""
    kept: list[int] = []
    for number in sorted(range(len(rows)), key=lambda number: (-rows[number][1], number)):
        box, _, name = rows[number]
        if not any(rows[other][2] == name and plain_overlap(rows[other][0], box) > iou for other in kept):
            kept.append(number)
    return kept


def boxes() -> st.SearchStrategy[list[Row]]:
    corner, side = st.integers(0, 20), st.integers(0, 20)
    box = st.builds(lambda x, y, w, h: (float(x), float(y), float(x + w), float(y + h)), corner, corner, side, side)
    return st.lists(st.tuples(box, st.sampled_from([0.1, 0.25, 0.5, 0.75, 0.9]), st.integers(0, 2)), max_size=30)


def candidates(rows: list[Row]) -> Candidates:
    return Candidates(
        np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[1] for row in rows], np.float32),
        np.array([row[2] for row in rows], np.int64),
    )


@given(boxes(), st.sampled_from([0.0, 0.3, 0.45, 0.99, 1.0]))
def test_of_overlapping_boxes_the_best_is_kept(rows: list[Row], iou: float) -> None:
    kept = suppress(candidates(rows), iou).tolist()
    assert kept == plainly_kept(rows, iou)
    for number in kept:
        others = [other for other in kept if other != number and rows[other][2] == rows[number][2]]
        assert all(plain_overlap(rows[other][0], rows[number][0]) <= iou for other in others)
    for number in set(range(len(rows))) - set(kept):
        box, score, name = rows[number]
        better = [rows[other] for other in kept if rows[other][1] >= score and rows[other][2] == name]
        assert any(plain_overlap(other, box) > iou for other, _, _ in better)


@given(boxes())
def test_what_is_kept_is_kept_again(rows: list[Row]) -> None:
    kept = [rows[number] for number in suppress(candidates(rows), 0.45)]
    assert suppress(candidates(kept), 0.45).tolist() == list(range(len(kept)))


@given(boxes(), boxes())
def test_classes_do_not_disturb_each_other(some: list[Row], others: list[Row]) -> None:
    other_classes = [(box, score, name + 3) for box, score, name in others]
    kept = suppress(candidates(some + other_classes), 0.45)
    assert [number for number in kept if number < len(some)] == suppress(candidates(some), 0.45).tolist()


def test_overlap_of_boxes() -> None:
    found = overlap(np.array([0, 0, 2, 2]), np.array([[0, 0, 2, 2], [1, 0, 3, 2], [2, 2, 3, 3], [1, 1, 1, 1]]))
    assert found.tolist() == pytest.approx([1, 1 / 3, 0, 0])


def test_boxes_beyond_a_number_are_dropped() -> None:
    rows: list[Row] = [((float(x), 0.0, x + 0.9, 1.0), 0.5, 0) for x in range(MAX_DETECTIONS + 50)]
    assert suppress(candidates(rows), 0.5).tolist() == list(range(MAX_DETECTIONS))


# Back to the picture


@pytest.mark.parametrize("resize", ["crop", "stretch", "letterbox"])
def test_detections_are_in_pixels_of_the_picture(resize: Any) -> None:
    placement = place(640, 480, Preprocessing(mean=(0,), scale=(1,), size=(320, 320), resize=resize))
    truth = (200.0, 120.0, 420.0, 300.0)
    left, top, right, bottom = (
        edge * placement.scale[axis] + placement.offset[axis] for edge, axis in zip(truth, (0, 1, 0, 1), strict=True)
    )
    output = np.zeros((1, 4 + 2, 3), np.float32)
    output[0, :4, 0] = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
    output[0, :4, 1] = -900, -900, 10, 10  # outside of the picture
    output[0, 5, :2] = 0.8
    [found] = detect([output], V8, (320, 320), placement)
    assert found.index == 1
    assert found.score == pytest.approx(0.8)
    assert found.box == pytest.approx(truth, abs=1e-3)


def test_boxes_are_cut_at_the_edges_of_the_picture() -> None:
    placement = place(100, 50, Preprocessing(mean=(0,), scale=(1,), size=(100, 100), resize="letterbox"))
    output = np.array([[[50.0], [50.0], [200.0], [200.0], [1.0]]], np.float32)
    [found] = detect([output], V8, (100, 100), placement)
    assert found == Detection(0, 1.0, (0.0, 0.0, 100.0, 50.0))


# Drawing


def test_boxes_are_drawn_where_they_are() -> None:
    picture = Image.new("RGB", (300, 200), "black")
    drawn = draw(picture, [Detection(0, 0.9, (50.0, 80.0, 250.0, 150.0))], ["cat"])
    changed = np.argwhere(np.asarray(drawn).any(axis=-1))
    assert not np.asarray(picture).any()  # a copy is drawn on
    assert changed[:, 1].min() == 50
    assert changed[:, 1].max() == 249
    assert changed[:, 0].max() == 149
    assert not np.asarray(drawn)[90:140, 60:240].any()
    assert np.asarray(drawn)[60:80, 50:100].any()  # the label


@pytest.mark.parametrize(
    "box",
    [
        (0.0, 0.0, 64.0, 48.0),
        (63.5, 47.5, 64.0, 48.0),
        (0.0, 0.0, 0.1, 0.1),
        (0.0, 47.0, 64.0, 48.0),
        (10.2, 0.0, 10.3, 48.0),
    ],
    ids=str,
)
@pytest.mark.parametrize("label", ["", "x" * 500, "a\nb\x1b[2J", "猫 ε \U0001f431", "\ud800"], ids=ascii)
def test_any_box_and_label_can_be_drawn(box: Box, label: str) -> None:
    for size in ((64, 48), (1, 1)):
        cut = tuple(min(edge, size[axis % 2]) for axis, edge in enumerate(box))
        drawn = draw(Image.new("RGB", size), [Detection(3, 0.5, cut)], ["a", "b", "c", label])  # type: ignore[arg-type]
        assert drawn.size == size


def test_labels() -> None:
    assert label_of(1, ["cat", "dog"]) == "dog"
    assert label_of(1, ["cat", ""]) == "class 1"
    assert label_of(2, ["cat", "dog"]) == "class 2"
    assert label_of(0, None) == "class 0"
