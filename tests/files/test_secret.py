"""A file that holds a secret is read only if nobody but its owner may read it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kdump.errors import KdumpError
from kdump.files.secret import LIMIT, read_secret
from kdump.fleet.oidc import load
from kdump.targets.collector import read_token
from kdump.targets.s3 import read_credentials

READERS: tuple[Callable[[str], object], ...] = (
    read_secret,
    read_token,
    read_credentials,
    lambda path: load(Path(path)),
)
CONTENTS = 'access_key_id = "a"\nsecret_access_key = "b"\nissuer = "https://id.example"\nclient_id = "c"\n'


@pytest.mark.parametrize("read", READERS)
def test_others_must_not_be_able_to_read_it(read: Callable[[str], object], tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(CONTENTS)
    for mode in (0o640, 0o604, 0o620, 0o602, 0o610, 0o666):
        path.chmod(mode)
        with pytest.raises(KdumpError, match=rf"(?s)may be read by others.*its mode is {mode:04o}.*chmod 600 {path}"):
            read(str(path))


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("content", "why"), [(None, "No such file"), (b"\xff\xfe", "decode"), (bytes(LIMIT + 1), "larger than 1 MiB")]
)
def test_what_is_no_secret_file(read: Callable[[str], object], content: bytes | None, why: str, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o600)
    with pytest.raises(KdumpError, match=rf"(?s)secret cannot be read.*{why}"):
        read(str(path))


def test_a_secret_without_end(tmp_path: Path) -> None:
    with pytest.raises(KdumpError):
        read_secret("/dev/zero")
