"""`wcodec devices`: the OpenCL devices and the video encoders and decoders of this machine, each tried out."""

from __future__ import annotations

import click

from wcodec.cli.options import json_option
from wcodec.cli.output import print_json, print_table
from wcodec.coders.probe import VideoDevice, probe_video
from wcodec.errors import MissingDependencyError
from wcodec.opencl.platforms import INSTALL, OpenCLDevice, list_devices


@click.command(short_help="list OpenCL devices and video codecs that work here")
@json_option
def command(as_json: bool) -> None:
    """List every OpenCL device, and every encoder and decoder of h264, hevc, av1, vp9 and ffv1.

    Each is tried in a process of its own, so that what is shown as working works: a device adds two vectors, a codec
    codes a small frame.
    """
    devices, missing = _opencl()
    found = probe_video()
    if as_json:
        kinds = ("encoder", "decoder")
        codecs = {f"{kind}s": [device for device in found if device.kind == kind] for kind in kinds}
        print_json({"opencl": devices, "opencl_missing": missing, **codecs})
        return
    if devices:
        print_table(("device", "name", "kind", "platform", "driver", "half", "state"), [_device(d) for d in devices])
    click.echo(f"OpenCL: {missing}\n" if missing else "")
    print_table(("name", "codec", "kind", "by", "state"), [_codec(device) for device in found])
    working = [device for device in found if device.works]
    hardware = sum(device.hardware for device in working)
    click.echo(f"{len(working)} of {len(found)} codecs work, {hardware} of them in hardware")


def _opencl() -> tuple[tuple[OpenCLDevice, ...], str | None]:
    """The devices, and what to do where there is none."""
    try:
        devices = list_devices()
    except MissingDependencyError as error:
        return (), str(error)
    return devices, None if devices else f"no device; {INSTALL}"


def _device(device: OpenCLDevice) -> tuple[str, ...]:
    platform = f"{device.platform}, {' '.join(device.version.split()[:2])}"
    half = "yes" if device.half else "no"
    state = "works" if device.works else device.reason
    return f"opencl:{device.number}", device.name, device.kind, platform, device.driver, half, state


def _codec(device: VideoDevice) -> tuple[str, ...]:
    by = "hardware" if device.hardware else "software"
    return device.name, device.codec, device.kind, by, "works" if device.works else device.reason
