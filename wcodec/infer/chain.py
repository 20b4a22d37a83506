"""Many kernels in one, for devices where starting a kernel may take as long as the kernel itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from wcodec.infer.calls import Call, Given, Region, Scratch
from wcodec.model import Array
from wcodec.opencl.device import Device, kernel_text, translating

_UNIT = 64
"""Bytes that offsets are counted in: UNIT of kernels/chain_start.cl."""

_OWN_BYTES = 64
"""Bytes of a chain's parameters besides its buffers."""

_IDS = "int id0, int id1, int id2"
"""A work-item's place, which kernels are told by functions and their successors by parameters."""

_NAMED = re.compile(
    r"^(?:typedef [\w ]+ (\w+);|\} (\w+);|(?:INLINED|inline|kernel) [\w ]+? \**(\w+)\(|#define (\w+))", re.MULTILINE
)
"""Types, functions and macros that files of kernels define."""


class Chain:
    """Kernels that one launch runs, one after the other.

    Each of the device's cores runs one work-group, which takes work-items of a kernel until none is left, and waits
    for the others' last ones before it goes on. A group that begins late, or when others have ended, finds less to do,
    or nothing; none waits for what has not begun, nor for long: whatever groups remain do the rest.
    """

    def __init__(self, device: Device, calls: Sequence[Call]) -> None:
        """Of kernels without barriers, whose work-items are groups of their own."""
        self._device, self._groups = device, device.device.max_compute_units
        self._buffers = list(dict.fromkeys(region.whole for call in calls for region in _regions(call)))
        variants = list(dict.fromkeys((call.sources, call.defines) for call in calls))
        functions = list(dict.fromkeys((call.sources, call.defines, call.name) for call in calls))
        parts = [kernel_text(("chain_start.cl",))]
        for number, variant in enumerate(variants):
            called = {name: place for place, (*of, name) in enumerate(functions) if (*of,) == variant}
            parts.append(_variant(number, *variant, called))
        parts.append(_main(len(self._buffers), len(functions)))
        rows = [self._words(call, functions.index((call.sources, call.defines, call.name))) for call in calls]
        begins = np.cumsum([len(rows) + 1, *map(len, rows)], dtype=np.int32)[:-1]
        table = np.concatenate([np.array([len(rows)], np.int32), begins, *rows])
        names = ", ".join(dict.fromkeys(call.what for call in calls))
        program = device.program("\n".join(parts), (), f"{len(calls)} kernels as one, those of {names[:200]}")
        control = np.zeros(1 + 2 * len(rows), np.uint32)
        flags = device.cl.mem_flags.READ_WRITE | device.cl.mem_flags.COPY_HOST_PTR
        with translating(f"a chain of {len(calls)} kernels"):
            self._kernel = device.cl.Kernel(program, "chain")
            own = [device.cl.Buffer(device.context, flags, hostbuf=held) for held in (table, control)]
            scratch = device.cl.LocalMemory(max(_UNIT, *(sum(map(_local_size, call.arguments)) for call in calls)))
            self._kernel.set_args(*self._buffers, *own, scratch)
        self._own = own

    def enqueue(self, queue: Any) -> None:
        """Begin to run."""
        self._device.cl.enqueue_nd_range_kernel(queue, self._kernel, (self._groups,), (1,))

    def _words(self, call: Call, function: int) -> Array:
        """What the table says of a call."""
        words = [np.array([function, *call.size, *(1,) * (3 - len(call.size))], np.int32)]
        scratch = 0
        for given in call.arguments:
            if isinstance(given, Scratch):
                words.append(np.array([scratch], np.int32))
                scratch += _local_size(given)
            elif isinstance(given, Region):
                words.append(np.array([self._buffers.index(given.whole), given.offset // _UNIT], np.int32))
            else:
                words.append(np.array([-1, 0], np.int32) if given is None else np.frombuffer(given.tobytes(), np.int32))
        return np.concatenate(words)


def chains_of(device: Device, calls: Sequence[Call]) -> list[Chain]:
    """As few chains as the device's limit of parameters allows."""
    most = (device.device.max_parameter_size - _OWN_BYTES) // 8
    together: list[list[Call]] = [[]]
    buffers: set[Any] = set()
    for call in calls:
        own = {region.whole for region in _regions(call)}
        if together[-1] and len(buffers | own) > most:
            together.append([])
            buffers = set()
        together[-1].append(call)
        buffers |= own
    return [Chain(device, each) for each in together]


def _regions(call: Call) -> Iterator[Region]:
    return (given for given in call.arguments if isinstance(given, Region))


def _local_size(given: Given) -> int:
    return -(-given.size // _UNIT) * _UNIT if isinstance(given, Scratch) else 0


def _variant(number: int, sources: tuple[str, ...], defines: tuple[str, ...], called: dict[str, int]) -> str:
    """A program's text as functions that other programs of the same files can stand beside.

    `called` are the numbers of kernels in the chain. Names get the variant's number, and macros end with it.
    """
    text = kernel_text(sources)
    found = [match.groups() for match in _NAMED.finditer(text)]
    macros = {macro for *_, macro in found if macro} | {define.split("=")[0] for define in defines}
    names = {name for *those, _ in found for name in those if name}
    lines = [f"#define {define.replace('=', ' ', 1)}" for define in defines]
    lines += [f"#define {name} {name}_{number}" for name in sorted(names)]
    lines.append("#define get_global_id(axis) ((axis) == 0 ? id0 : (axis) == 1 ? id1 : id2)")
    lines.append(re.sub(r"^kernel (void \w+\()", rf"inline \1{_IDS}, ", text, flags=re.MULTILINE))
    lines += [_caller(place, name, text) for name, place in called.items()]
    lines += [f"#undef {name}" for name in ("get_global_id", *sorted(names | macros))]
    return "\n".join(lines)


def _caller(place: int, name: str, text: str) -> str:
    """A function that calls a kernel with the arguments of the table."""
    signature, *_ = re.findall(rf"^kernel void {name}\(([^)]*)\)", text, re.MULTILINE)
    passed, at = [], "words + 4"
    for parameter in signature.split(","):
        kind = re.sub(r"\s*\brestrict\b|\w+$", "", parameter.strip()).strip()
        if kind.startswith("global"):
            passed.append(f"({kind})region(buffers, {at})")
            at += " + 2"
        elif kind.startswith("local"):
            passed.append(f"({kind})(scratch + *({at}))")
            at += " + 1"
        else:
            passed.append(f"*(global const {kind} *)({at})")
            at += f" + sizeof({kind}) / 4"
    parameters = f"{_IDS}, global uchar *const *buffers, global const int *words, local uchar *scratch"
    return f"inline void call_{place}({parameters}) {{\n    {name}(id0, id1, id2, {', '.join(passed)});\n}}"


def _main(buffers: int, functions: int) -> str:
    names = [f"b{number}" for number in range(buffers)]
    calls = (f"case {n}: call_{n}(id0, id1, id2, buffers, words, scratch); break;" for n in range(functions))
    defines = {
        "PARAMETERS": ", ".join(f"global uchar *{name}" for name in names),
        "BUFFERS": ", ".join(names),
        "CALLS": " ".join(calls),
    }
    return "\n".join([*(f"#define {name} {value}" for name, value in defines.items()), kernel_text(("chain.cl",))])
