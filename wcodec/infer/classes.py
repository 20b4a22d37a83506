"""The true classes of inputs: told by the folders they are in, or by a file."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath

from wcodec.errors import CorruptFileError, MismatchError
from wcodec.infer.preprocess import read_bytes

_MOST_BYTES = 1 << 28


def by_folder(names: Iterable[str], labels: Sequence[str] | None, classes: int) -> dict[str, int]:
    """The class of each input by the first folder of its name.

    Folders are called by labels, or by numbers of classes; or there is one for each class, in alphabetical order.
    `MismatchError` for inputs outside of folders, and folders that are no classes.
    """
    folders = {name: PurePath(name).parts[0] for name in names if len(PurePath(name).parts) > 1}
    outside = [name for name in names if name not in folders]
    if outside:
        raise MismatchError(f"{outside[0]}: is in no folder that is called by its class; give a file of labels")
    found = sorted(set(folders.values()))
    try:
        numbers = {folder: number_of(folder, labels, classes, f"folder {folder!r}") for folder in found}
    except MismatchError:
        if len(found) != classes:
            raise
        numbers = {folder: number for number, folder in enumerate(found)}
    return {name: numbers[folder] for name, folder in folders.items()}


def by_file(path: str | os.PathLike[str], labels: Sequence[str] | None, classes: int) -> dict[str, int]:
    """The class of each input by a file of lines "name,class" (a comma or a tab), or "class" for row after row.

    Raises `CorruptFileError` for what is no such file, `MismatchError` for classes that the model does not have.
    """
    try:
        text = read_bytes(path, _MOST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorruptFileError(os.fspath(path), f"not a text file in UTF-8, at byte {error.start}") from error
    found: dict[str, int] = {}
    lines = [line for line in text.splitlines() if line.strip()]
    for number, cells in enumerate(csv.reader(lines, delimiter="\t" if "\t" in text else ",")):
        where = f"{os.fspath(path)}, line {number + 1}"
        if len(cells) not in (1, 2):
            raise CorruptFileError(where, "is not a name and a class with a comma or a tab between")
        name = cells[0].strip() if len(cells) == 2 else str(number)
        found[name] = number_of(cells[-1].strip(), labels, classes, where)
    if not found:
        raise CorruptFileError(os.fspath(path), "holds no classes")
    return found


def class_of(name: str, classes: Mapping[str, int]) -> int:
    """The class of an input, known by its name or by the file's name alone; `MismatchError` where there is none."""
    number = classes.get(name, classes.get(PurePath(name).name))
    if number is None:
        raise MismatchError(f"{name}: nothing tells its class")
    return number


def number_of(text: str, labels: Sequence[str] | None, classes: int, where: str) -> int:
    """The class of a label or a number; `MismatchError` for what is neither."""
    if labels is not None:
        known = {_plain(label): number for number, label in enumerate(labels)}
        if _plain(text) in known:
            return known[_plain(text)]
    if text.isdecimal() and int(text) < classes:
        return int(text)
    kind = "no label of the model, and no number of a class" if labels is not None else "no number of a class"
    raise MismatchError(f"{where}: {text!r:.100} is {kind}, of which there are {classes}")


def _plain(label: str) -> str:
    return " ".join(label.replace("_", " ").casefold().split())
