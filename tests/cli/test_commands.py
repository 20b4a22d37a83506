"""The command line as a user meets it: output, exit codes, one-line errors, files left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wcodec
from tests.support.command import runner
from tests.support.models import awkward_model, same_bits
from wcodec.formats import write_model

COMMAND = [sys.executable, "-m", "wcodec"]


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Run a command line in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    return runner(capsys)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A model file and its archive."""
    folder = tmp_path_factory.mktemp("files")
    arrays = {t.name: t.array() for t in awkward_model().tensors if t.dtype not in ("i4", "c64")}
    with wcodec.Model.from_arrays(arrays) as model:
        write_model(model, folder / "m.safetensors")
    wcodec.encode(folder / "m.safetensors", folder / "m.wcodec", wcodec.Policy(coder="zstd"))
    return folder


def error_line(err: str) -> str:
    """The one line of a failed command."""
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    assert "Traceback" not in err
    return lines[0]


def test_encode_info_verify_decode_diff(run, files):
    code, out, err = run("encode", files / "m.safetensors", "a.wcodec", "--coder", "zstd", "--bits", "6")
    assert (code, err) == (0, "")
    assert "int6 per axis 0, zstd" in out
    assert "bits per weight" in out
    code, out, _ = run("info", "a.wcodec")
    assert code == 0
    assert "conv.weight" in out
    assert "weights only" in out
    code, out, err = run("verify", "a.wcodec")
    assert (code, err) == (0, "")
    assert "sound" in out
    code, out, _ = run("decode", "a.wcodec", "b.safetensors")
    assert code == 0
    code, out, _ = run("diff", "a.wcodec", "b.safetensors")
    assert code == 0
    assert "0 different" in out
    code, out, _ = run("diff", files / "m.safetensors", "b.safetensors")
    assert code == 1
    assert "conv.weight" in out
    assert "conv.bias" not in out


def test_json_is_one_document_with_what_the_tables_show(run, files):
    code, out, _ = run("encode", files / "m.safetensors", "a.wcodec", "--coder", "zstd", "--json")
    report = json.loads(out)
    assert code == 0
    assert report == json.loads(run("info", "a.wcodec", "--json")[1])
    assert report["file_bytes"] == Path("a.wcodec").stat().st_size
    assert {t["name"]: t["shape"] for t in report["tensors"]}["conv.weight"] == [24, 7, 3, 3]
    assert json.loads(run("verify", "a.wcodec", "--json")[1]) == {"source": "a.wcodec", "sound": True, "problems": []}
    differences = json.loads(run("diff", "a.wcodec", "a.wcodec", "--json")[1])
    assert {d["kind"] for d in differences} == {"same"}
    assert {"encoders", "decoders"} <= json.loads(run("devices", "--json")[1]).keys()


def test_lossless_round_trip_to_the_source_format(run, files):
    assert run("encode", files / "m.safetensors", "a.wcodec", "--lossless", "--coder", "floats")[0] == 0
    assert run("decode", "a.wcodec", "b.safetensors")[0] == 0
    assert Path("b.safetensors").read_bytes() == (files / "m.safetensors").read_bytes()


def test_transcode_through_pipes(files, tmp_path):
    first = subprocess.run(
        [*COMMAND, "transcode", "-", "-", "--coder", "raw"],
        check=False,
        input=(files / "m.wcodec").read_bytes(),
        capture_output=True,
    )
    assert (first.returncode, first.stderr) == (0, b"")
    raw = wcodec.open(first.stdout)
    zstd = wcodec.open(files / "m.wcodec")
    assert all(same_bits(raw[name], zstd[name]) for name in zstd)
    assert (
        subprocess.run([*COMMAND, "verify", "-"], input=first.stdout, capture_output=True, check=False).returncode == 0
    )


