"""`wcodec devices`: the video encoders and decoders of this machine, each tried out."""

from __future__ import annotations

import click

from wcodec.cli.options import json_option
from wcodec.cli.output import print_json, print_table
from wcodec.coders.probe import VideoDevice, probe_video


@click.command(short_help="list video encoders and decoders that work here")
@json_option
def command(as_json: bool) -> None:
    """List every encoder and decoder of h264, hevc, av1, vp9 and ffv1, software and hardware.

    Each codes one small frame in a process of its own, so that what is shown as working works.
    """
    found = probe_video()
    if as_json:
        kinds = ("encoder", "decoder")
        print_json({f"{kind}s": [device for device in found if device.kind == kind] for kind in kinds})
        return
    print_table(("name", "codec", "kind", "by", "state"), [_row(device) for device in found])
    working = [device for device in found if device.works]
    click.echo(f"{len(working)} of {len(found)} work, {sum(device.hardware for device in working)} of them in hardware")


def _row(device: VideoDevice) -> tuple[str, ...]:
    by = "hardware" if device.hardware else "software"
    return device.name, device.codec, device.kind, by, "works" if device.works else device.reason
