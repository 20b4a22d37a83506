"""How pictures become a model's input, as an archive's metadata says it, and reading pictures and arrays from files.

A stranger's archive and a stranger's picture may hold anything: both are bounded before memory is taken for them.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
import numpy as np
from msgspec import Meta

from wcodec.errors import CorruptFileError, InputError, MissingDependencyError, UnsupportedError, UsageError
from wcodec.formats.index import presentable
from wcodec.formats.source import FileSource
from wcodec.model import Array

if TYPE_CHECKING:
    from PIL.Image import Image

PREPROCESSING_KEY = "wcodec.preprocessing"
LABELS_KEY = "wcodec.labels"

Resize = Literal["crop", "stretch", "letterbox"]
Layout = Literal["NCHW", "NHWC"]
Order = Literal["RGB", "BGR", "GRAY"]

MAX_SIDE = 4096
"""Of a model's input, in pixels."""

MAX_LABELS = 1 << 16
MAX_STORED_TEXT = 1 << 16
"""Characters of a JSON object in the metadata."""

MAX_PICTURE_BYTES = 1 << 28
MAX_PICTURE_PIXELS = 100_000_000
MAX_PICTURE_SIDE = 1 << 16
"""Resizing holds a picture as wide as the input and as high as the picture, whatever few pixels that one has."""

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What Pillow may read; others of its formats start programs or are of no use here."""

_GREY = 114
"""What is around a letterboxed picture, as YOLO models are trained."""

_Stored = TypeVar("_Stored", bound=msgspec.Struct)


class Preprocessing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a picture becomes an input: resized, its channels put in `order`, then (x - mean) * scale for x in 0..255.

    `size` is (height, width). `mean` and `scale` hold one number for every channel, in `order`, or one for all.
    "crop" takes the centre of a picture whose shorter side was resized to size / crop_ratio, "letterbox" fits the
    whole picture in and pads it with grey, "stretch" minds no proportions. Raises `UsageError` for what cannot be.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    size: tuple[Annotated[int, Meta(ge=1, le=MAX_SIDE)], Annotated[int, Meta(ge=1, le=MAX_SIDE)]]
    resize: Resize = "crop"
    crop_ratio: float = 0.875
    layout: Layout = "NCHW"
    order: Order = "RGB"

    def __post_init__(self) -> None:
        choices = ((self.resize, Resize), (self.layout, Layout), (self.order, Order))
        for value, known in choices:
            if value not in get_args(known):
                raise UsageError(f"{value!r} is not one of {', '.join(get_args(known))}")
        if not all(1 <= side <= MAX_SIDE for side in self.size):
            raise UsageError(f"size {self.size}: it is a height and a width of 1 to {MAX_SIDE} pixels")
        for name, values in (("mean", self.mean), ("scale", self.scale)):
            if len(values) not in {1, self.channels}:
                raise UsageError(
                    f"{len(values)} numbers for {name}: {self.order} has {self.channels}, or give one for all"
                )
            if not all(math.isfinite(value) and abs(value) <= 1e6 for value in values):
                raise UsageError(f"{name} {values}: its numbers lie between -1000000 and 1000000")
        if not 0.1 <= self.crop_ratio <= 1:
            raise UsageError(f"a crop ratio of {self.crop_ratio}: it is 0.1 to 1")

    @property
    def channels(self) -> int:
        return 1 if self.order == "GRAY" else 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """That of one input."""
        rows, columns = self.size
        return (self.channels, rows, columns) if self.layout == "NCHW" else (rows, columns, self.channels)

    def to_json(self) -> str:
        """One line of JSON, as the metadata holds it."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str, where: str = f"metadata {PREPROCESSING_KEY!r}") -> Preprocessing:
        """What `to_json` wrote; `where` is what an error says holds it.

        Raises `UnsupportedError` for a field or a choice this version does not know, `CorruptFileError` for anything
        else that describes no preprocessing.
        """
        return parse_stored(text, cls, where)


