"""What YOLO models find: outputs decoded to boxes, the best of overlapping ones kept, and drawn on the picture."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, get_args

import msgspec
import numpy as np
from msgspec import Meta

from wcodec.errors import InputError, MissingDependencyError, UsageError
from wcodec.infer.preprocess import Placement, parse_stored
from wcodec.model import Array

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont, ImageFont

DETECTION_KEY = "wcodec.detection"

Kind = Literal["yolov8", "yolov3"]
Anchor = tuple[float, float]

MAX_HEADS = 8
MAX_ANCHORS = 16
MAX_CANDIDATES = 30_000
"""Boxes, best first, that are looked at for overlaps."""

MAX_DETECTIONS = 300

_MAX_ANCHOR = 1e5
_MAX_STRETCH = 20.0
"""Natural logarithm of how much larger than its anchor a box may be; float32 goes on to 88, no picture does."""

_LABEL_CHARACTERS = 40


class Detector(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a model's outputs hold what it finds in a picture.

    "yolov8": one output (1, 4 + classes, n) of cx, cy, w, h in pixels of the input and class scores in 0..1.
    "yolov3": an output (1, anchors * (5 + classes), h, w) for every head, before sigmoid and exp, each of whose cells
    holds x, y, w, h, objectness and class scores for every anchor; `anchors` are (w, h) in pixels of the input, head by
    head. Boxes below `score` are dropped, and those that overlap a better one of their class by more than `iou`.
    Raises `UsageError` for values that cannot be.
    """

    kind: Kind
    anchors: Annotated[tuple[tuple[Anchor, ...], ...], Meta(max_length=MAX_HEADS)] = ()
    score: float = 0.25
    iou: float = 0.45

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UsageError(f"{self.kind!r} is no kind of detector; there are {', '.join(get_args(Kind))}")
        if not (0 <= self.score <= 1 and 0 <= self.iou <= 1):
            raise UsageError(f"score {self.score}, iou {self.iou}: both are 0 to 1")
        if bool(self.anchors) != (self.kind == "yolov3"):
            raise UsageError(
                f"{self.kind} has no anchors"
                if self.anchors
                else 'yolov3 needs "anchors": [[[w, h], ...], ...] by head'
            )
        if len(self.anchors) > MAX_HEADS or not all(1 <= len(head) <= MAX_ANCHORS for head in self.anchors):
            raise UsageError(f"anchors: there are 1 to {MAX_HEADS} heads of 1 to {MAX_ANCHORS} anchors")
        if not all(0 < side <= _MAX_ANCHOR for head in self.anchors for anchor in head for side in anchor):
            raise UsageError(f"anchors: their sides lie between 0 and {_MAX_ANCHOR:.0f} pixels")

    def to_json(self) -> str:
        """One line of JSON, as the metadata holds it."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str, where: str = f"metadata {DETECTION_KEY!r}") -> Detector:
        """What `to_json` wrote; errors are those of `Preprocessing.from_json`."""
        return parse_stored(text, cls, where)


@dataclass(frozen=True)
class Detection:
    """Something found: the index of its class, its score, and left, top, right, bottom in pixels of the picture."""

    index: int
    score: float
    box: tuple[float, float, float, float]


class Candidates(NamedTuple):
    """Boxes before overlapping ones are dropped.

    boxes: f32 (n, 4), left, top, right, bottom in pixels of the input. scores: f32 (n,). classes: integers (n,), each
    box's best class.
    """

    boxes: Array
    scores: Array
    classes: Array


def detector_of(metadata: Mapping[str, str]) -> Detector | None:
    """What an archive's metadata says of its outputs, None where it says nothing; errors are those of `from_json`."""
    return Detector.from_json(metadata[DETECTION_KEY]) if DETECTION_KEY in metadata else None


