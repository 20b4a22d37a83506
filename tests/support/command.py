"""Command lines run in this process."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from wcodec.cli import main

Result = tuple[int, str, str]
"""Exit code, stdout, stderr."""

Run = Callable[..., Result]


def runner(capsys: pytest.CaptureFixture[str], *before: str) -> Run:
    """What runs `wcodec`, with these arguments before those it is given."""

    def call(*arguments: object) -> Result:
        with pytest.raises(SystemExit) as exit_:
            main([*before, *(str(argument) for argument in arguments)])
        out, err = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return exit_.value.code, out, err

    return call


def refused(result: Result, code: int, message: str) -> None:
    """Hold a command to one line of error, with its exit code and a message in it."""
    found, out, err = result
    assert found == code, err
    assert out == ""
    [line] = err.splitlines()
    assert line.startswith("error: ")
    assert message in line