@dataclass(frozen=True)
class Placement:
    """Where a picture of `width` by `height` lies in the input: input = picture * scale + offset, for x and for y."""

    width: int
    height: int
    scale: tuple[float, float]
    offset: tuple[float, float]

    def to_picture(self, boxes: Array) -> Array:
        """Boxes (n, 4) of left, top, right, bottom in the input, in pixels of the picture and cut at its edges."""
        found = (np.asarray(boxes, np.float64) - [*self.offset, *self.offset]) / [*self.scale, *self.scale]
        return np.clip(found, 0, [self.width, self.height, self.width, self.height])


def preprocessing_of(metadata: Mapping[str, str]) -> Preprocessing | None:
    """What an archive's metadata says of its input, None where it says nothing; errors are those of `from_json`."""
    return Preprocessing.from_json(metadata[PREPROCESSING_KEY]) if PREPROCESSING_KEY in metadata else None


def labels_of(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    """The names of the classes, None where the metadata has none; `CorruptFileError` if they cannot be names."""
    text = metadata.get(LABELS_KEY)
    return None if text is None else parse_labels(text, f"metadata {LABELS_KEY!r}")


def parse_labels(text: str, where: str) -> tuple[str, ...]:
    """One label a line. Raises `CorruptFileError` for more than `MAX_LABELS` of them, or none."""
    count = text.count("\n") + 1
    if count > MAX_LABELS + 1:
        raise CorruptFileError(where, f"{count} lines are more than the {MAX_LABELS} labels that are allowed")
    labels = tuple(line.strip() for line in text.removesuffix("\n").split("\n"))
    if len(labels) > MAX_LABELS or not any(labels):
        raise CorruptFileError(where, f"holds no labels, one a line, {MAX_LABELS} at most")
    return labels


def parse_stored(text: str, kind: type[_Stored], where: str) -> _Stored:
    """A struct from its JSON, strictly; errors are those of `Preprocessing.from_json`."""
    if len(text) > MAX_STORED_TEXT:
        raise CorruptFileError(where, f"{len(text)} characters are more than the {MAX_STORED_TEXT} allowed")
    try:
        stored = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise CorruptFileError(where, presentable(error)) from error
    for name in stored.keys() - set(kind.__struct_fields__):
        raise UnsupportedError(f"{where}: unknown field {name[:40]!r}; a newer wcodec may know it")
    for name, hint in get_type_hints(kind).items():
        value = stored.get(name)
        if get_origin(hint) is Literal and isinstance(value, str) and value not in get_args(hint):
            raise UnsupportedError(f"{where}: unknown {name} {value[:40]!r}; a newer wcodec may know it")
    try:
        return msgspec.convert(stored, kind)
    except (msgspec.ValidationError, OverflowError) as error:
        raise CorruptFileError(where, presentable(error)) from error


def read_bytes(path: str | os.PathLike[str], limit: int) -> bytes:
    """A small file as a whole; `UsageError` where there is none, `InputError` for one of more than `limit` bytes."""
    with closing(FileSource(path)) as source:
        if source.size > limit:
            raise InputError(
                f"{source.name}: {source.size:,} bytes are more than the {limit:,} allowed for such a file"
            )
        return bytes(source.read(0, source.size))


def read_picture(path: str | os.PathLike[str]) -> Image:
    """The picture of a file, in RGB and upright as its EXIF data says; of several pictures the first.

    Raises `InputError` naming the file for what is no picture, damaged, or of more pixels than are allowed,
    `UsageError` where there is no such file, `MissingDependencyError` without Pillow.
    """
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise MissingDependencyError("pictures are read by Pillow; run: pip install 'wcodec[images]'") from error
    data = read_bytes(path, MAX_PICTURE_BYTES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Pillow's plugins raise whatever they meet in damaged files: struct.error, SyntaxError, IndexError, ...
        try:
            with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
                check_pixels(*picture.size)
                return _in_rgb(ImageOps.exif_transpose(picture))
        except MemoryError:
            raise
        except InputError as error:
            raise InputError(f"{os.fspath(path)}: {error}") from error
        except Exception as error:
            why = f" ({presentable(error) or type(error).__name__})"
            if isinstance(error, UnidentifiedImageError):  # which only tells where in memory the file is
                why = ""
            raise InputError(
                f"{os.fspath(path)}: not a picture that can be read{why}; give a JPEG or PNG file"
            ) from error


def check_pixels(width: int, height: int) -> None:
    """Raises `InputError` for a picture that would take more memory than any photo needs."""
    if width * height > MAX_PICTURE_PIXELS or max(width, height) > MAX_PICTURE_SIDE:
        raise InputError(
            f"{width}x{height} pixels are more than the {MAX_PICTURE_PIXELS:,}, or {MAX_PICTURE_SIDE:,} a side, that "
            f"are allowed; make the picture smaller"
        )


def _in_rgb(picture: Image) -> Image:
    from PIL import Image

    if picture.mode == "F":
        raise InputError("its pixels are floats, of which nobody knows what is white; save it with 8 bits")
    if picture.mode.startswith("I"):  # convert would cut 16 bits at 255 instead of scaling them
        picture = Image.fromarray((np.asarray(picture).clip(0, 0xFFFF) >> 8).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
    return picture.convert("RGB")


def read_array(path: str | os.PathLike[str]) -> Array:
    """The numbers of an .npy file as f32, in C order.

    Raises `InputError` naming the file for what is no array of real numbers, `UsageError` where there is no such file.
    """
    with closing(FileSource(path)) as source:
        if bytes(source.read(0, min(6, source.size))) != b"\x93NUMPY":
            raise InputError(f"{source.name}: not an .npy array; save one with numpy.save")
    try:
        # mapped, so that a shape the file is too short for takes no memory
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        raise InputError(f"{source.name}: not an .npy array that can be read ({presentable(error)})") from error
    if array.dtype.kind not in "fiub":
        raise InputError(f"{source.name}: not an array of real numbers, but of {array.dtype.name}")
    return np.array(array, np.float32, order="C")


def place(width: int, height: int, how: Preprocessing) -> Placement:
    """Where a picture of this size comes to lie in the input."""
    rows, columns = how.size
    if how.resize == "stretch":
        return Placement(width, height, (columns / width, rows / height), (0.0, 0.0))
    if how.resize == "crop":
        scale = max(rows / height, columns / width) / how.crop_ratio
        return Placement(width, height, (scale, scale), ((columns - width * scale) / 2, (rows - height * scale) / 2))
    scale = min(rows / height, columns / width)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    offset = float((columns - inner[0]) // 2), float((rows - inner[1]) // 2)
    return Placement(width, height, (inner[0] / width, inner[1] / height), offset)


def prepare(picture: Image, how: Preprocessing) -> tuple[Array, Placement]:
    """The input for an RGB picture, f32 of shape (1, C, H, W) or (1, H, W, C), and where in it the picture is."""
    from PIL import Image

    placement = place(*picture.size, how)
    if how.order == "GRAY":
        picture = picture.convert("L")
    rows, columns = how.size
    (scale_x, scale_y), (left, top) = placement.scale, placement.offset
    if how.resize == "letterbox":
        inner = round(picture.width * scale_x), round(picture.height * scale_y)
        canvas = Image.new(picture.mode, (columns, rows), (_GREY,) * how.channels)
        canvas.paste(picture.resize(inner, Image.Resampling.BILINEAR), (int(left), int(top)))
    else:
        # the part of the picture that becomes the input; rounding must not put its edges outside
        box = (
            max(0.0, -left / scale_x),
            max(0.0, -top / scale_y),
            min(float(picture.width), (columns - left) / scale_x),
            min(float(picture.height), (rows - top) / scale_y),
        )
        canvas = picture.resize((columns, rows), Image.Resampling.BILINEAR, box=box)
    pixels = np.asarray(canvas, np.float32).reshape(rows, columns, how.channels)
    if how.order == "BGR":
        pixels = pixels[..., ::-1]
    pixels = (pixels - np.asarray(how.mean, np.float32)) * np.asarray(how.scale, np.float32)
    if how.layout == "NCHW":
        pixels = pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(pixels[None]), placement
