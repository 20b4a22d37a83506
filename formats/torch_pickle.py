"""The part of the pickle language that PyTorch's state dicts are written in, read without running anything.

Pickles are programs, and even the restricted reader that torch.load uses with weights_only=True can be made to
compute for ever or to allocate without bound by a few hundred bytes. This one knows only values, containers and the
calls it is given a function for, and every instruction takes a bounded time.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any

from wcodec.errors import CorruptFileError, UnsupportedError
from wcodec.formats.cursor import Cursor

MAX_STEPS = 1 << 21
"""More instructions than the state dict of any model has; one takes at least a byte and at most some hundred."""

_MAX_ARGUMENTS = 16
"""A long tuple could otherwise be passed over and over."""

_PROTOCOLS = (2, 3)

_CONSTANTS: Mapping[bytes, Any] = {b"N": None, b"\x88": True, b"\x89": False, b")": ()}
_NUMBERS = {b"J": struct.Struct("<i"), b"K": struct.Struct("<B"), b"M": struct.Struct("<H"), b"G": struct.Struct(">d")}
_STRINGS = {b"X": struct.Struct("<I"), b"T": struct.Struct("<i"), b"U": struct.Struct("<B")}
_BYTES = {b"B": struct.Struct("<I"), b"C": struct.Struct("<B")}
_TUPLES = {b"\x85": 1, b"\x86": 2, b"\x87": 3}
_GETS = {b"h": struct.Struct("<B"), b"j": struct.Struct("<I")}
_PUTS = {b"q": struct.Struct("<B"), b"r": struct.Struct("<I")}


def load(cursor: Cursor, names: Mapping[str, Any], persistent: Callable[[Any], Any]) -> Any:
    """The value of the pickle at the cursor, which is left behind its end.

    `names` gives the meaning of every "module.name" the pickle may refer to: a function, to be called with the
    arguments the pickle has for it, or a value. `persistent` turns a persistent id into a value. Dicts of all kinds
    become dicts. Raises `CorruptFileError` for what is no pickle and `UnsupportedError` for any other name.
    """
    machine = _Machine(cursor, names, persistent)
    try:
        return machine.run()
    except (LookupError, TypeError, ValueError, AttributeError, struct.error) as error:
        raise CorruptFileError(cursor.where, f"is no sound pickle before byte {cursor.position}: {error}") from error


class _Machine:
    def __init__(self, cursor: Cursor, names: Mapping[str, Any], persistent: Callable[[Any], Any]) -> None:
        self._cursor = cursor
        self._names = names
        self._persistent = persistent
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(MAX_STEPS):
            code = self._cursor.take(1)
            if code == b".":
                return self._stack.pop()
            if not (self._push_value(code) or self._use_memo(code) or self._fill(code) or self._make(code)):
                raise ValueError(f"unknown instruction {code!r}")
        raise CorruptFileError(self._cursor.where, f"has more than {MAX_STEPS} pickle instructions")

    def _number(self, layout: struct.Struct) -> Any:
        return layout.unpack(self._cursor.take(layout.size))[0]

    def _push_value(self, code: bytes) -> bool:
        """Constants, numbers, strings, new containers."""
        push = self._stack.append
        if code in _CONSTANTS:
            push(_CONSTANTS[code])
        elif code in _NUMBERS:
            push(self._number(_NUMBERS[code]))
        elif code in _STRINGS:
            push(self._cursor.take(self._number(_STRINGS[code])).decode())
        elif code in _BYTES:
            push(self._cursor.take(self._number(_BYTES[code])))
        elif code == b"\x8a":
            push(int.from_bytes(self._cursor.take(self._cursor.take(1)[0]), "little", signed=True))
        elif code == b"}":
            push({})
        elif code == b"]":
            push([])
        elif code == b"(":
            self._below.append(self._stack)
            self._stack = []
        elif code == b"\x80":
            self._check_protocol(self._cursor.take(1)[0])
        else:
            return False
        return True

    def _check_protocol(self, protocol: int) -> None:
        if protocol not in _PROTOCOLS:
            raise UnsupportedError(
                f"{self._cursor.where}: uses pickle protocol {protocol}; save it with torch.save's own default"
            )

    def _use_memo(self, code: bytes) -> bool:
        if code in _GETS:
            self._stack.append(self._memo[self._number(_GETS[code])])
        elif code in _PUTS:
            self._memo[self._number(_PUTS[code])] = self._stack[-1]
        else:
            return False
        return True

    def _fill(self, code: bytes) -> bool:
        """Put values into the container below them."""
        if code == b"s":
            value, key = self._stack.pop(), self._stack.pop()
            _set_items(self._stack[-1], [key, value])
        elif code == b"u":
            items = self._pop_to_mark()
            _set_items(self._stack[-1], items)
        elif code == b"a":
            item = self._stack.pop()
            _extend(self._stack[-1], [item])
        elif code == b"e":
            items = self._pop_to_mark()
            _extend(self._stack[-1], items)
        else:
            return False
        return True

    def _make(self, code: bytes) -> bool:
        """Make one value of those on the stack."""
        if code == b"t":
            items = tuple(self._pop_to_mark())
            self._stack.append(items)
        elif code in _TUPLES:
            items = tuple(self._stack.pop() for _ in range(_TUPLES[code]))
            self._stack.append(items[::-1])
        elif code == b"c":
            self._stack.append(self._name())
        elif code in (b"R", b"\x81"):
            arguments, function = self._stack.pop(), self._stack.pop()
            if type(arguments) is not tuple or len(arguments) > _MAX_ARGUMENTS:
                raise TypeError("a call without a short tuple of arguments")
            self._stack.append(function(*arguments))
        elif code == b"b":
            # Attributes that were set on a container; they hold no values of the model.
            self._stack.pop()
        elif code == b"Q":
            self._stack.append(self._persistent(self._stack.pop()))
        else:
            return False
        return True

    def _name(self) -> Any:
        module, name = self._cursor.line().decode(), self._cursor.line().decode()
        full = f"{module}.{name}"
        if full not in self._names:
            raise UnsupportedError(
                f"{self._cursor.where}: holds pickled objects ({full:.100}); only plain state dicts are read, "
                "so save model.state_dict() instead"
            )
        return self._names[full]

    def _pop_to_mark(self) -> list[Any]:
        items = self._stack
        self._stack = self._below.pop()
        return items


def _set_items(target: Any, items: list[Any]) -> None:
    if type(target) is not dict or len(items) % 2:
        raise TypeError("items for something that is not a dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        set_item(target, key, value)


def set_item(target: dict[Any, Any], key: Any, value: Any) -> None:
    """Set an item of a dict; `TypeError` for a key that hashes slowly, as nested tuples do, or like many others."""
    if isinstance(key, int) and abs(key) > sys.maxsize >> 4:
        raise TypeError("a key that is a huge number")
    if not (key is None or isinstance(key, str | bytes | int | float)):
        raise TypeError("a key that is not a plain value")
    target[key] = value


def _extend(target: Any, items: list[Any]) -> None:
    if type(target) is not list:
        raise TypeError("items for something that is not a list")
    target += items
