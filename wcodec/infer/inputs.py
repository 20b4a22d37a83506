"""Many inputs for a model, one after the other: pictures in folders, rows of an array, or what a program gives."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wcodec.errors import InputError, MismatchError, UsageError
from wcodec.infer.preprocess import Preprocessing, prepare, read_array, read_picture
from wcodec.model import Array

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""How files end that are taken for pictures in a folder."""

Source = str | os.PathLike[str] | Iterable[Array]


@dataclass(frozen=True)
class Input:
    """One input as the model takes it, f32, its first axis of length 1; `name` is a path in the folder, or a row."""

    name: str
    array: Array


class Inputs:
    """Inputs that can be gone through any number of times; each is read anew, so that few are in memory at once.

    `source` is a folder, which is searched with all its folders for pictures, a single picture, an .npy file whose
    first axis counts inputs, or an iterable of arrays whose first axes do, which are held in memory. `how` says how
    pictures become inputs. Raises `UsageError` where there is nothing, or where nothing says how to take pictures.

    `skipped` tells, after inputs were gone through, of files that are no pictures and why.
    """

    def __init__(self, source: Source, how: Preprocessing | None = None) -> None:
        self.skipped: dict[str, str] = {}
        self.how = how
        self._files: list[Path] = []
        self._arrays: list[Array] = []
        if isinstance(source, str | os.PathLike):
            self._find(Path(source))
        else:
            self._arrays = [np.asarray(array) for array in source]
        if self._files and how is None:
            raise UsageError(f"{source}: nothing says how pictures become inputs; give mean, scale and size")
        if not self._files and not any(array.ndim and len(array) for array in self._arrays):
            where = f"{os.fspath(source)}: " if isinstance(source, str | os.PathLike) else ""
            raise UsageError(f"{where}there are no pictures, and no inputs")

    def __iter__(self) -> Iterator[Input]:
        for place, name in enumerate(self.names):
            try:
                found = self.read(place)
            except InputError as error:
                self.skipped[name] = str(error)
                continue
            yield Input(name, found if isinstance(found, np.ndarray) else prepare(found, self._pictured())[0])

    def read(self, place: int) -> Image | Array:
        """What is at a place among `names`: a picture as its file has it, in RGB, or an array (1, ...) of f32.

        Raises `InputError` naming a file that is no picture.
        """
        for array in self._arrays:
            if place < len(array):
                return np.asarray(array[place], np.float32)[None]
            place -= len(array)
        return read_picture(self._files[place])

    def _pictured(self) -> Preprocessing:
        assert self.how is not None
        return self.how

    @property
    def names(self) -> list[str]:
        """Of all, pictures that cannot be read included."""
        rows = sum(len(array) for array in self._arrays)
        return [*map(str, range(rows)), *(str(file.relative_to(self._root)) for file in self._files)]

    def batches(self, count: int) -> Iterator[tuple[tuple[str, ...], Array]]:
        """Names and inputs, up to so many together; `MismatchError` where inputs are not all of one shape."""
        waiting: list[Input] = []
        for one in self:
            if waiting and one.array.shape != waiting[0].array.shape:
                raise MismatchError(f"input {one.name} is of shape {one.array.shape}, not {waiting[0].array.shape}")
            waiting.append(one)
            if len(waiting) == count:
                yield _together(waiting)
                waiting = []
        if waiting:
            yield _together(waiting)

    def _find(self, path: Path) -> None:
        self._root = path if path.is_dir() else path.parent
        if path.is_dir():
            found = (file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            self._files = sorted(found)
        elif path.suffix.lower() == ".npy":
            self._arrays = [read_array(path)]
        elif path.is_file():
            self._files = [path]
        else:
            raise UsageError(f"{path}: there is no such file or folder")


def _together(inputs: list[Input]) -> tuple[tuple[str, ...], Array]:
    return tuple(one.name for one in inputs), np.concatenate([one.array for one in inputs])
