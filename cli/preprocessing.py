"""Options that say how pictures become a model's input and what its outputs mean, for `encode` and `run`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args

import click
import msgspec

from wcodec.cli.findings import check_labels
from wcodec.errors import CorruptFileError, UsageError
from wcodec.infer.detect import DETECTION_KEY, Detector, Kind
from wcodec.infer.preprocess import (
    LABELS_KEY,
    MAX_STORED_TEXT,
    PREPROCESSING_KEY,
    Layout,
    Order,
    Preprocessing,
    Resize,
    labels_of,
    parse_labels,
    preprocessing_of,
    read_bytes,
)

_Command = TypeVar("_Command", bound=Callable[..., Any])

_OPTIONS = ("mean", "scale", "size", "resize", "layout", "order")
_NEEDED = _OPTIONS[:3]
_MAX_LABELS_BYTES = 1 << 24


class Numbers(click.ParamType[tuple[float, ...]]):
    """One number or several with commas between, such as 123.7,116.3,103.5 or 1/255."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        try:
            parts = [part.partition("/") for part in str(value).split(",")]
            return tuple(float(above) / float(below or 1) for above, _, below in parts)
        except (ValueError, ZeroDivisionError):
            self.fail(f"{value!r} is not a number or several with commas between, such as 127.5 or 1/255", param, ctx)


class Extent(click.ParamType[tuple[int, int]]):
    """The height and width of an input, such as 224 or 480x640."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        height, _, width = str(value).partition("x")
        try:
            return int(height), int(width or height)
        except ValueError:
            self.fail(f"{value!r} is not a height and width such as 224 or 480x640", param, ctx)


class Fitting(click.ParamType[tuple[str, float | None]]):
    """A way to resize, and for a crop the part of the shorter side that it takes, such as crop:0.875."""

    name = "resize"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float | None]:
        way, colon, ratio = str(value).partition(":")
        try:
            if way not in get_args(Resize) or (colon and way != "crop"):
                raise ValueError
            return way, float(ratio) if colon else None
        except ValueError:
            self.fail(f"{value!r} is not one of crop, crop:0.875, stretch, letterbox", param, ctx)


def _choice(kind: Any) -> click.Choice[str]:
    return click.Choice(get_args(kind))


def preprocessing_options(command: _Command) -> _Command:
    """The options of the input, each None where it is not given, and --labels; `take_given` gathers the former."""
    options = [
        click.option(
            "--mean", type=Numbers(), help="Subtracted from pixels of 0 to 255: one number, or one a channel."
        ),
        click.option("--scale", type=Numbers(), help="The difference is times this, such as 1/255: likewise."),
        click.option("--size", type=Extent(), metavar="HxW", help="Height and width of the input in pixels."),
        click.option(
            "--resize",
            type=Fitting(),
            metavar="HOW",
            help="crop (the centre; crop:0.875 of the shorter side), stretch or letterbox. [default: crop]",
        ),
        click.option("--layout", type=_choice(Layout), help="Axes of the input. [default: NCHW]"),
        click.option("--order", type=_choice(Order), help="Channels of the input. [default: RGB]"),
        click.option(
            "--labels",
            type=click.Path(exists=True, dir_okay=False),
            metavar="FILE",
            help="Names of classes, one a line.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def take_given(chosen: dict[str, Any]) -> dict[str, Any]:
    """Takes the options of the input out of a command's, as fields of `Preprocessing` where they were given."""
    given = {name: chosen.pop(name) for name in _OPTIONS}
    if given["resize"] is not None:
        given["resize"], given["crop_ratio"] = given["resize"]
    return {name: value for name, value in given.items() if value is not None}


def preprocessing_from(metadata: Mapping[str, str], given: Mapping[str, Any], source: str) -> Preprocessing:
    """What the metadata says, with what was given instead; `UsageError` where neither says enough."""
    stored = preprocessing_of(metadata)
    if stored is not None:
        return msgspec.structs.replace(stored, **given)
    missing = [f"--{name}" for name in _NEEDED if name not in given]
    if missing:
        raise UsageError(
            f"nothing says how pictures become the input of {source}; give {' '.join(missing)} (and --resize, --order, "
            f"--layout where they differ from the defaults), here or to wcodec encode, which stores them"
        )
    return Preprocessing(**given)


def read_text(path: str, limit: int) -> str:
    """A text file as UTF-8; `CorruptFileError` where it is none, `InputError` for one of more than `limit` bytes."""
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorruptFileError(path, f"not a text file in UTF-8, at byte {error.start}") from error


def read_labels(path: str) -> tuple[str, ...]:
    return parse_labels(read_text(path, _MAX_LABELS_BYTES), path)


def read_detector(named: str) -> Detector:
    """The detector of a kind, or that of a JSON file."""
    if named in get_args(Kind):
        return Detector(kind=named)  # type: ignore[arg-type]  # it is one
    if not named.endswith(".json"):
        raise UsageError(f"{named!r} is no kind of detector, and no .json file; there are {', '.join(get_args(Kind))}")
    return Detector.from_json(read_text(named, MAX_STORED_TEXT), named)


def take_metadata(chosen: dict[str, Any]) -> dict[str, str]:
    """Takes --labels, --detector and the options of the input out of a command's, as an archive's metadata."""
    given, labels, detector = take_given(chosen), chosen.pop("labels"), chosen.pop("detector")
    metadata = {}
    if given:
        metadata[PREPROCESSING_KEY] = preprocessing_from({}, given, "the model").to_json()
    if labels is not None:
        metadata[LABELS_KEY] = "\n".join(read_labels(labels))
    if detector is not None:
        metadata[DETECTION_KEY] = read_detector(detector).to_json()
    return metadata


def check_described(metadata: Mapping[str, str], graph: bytes | None) -> None:
    """Raise an error where what is to be stored of a model's pictures and classes is not what its graph says."""
    if graph is None:
        return
    from wcodec.infer.lowering.source import declared_classes, declared_shapes

    inputs, _ = declared_shapes(graph)
    how, labels = preprocessing_of(metadata), labels_of(metadata)
    if how is not None and len(inputs) == 1:
        pairs = zip(inputs[0][1:], how.shape, strict=False)
        if len(inputs[0]) != 4 or any(isinstance(n, int) and n != m for n, m in pairs):
            taken, given = ("x".join(map(str, shape)) for shape in (inputs[0][1:], how.shape))
            raise UsageError(
                f"pictures would become {given}, but the model takes {taken}; give another --size, --order or --layout"
            )
    classes = declared_classes(graph)
    if classes is not None and DETECTION_KEY not in metadata:
        check_labels(labels, classes)
