"""Decrypt a dump, or a whole crash, that was encrypted to an age public key.

IN is a file whose name ends in .age, or the directory of a crash; every such file in it is then decrypted into the
directory OUT. --identity names the file with the private key ("AGE-SECRET-KEY-1…", as `age-keygen` writes it). `age
-d` also decrypts a single file.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from kdump.errors import KdumpError, UsageError
from kdump.files import outputs
from kdump.files.directory import Directory, DraftDirectory
from kdump.files.drafts import Draft
from kdump.foreign import read_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("input", metavar="IN", type=Path, help="an encrypted file, or the directory of a crash")
    parser.add_argument(
        "output", metavar="OUT", type=Path, help="file or directory for the plaintext; it must not exist"
    )
    parser.add_argument("-i", "--identity", required=True, type=Path, metavar="FILE", help="file with the private key")


def run(args: argparse.Namespace) -> int:
    """Decrypt; nothing is left under the final name unless it is whole and authentic."""
    identities = read_identities(args.identity)
    if not args.input.is_dir():
        decrypt_file(args.input, args.output, identities)
        return 0
    with Directory.open(args.input) as crash:  # a pipe or a link in it is not ours
        found = [args.input / name for name in crash.names() if name.endswith(".age") and crash.has_file(name)]
    if not found:
        raise KdumpError(f"{args.input} contains no encrypted file", why="names of encrypted files end in .age")
    decrypt_crash(found, args.output, identities)
    return 0


def read_identities(path: Path) -> list[str]:
    """The private keys in a file of `age-keygen`: one a line, comments with #."""
    lines = [line.strip() for line in read_file(path, 1 << 20).decode("ascii", "replace").splitlines()]
    found = [line for line in lines if line.upper().startswith("AGE-SECRET-KEY-1")]
    if not found:
        raise UsageError(f"{path} contains no private key", remedy="it is a line that begins with AGE-SECRET-KEY-1")
    return found


def decrypt_crash(sources: Sequence[Path], target: Path, identities: list[str]) -> None:
    """Decrypt files into a directory, which appears only when all of them are in it."""
    if target.is_symlink() or target.exists():
        raise KdumpError(f"{target} exists already", remedy="name another directory")
    with Directory.open(target.parent) as parent:
        draft = DraftDirectory(parent, target.name)
        try:
            for path in sources:
                name = path.name.removesuffix(".age")
                decrypt_file(path, Path(draft.directory.beneath, name), identities, f"{target}/{name}")
            draft.commit()
        finally:
            draft.discard()


def decrypt_file(source: Path, target: Path, identities: list[str], shown: str = "") -> None:
    """Decrypt one file; the target appears only when all of it is authentic, with mode 0600.

    `shown`: what it will be called.
    """
    from kdump.targets.age import decrypt

    outputs.check(target, [source], replace=False)
    draft = Draft(target)
    try:
        with source.open("rb") as reading, outputs.writer(os.dup(draft.fd)) as writing:
            for chunk in decrypt(reading, identities, str(source)):
                writing.write(chunk)
        try:
            draft.commit(replace=False)
        except FileExistsError:
            raise KdumpError(
                f"{target} was created by another program in the meantime", remedy="name another file"
            ) from None
    finally:
        draft.discard()
    print(f"{shown or target}: {target.stat().st_size} bytes")
