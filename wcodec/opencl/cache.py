"""Files that can be made anew at any time, in the user's cache folder: raw bytes, named by a hash of their origin."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

import xxhash

_MARK = b"wcodec cache 1\n"


def cache_root() -> Path | None:
    """`$WCODEC_CACHE_DIR`, or the folder `wcodec` where the user's caches are; None for a user without a home."""
    own, caches = os.environ.get("WCODEC_CACHE_DIR"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own)
    try:
        return Path(caches or Path.home() / ".cache") / "wcodec"
    except RuntimeError:
        return None


def key_of(*parts: bytes) -> str:
    """A name for what these parts determine."""
    digest = xxhash.xxh3_128()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def _write_atomically(path: Path, content: bytes) -> None:
    """A file that other processes see whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, unfinished = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        Path(unfinished).replace(path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise


def remembered(kind: str, key: str) -> bytes | None:
    """What was kept under this key, or None; a file cut short or changed counts as none."""
    try:
        stored = _place(kind, key).read_bytes()
    except OSError:
        return None
    mark, checksum, content = stored[: len(_MARK)], stored[len(_MARK) : len(_MARK) + 16], stored[len(_MARK) + 16 :]
    return content if mark == _MARK and checksum == xxhash.xxh3_128_digest(content) else None


def remember(kind: str, key: str, content: bytes) -> None:
    """Keep content under a key, for this and other processes; nothing where the folder cannot be written."""
    with suppress(OSError):
        _write_atomically(_place(kind, key), _MARK + xxhash.xxh3_128_digest(content) + content)


def _place(kind: str, key: str) -> Path:
    """Where content is kept; `FileNotFoundError` where there is no place for it."""
    root = cache_root()
    if root is None:
        raise FileNotFoundError(key)
    return root / kind / key
