"""Files that are whole or absent: atomic writes, JSON, and the lock of a directory in use."""

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import filelock

from runtime.messages import Refusal

LOCK = ".lock"  # file in a locked directory; it stays there
TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")  # names of files that are being written


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Write a file so that a reader finds the old content or the new one, never a part."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        # It names the temporary file.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON, atomically; raises ValueError for NaN."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # A path that is not UTF-8 holds surrogates, which become escapes of JSON.
    write_atomically(path, text.encode(errors="backslashreplace"))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def read_json(path: str | Path) -> dict[str, Any]:
    """Return the object in a JSON file; raises Refusal where there is none."""
    try:
        require_regular(path)
        value = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise Refusal(f"{path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise Refusal(f"{path} does not hold a JSON object")
    return value


def sync(path: str | Path) -> None:
    """Wait until a file is on the disk."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def require_regular(path: str | Path) -> None:
    """Raise OSError unless a path is a file: a named pipe would be waited for without end."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        reason = os.strerror(number) if stat.S_ISDIR(mode) else "not a regular file"
        raise OSError(number, reason, str(path))


def hash_file(path: str | Path) -> str:
    """Return the sha256 of a file; raises OSError."""
    require_regular(path)
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@contextlib.contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Lock a directory until the block ends; raises Refusal if another process has it."""
    try:
        with filelock.FileLock(directory / LOCK, timeout=0):
            yield
    except filelock.Timeout:
        reason = "another process is working on it; wait, or choose another --name"
        raise Refusal(f"{directory}: {reason}") from None
    except NotImplementedError:
        reason = "this file system has no locks; choose a --logdir on another one"
        raise Refusal(f"{directory}: {reason}") from None