def detect(
    outputs: Sequence[Array], detector: Detector, size: tuple[int, int], placement: Placement
) -> list[Detection]:
    """What the outputs for one picture say is in it, best first, at most `MAX_DETECTIONS`.

    `size` is the input's (height, width), `placement` where the picture is in it. Raises `InputError` for outputs that
    are not of the detector's kind.
    """
    found = decode(outputs, detector, size)
    best = suppress(found, detector.iou)
    boxes = placement.to_picture(found.boxes[best])
    return [
        Detection(int(found.classes[row]), float(found.scores[row]), (left, top, right, bottom))
        for row, (left, top, right, bottom) in zip(best.tolist(), boxes.tolist(), strict=True)
        if left < right and top < bottom  # not in the padding
    ]


def class_count(outputs: Sequence[Array], detector: Detector) -> int:
    """How many classes the model tells apart; `InputError` for outputs that are not of the detector's kind."""
    shapes = ", ".join(str(array.shape) for array in outputs)
    if detector.kind == "yolov8":
        wanted = "(1, 4 + classes, n)"
        sizes = [array.shape[1] - 4 for array in outputs if array.ndim == 3]
        fits = len(outputs) == 1
    else:
        wanted = ", ".join(f"(1, {len(head)} * (5 + classes), h, w)" for head in detector.anchors)
        heads = list(zip(outputs, detector.anchors, strict=False))
        sizes = [array.shape[1] // len(head) - 5 for array, head in heads if array.ndim == 4]
        fits = len(outputs) == len(detector.anchors) and all(
            array.ndim == 4 and array.shape[1] % len(head) == 0 and 0 not in array.shape for array, head in heads
        )
    if not (fits and len(set(sizes)) == 1 and sizes[0] >= 1 and all(array.shape[0] == 1 for array in outputs)):
        raise InputError(f"a {detector.kind} detector's outputs are {wanted}, and this model's {shapes}; it is none")
    return int(sizes[0])


def decode(outputs: Sequence[Array], detector: Detector, size: tuple[int, int]) -> Candidates:
    """All boxes of finite numbers whose score is at least the detector's, in the order of the outputs."""
    classes = class_count(outputs, detector)
    with np.errstate(over="ignore", invalid="ignore"):  # of a stranger's numbers: what is not finite goes
        found = _decode(outputs, detector, size, classes)
    finite = np.isfinite(found.boxes).all(axis=1)
    return Candidates(found.boxes[finite], found.scores[finite], found.classes[finite])


def _decode(outputs: Sequence[Array], detector: Detector, size: tuple[int, int], classes: int) -> Candidates:
    if detector.kind == "yolov8":
        [rows] = (np.asarray(array, np.float32)[0].T for array in outputs)
        return _candidates(rows[:, :2], rows[:, 2:4], rows[:, 4:], detector.score)
    heads = [
        _decode_head(np.asarray(array, np.float32)[0], anchors, classes, size, detector.score)
        for array, anchors in zip(outputs, detector.anchors, strict=True)
    ]
    return Candidates(*(np.concatenate(parts) for parts in zip(*heads, strict=True)))


def _candidates(centres: Array, sides: Array, scores: Array, threshold: float) -> Candidates:
    """Centres and sides (n, 2), scores (n, classes)."""
    classes = scores.argmax(axis=1)
    best = np.take_along_axis(scores, classes[:, None], axis=1)[:, 0]
    enough = best >= threshold  # which NaN is not
    centres, sides = centres[enough], sides[enough]
    return Candidates(np.hstack([centres - sides / 2, centres + sides / 2]), best[enough], classes[enough])


def _decode_head(
    head: Array, anchors: Sequence[Anchor], classes: int, size: tuple[int, int], threshold: float
) -> Candidates:
    """A YOLOv3 head of shape (anchors * (5 + classes), h, w); cells in the order anchor, row, column."""
    rows, columns = head.shape[1:]
    cells = head.reshape(len(anchors), 5 + classes, rows, columns).transpose(0, 2, 3, 1)
    stride = np.array([size[1] / columns, size[0] / rows], np.float32)
    corner = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).astype(np.float32)
    centres = (_sigmoid(cells[..., :2]) + corner) * stride
    sides = np.exp(np.minimum(cells[..., 2:4], _MAX_STRETCH)) * np.array(anchors, np.float32)[:, None, None]
    scores = _sigmoid(cells[..., 4:5]) * _sigmoid(cells[..., 5:])
    return _candidates(centres.reshape(-1, 2), sides.reshape(-1, 2), scores.reshape(-1, classes), threshold)


