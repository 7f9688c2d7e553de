"""A LUKS2 volume made out of a file system's image: a header by cryptsetup, the sectors encrypted here.

cryptsetup formats a plain file, but would need the device mapper of the machine that runs the test to fill the volume.
Source: dm-crypt's plain64: the tweak of a sector is its number, in units of 512 bytes, little-endian.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

MIB = 1 << 20
SECTOR = 4096
HEADER = 16 * MIB  # where the payload begins
UUID = "0b5e1f5a-5f0c-4c53-9d4e-6b64756d7004"
NAME = "cryptroot"


def encrypt(content: Path, volume: Path, passphrase: bytes) -> None:
    """Write the LUKS2 `volume` that holds `content`. A MiB of zeros is not written: it reads as noise."""
    size, key = content.stat().st_size, os.urandom(64)
    with volume.open("wb") as out:
        out.truncate(HEADER + size)
    secret = volume.with_suffix(".key")
    secret.write_bytes(key)
    command = ["cryptsetup", "luksFormat", "-q", "--type", "luks2", "--uuid", UUID, "--cipher", "aes-xts-plain64"]
    command += ["--key-size", "512", "--sector-size", str(SECTOR), "--offset", str(HEADER // 512), "--pbkdf", "pbkdf2"]
    command += ["--pbkdf-force-iterations", "1000", "--master-key-file", str(secret), "--key-file", "-", str(volume)]
    subprocess.run(command, input=passphrase, check=True)
    secret.unlink()
    with content.open("rb") as source, volume.open("r+b") as out:
        at = 0
        while block := source.read(MIB):
            if block.strip(b"\0"):
                out.seek(HEADER + at)
                out.write(b"".join(_sectors(key, at, block)))
            at += len(block)


def _sectors(key: bytes, at: int, block: bytes) -> list[bytes]:
    return [
        Cipher(algorithms.AES(key), modes.XTS(((at + start) // 512).to_bytes(16, "little")))
        .encryptor()
        .update(block[start : start + SECTOR])
        for start in range(0, len(block), SECTOR)
    ]
