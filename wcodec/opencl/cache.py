"""Files that can be made anew at any time, in the user's cache folder: raw bytes, named by a hash of their origin."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

import xxhash

_MARK = b"wcodec cache 1\n"


def cache_root() -> Path:
    """`$WCODEC_CACHE_DIR`, or the folder `wcodec` where the user's caches are."""
    own = os.environ.get("WCODEC_CACHE_DIR")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wcodec"


def key_of(*parts: bytes) -> str:
    """A name for what these parts determine."""
    digest = xxhash.xxh3_128()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def cache_folder(kind: str, *parts: bytes) -> Path:
    """The folder of what these parts determine, made if need be; in a temporary folder where there is no other."""
    folder = cache_root() / kind / key_of(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="wcodec-"))
    return folder


def write_atomically(path: Path, content: bytes) -> None:
    """A file that other processes see whole or not at all; nothing where the folder cannot be written."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
            Path(unfinished).replace(path)
        except OSError:
            Path(unfinished).unlink(missing_ok=True)
            raise


def remembered(kind: str, key: str) -> bytes | None:
    """What was kept under this key, or None; a file cut short or changed counts as none."""
    try:
        stored = (cache_root() / kind / key).read_bytes()
    except OSError:
        return None
    mark, checksum, content = stored[: len(_MARK)], stored[len(_MARK) : len(_MARK) + 16], stored[len(_MARK) + 16 :]
    return content if mark == _MARK and checksum == xxhash.xxh3_128_digest(content) else None


def remember(kind: str, key: str, content: bytes) -> None:
    """Keep content under a key, for this and other processes."""
    write_atomically(cache_root() / kind / key, _MARK + xxhash.xxh3_128_digest(content) + content)