def _sigmoid(x: Array) -> Array:
    """By way of tanh, which does not overflow."""
    return np.asarray(0.5 * np.tanh(0.5 * x) + 0.5)


def suppress(found: Candidates, iou: float, limit: int = MAX_DETECTIONS) -> Array:
    """Rows of the boxes to keep, best first: none overlaps a better one of its class by more than `iou`.

    Of equal scores the earlier is the better one. Looks at the best `MAX_CANDIDATES` boxes, and keeps up to `limit`.
    """
    waiting = np.argsort(-found.scores, kind="stable")[:MAX_CANDIDATES]
    kept: list[int] = []
    while len(waiting) and len(kept) < limit:
        best, waiting = int(waiting[0]), waiting[1:]
        kept.append(best)
        same = found.classes[waiting] == found.classes[best]
        waiting = waiting[~(same & (overlap(found.boxes[best], found.boxes[waiting]) > iou))]
    return np.array(kept, np.intp)


def overlap(box: Array, boxes: Array) -> Array:
    """Intersection over union of a box (4,) with each of (n, 4), in 0..1, as f64 (n,); 0 for boxes without area."""
    one, many = np.asarray(box, np.float64), np.asarray(boxes, np.float64)
    sides = np.minimum(one[2:], many[:, 2:]) - np.maximum(one[:2], many[:, :2])
    common = np.maximum(sides, 0).prod(axis=1)
    union = _area(one[None]) + _area(many) - common
    return np.asarray(np.divide(common, union, out=np.zeros(len(many)), where=union > 0))


def _area(boxes: Array) -> Array:
    return np.asarray(np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1))


def draw(picture: Image, detections: Sequence[Detection], labels: Sequence[str] | None) -> Image:
    """A copy of an RGB picture with boxes, labels and scores on it, the best on top."""
    from PIL import ImageDraw

    drawn = picture.copy()
    pen = ImageDraw.Draw(drawn)
    shorter = min(picture.size)
    width, font = max(1, round(shorter / 200)), _font(max(10, round(shorter / 32)))
    for found in sorted(detections, key=lambda detection: detection.score):
        colour = _colour(found.index)
        left, top, right, bottom = (round(edge) for edge in found.box)
        pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=width)
        text = f"{_drawable(label_of(found.index, labels))} {found.score:.0%}"
        _, _, text_width, text_height = (math.ceil(edge) for edge in pen.textbbox((0, 0), text, font=font))
        text_width, text_height = text_width + 2 * width + 2, text_height + width + 2
        # above the box where there is room, else at its top; never out of the picture
        x = max(0, min(left, picture.width - text_width))
        y = top - text_height if top >= text_height else max(0, min(top, picture.height - text_height))
        pen.rectangle((x, y, x + text_width, y + text_height), fill=colour)
        luminance = np.dot(colour, (0.299, 0.587, 0.114))
        pen.text((x + width + 1, y + 1), text, fill=(0, 0, 0) if luminance > 128 else (255, 255, 255), font=font)
    return drawn


def label_of(index: int, labels: Sequence[str] | None) -> str:
    """The name of a class, or its number for want of one."""
    return labels[index] if labels and index < len(labels) and labels[index] else f"class {index}"


def _drawable(label: str) -> str:
    text = "".join(c if c.isprintable() else "?" for c in label)
    return text if len(text) <= _LABEL_CHARACTERS else text[: _LABEL_CHARACTERS - 3] + "..."


def _font(size: int) -> FreeTypeFont | ImageFont:
    from PIL import ImageFont

    try:
        return ImageFont.load_default(size)
    except ImportError as error:
        problem = "labels are drawn by FreeType, which this Pillow lacks; run: pip install --force-reinstall pillow"
        raise MissingDependencyError(problem) from error


def _colour(index: int) -> tuple[int, int, int]:
    """A bright colour for a class: neighbours are a golden angle apart on the colour wheel."""
    red, green, blue = colorsys.hsv_to_rgb(0.11 + index * 0.618034 % 1, 0.9, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)
