"""A plan: the steps and coders of a model's tensors, as a file that a person can read and change."""

from __future__ import annotations

import os
from typing import Annotated, Any, Self

import msgspec
from msgspec import Meta

from wcodec.coders import CODERS
from wcodec.coders.video import QuantizedVideo
from wcodec.errors import CorruptFileError, UnsupportedError, UsageError
from wcodec.formats.atomic import atomic_file
from wcodec.formats.index import presentable
from wcodec.infer.preprocess import read_bytes

_MAX_BYTES = 1 << 26

VERSION = 1


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What becomes of one tensor: the mean step of its rows, by its logarithm, and the coder with its `qp`.

    A step is in units of the weights; those of rows that matter more are smaller, in proportion.
    """

    step: Annotated[float, Meta(gt=0, le=1e30)]
    coder: str = "auto"
    qp: Annotated[int, Meta(ge=1, le=255)] | None = None


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Choices by the names of tensors. Others are encoded as they would be without a plan."""

    wcodec_plan: int = VERSION
    tensors: dict[str, Choice]

    def to_json(self) -> str:
        """A tensor a line."""
        lines = [f"    {_json(name)}: {_json(choice)}" for name, choice in self.tensors.items()]
        return f'{{\n  "wcodec_plan": {VERSION},\n  "tensors": {{\n' + ",\n".join(lines) + "\n  }\n}\n"

    def write(self, path: str | os.PathLike[str]) -> None:
        """Into a file, whole or not at all; `OutputError` where that fails."""
        with atomic_file(path) as stream:
            stream.write(self.to_json().encode())

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """A plan that `write` wrote or a person has changed.

        Raises `CorruptFileError` naming the place that is no plan, `UnsupportedError` for one of a later version,
        `UsageError` where there is no such file, and for coders that there are none of.
        """
        where = os.fspath(path)
        data = read_bytes(path, _MAX_BYTES)
        try:
            version = msgspec.json.decode(data, type=dict[str, Any]).get("wcodec_plan")
            if isinstance(version, int) and version > VERSION:
                raise UnsupportedError(f"{where}: a plan of version {version}; this wcodec knows {VERSION}")
            plan = msgspec.json.decode(data, type=cls)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise CorruptFileError(where, f"no plan: {presentable(error)}") from error
        for name, choice in plan.tensors.items():
            if choice.coder != "auto" and choice.coder not in CODERS:
                known = ", ".join(["auto", *sorted(CODERS)])
                raise UsageError(f"{where}: tensor {name!r}: unknown coder {choice.coder!r}; there are {known}")
            if choice.qp is not None and not issubclass(CODERS.get(choice.coder, object), QuantizedVideo):
                raise UsageError(f"{where}: tensor {name!r}: {choice.coder} takes no qp")
        return plan

    def check_names(self, names: set[str]) -> None:
        """`UsageError` for tensors that are none of the model's."""
        for name in self.tensors.keys() - names:
            raise UsageError(f"the plan has a tensor {name!r}, which the model has not")


def _json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=0).decode()