def test_shards(run, files):
    assert run("encode", files / "m.safetensors", "a.wcodec", "--coder", "zstd", "--shard-size", "5kB")[0] == 0
    assert Path("a.wcodec.index.json").exists()
    assert run("verify", "a.wcodec.index.json")[0] == 0
    assert run("decode", "a.wcodec.index.json", "b.safetensors")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["encode", "missing.onnx", "a.wcodec"], 2, "missing.onnx"),
        (["encode", "m.txt", "a.wcodec"], 2, "suffix"),
        (["encode", "folder.npz", "a.wcodec"], 2, "folder.npz"),
        (["encode", "m.npz", "m.npz"], 2, "same file"),
        (["encode", "m.npz", "nowhere/a.wcodec"], 1, "nowhere"),
        (["encode", "m.npz", "folder.wcodec"], 1, "folder.wcodec"),
        (["encode", "m.npz", "b.npz"], 2, "ends in .wcodec"),
        (["encode", "a.wcodec", "b.wcodec"], 2, "is an archive"),
        (["encode", "-", "b.wcodec"], 2, "local files"),
        (["encode", "m.npz", "memory://b.wcodec"], 2, "local files"),
        (["encode", "m.npz", "b.wcodec", "--lossless", "--bits", "4"], 2, "--bits does nothing"),
        (["encode", "m.npz", "b.wcodec", "--group-size", "4"], 2, "--group-size does nothing"),
        (["encode", "m.npz", "b.wcodec", "--level", "4"], 2, "level 4"),
        (["encode", "m.npz", "-", "--json"], 2, "--json does nothing"),
        (["encode", "m.npz", "b.wcodec", "--coder", "floats"], 2, "lossless"),
        (["encode", "m.npz", "b.wcodec", "--keep", "v*"], 2, "no tensor is called 'v*'"),
        (["decode", "a.wcodec", "-"], 2, "local files"),
        (["encode", "wrong.npz", "a.wcodec"], 3, "wrong.npz"),
        (["encode", "m.npz", "a.wcodec", "--bits", "1"], 2, "--bits"),
        (["encode", "m.npz", "a.wcodec", "--coder", "zstd", "--qp", "3"], 2, "qp"),
        (["encode", "m.npz", "a.wcodec", "--shard-size", "many"], 2, "many"),
        (["encode", "nan.npz", "a.wcodec"], 1, "'w' holds nan at (1, 2)"),
        (["decode", "wrong.npz", "b.npz"], 3, "not a .wcodec file"),
        (["decode", "a.wcodec", "b.onnx"], 2, "graph"),
        (["decode", "a.wcodec", "b.txt"], 2, "suffix"),
        (["decode", "missing.wcodec", "b.npz"], 2, "missing.wcodec"),
        (["info", "folder.npz"], 2, "folder.npz"),
        (["info", "wrong.npz"], 3, "wrong.npz: header"),
        (["diff", "a.wcodec", "cut.wcodec"], 3, "cut.wcodec"),
        (["info", "cut.wcodec"], 3, "cut short"),
        (["transcode", "a.wcodec", "a.wcodec", "--coder", "raw"], 2, "same file"),
        (["transcode", "a.wcodec", "b.wcodec"], 2, "--coder"),
        (["diff", "a.wcodec", "missing.npz"], 2, "missing.npz"),
        (["frobnicate"], 2, "frobnicate"),
        (["completion", "tcsh"], 2, "tcsh"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_are_one_line_with_their_exit_code(run, files, arguments, code, message):
    Path("folder.npz").mkdir()
    Path("folder.wcodec").mkdir()
    Path("m.txt").write_text("hello")
    Path("wrong.npz").write_bytes((files / "m.safetensors").read_bytes())
    np.savez("m.npz", w=np.ones((40, 40), np.float32))
    bad = np.ones((40, 40), np.float32)
    bad[1, 2] = np.nan
    np.savez("nan.npz", w=bad)
    wcodec.encode("m.npz", "a.wcodec")
    Path("cut.wcodec").write_bytes(Path("a.wcodec").read_bytes()[:-10])
    before = {path.name: path.stat().st_mtime_ns for path in Path().iterdir()}
    found, out, err = run(*arguments)
    assert found == code, err
    assert message in error_line(err)
    assert out == ""
    assert {path.name: path.stat().st_mtime_ns for path in Path().iterdir()} == before


def test_lossless_nonfinite(run):
    np.savez("nan.npz", w=np.full((40, 40), np.nan, np.float32))
    assert run("encode", "nan.npz", "a.wcodec", "--lossless-nonfinite")[0] == 0
    assert np.isnan(wcodec.open("a.wcodec")["w"]).all()


def test_verify_lists_every_damaged_place(run, files):
    data = bytearray((files / "m.wcodec").read_bytes())
    archive = wcodec.open(files / "m.wcodec")
    for name in ("conv.weight", "huge row"):
        data[archive.tensor(name).entry.chunks[0].offset + 5] ^= 1
    Path("bad.wcodec").write_bytes(data)
    code, out, err = run("verify", "bad.wcodec")
    assert code == 3
    assert out == ""
    assert [line.split(": ")[:3] for line in err.splitlines()] == [
        ["error", "bad.wcodec", f"tensor '{name}', chunk 0"] for name in ("conv.weight", "huge row")
    ]
    code, _, err = run("decode", "bad.wcodec", "b.safetensors")
    assert code == 3
    assert "tensor 'conv.weight', chunk 0" in error_line(err)
    assert not Path("b.safetensors").exists()


def test_devices_names_software_codecs_that_work(run):
    code, out, _ = run("devices")
    assert code == 0
    for name in ("libx264", "libx265", "libsvtav1", "libvpx-vp9", "ffv1"):
        assert any(line.split()[:1] == [name] and "works" in line for line in out.splitlines()), out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(run, shell):
    code, out, _ = run("completion", shell)
    assert code == 0
    assert "_WCODEC_COMPLETE" in out


def test_completion_completes():
    words = {**os.environ, "_WCODEC_COMPLETE": "bash_complete", "COMP_WORDS": "wcodec tra", "COMP_CWORD": "1"}
    done = subprocess.run(COMMAND, env=words, capture_output=True, text=True, check=False)
    assert "transcode" in done.stdout


def test_a_strangers_text_does_not_steer_the_terminal(run):
    arrays = {"w": np.ones((40, 40), np.float32)}
    wcodec.encode(arrays, "a.wcodec", metadata={"\x1b[2Jkey": "one\nformat version 9\x1b]0;title\x07"})
    code, out, _ = run("info", "a.wcodec")
    assert code == 0
    assert "\x1b" not in out
    assert "\\x1b[2Jkey: one\\nformat version 9" in out


def test_no_command_is_wrong_usage_and_shows_the_help(run):
    code, out, err = run()
    assert (code, out) == (2, "")
    assert err.startswith("Usage: wcodec [OPTIONS] COMMAND")


def test_version_and_help(run):
    assert run("--version")[1].startswith("wcodec 0.")
    for command in (
        "bench",
        "completion",
        "decode",
        "demo",
        "devices",
        "diff",
        "encode",
        "info",
        "run",
        "transcode",
        "verify",
    ):
        code, out, _ = run(command, "--help")
        assert code == 0
        assert "Usage: wcodec " + command in out


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_encode_leaves_the_old_target(tmp_path, how):
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {f"w{i}": rng.standard_normal((1000, 1000)).astype(np.float32) for i in range(40)}
    np.savez(tmp_path / "m.npz", **arrays)
    target = tmp_path / "m.wcodec"
    target.write_text("old")
    process = subprocess.Popen([*COMMAND, "encode", "m.npz", "m.wcodec"], cwd=tmp_path, stderr=subprocess.PIPE)
    while not [path for path in tmp_path.iterdir() if path.name not in ("m.npz", "m.wcodec")]:
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.5)
    process.send_signal(how)
    _, err = process.communicate(timeout=60)
    assert target.read_text() == "old"
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert error_line(err.decode().strip()) == "error: interrupted"
        assert {path.name for path in tmp_path.iterdir()} == {"m.npz", "m.wcodec"}
    elif how == signal.SIGTERM:
        assert process.returncode == 143
        assert {path.name for path in tmp_path.iterdir()} == {"m.npz", "m.wcodec"}
    else:
        assert process.returncode == -signal.SIGKILL


def test_a_full_disk_leaves_the_old_target(tmp_path, files):
    target = tmp_path / "m.wcodec"
    target.write_text("old")
    limited = f"import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000)); from wcodec.cli import main; main(['encode', {str(files / 'm.safetensors')!r}, 'm.wcodec', '--coder', 'zstd'])"  # noqa: E501
    done = subprocess.run([sys.executable, "-c", limited], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "m.wcodec" in error_line(done.stderr)
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["m.wcodec"]


def test_a_reader_that_goes_away_is_no_error_of_ours(files):
    command = [*COMMAND, "info", files / "m.wcodec"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode in (0, 1)  # 0 if all was written before the reader went
