"""`wcodec completion`: the script that teaches a shell to complete wcodec's commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(short_help="print the completion script of a shell")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script for SHELL.

    For bash: add `eval "$(wcodec completion bash)"` to ~/.bashrc; fish: save it to
    ~/.config/fish/completions/wcodec.fish.
    """
    from wcodec.cli import cli

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "wcodec", "_WCODEC_COMPLETE").source())
