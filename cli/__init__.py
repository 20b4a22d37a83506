"""The command line: `wcodec encode`, `decode`, `info` and the rest, one file a command."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Sequence

import click

from wcodec.errors import WcodecError

_COMMANDS = (
    *("bench", "completion", "decode", "demo", "devices", "diff", "encode", "eval", "info", "run", "transcode"),
    "verify",
)


class _Commands(click.Group):
    """Imports a command's module when it is called, so that `wcodec info` does not wait for the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"wcodec.cli.{cmd_name}").command
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="wcodec", message="%(prog)s %(version)s")
def cli() -> None:
    """A codec and storage format for neural-network weights.

    Exit codes: 0 done; 1 failed, or models differ; 2 wrong usage; 3 the input is damaged or not what it claims
    to be; 4 a device, decoder or optional package is missing; 130 interrupted.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: errors are one line on stderr, with the exit code of their kind."""
    if threading.current_thread() is threading.main_thread():
        # ended politely, a command still removes its temporary files
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        result = cli.main(arguments, prog_name="wcodec", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except WcodecError as error:
        return _fail(str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", 130)
    except BrokenPipeError:
        # the reader of our output has gone: nobody is left to tell, and the interpreter's flush must not fail either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError:
        return _fail("out of memory", 1)
    except OSError as error:
        return _fail(f"{error.filename or 'input or output'}: {error.strerror or error}", 1)


def _fail(message: str, code: int) -> int:
    from wcodec.cli.output import print_error

    print_error(message)
    return code
