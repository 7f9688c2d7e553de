"""Secrets that were put into a machine are in its dump, and not in its scrubbed one; nothing else is changed."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from kdump.cli.main import main
from kdump.dump.manifest import manifest_path
from kdump.memory import open_dump

pytestmark = pytest.mark.lab

SERIES = "6.12"  # the kernel of most of these tests; tests/capture/test_lab_luks.py scrubs on others
PIECE = 16  # bytes of a secret that are searched for
BY_KIND = {
    "keys": {"dm-crypt", "luks2"},
    "keyrings": {"keyring-short", "keyring-long", "keyring-logon", "keyring-master"},
    "wireguard": {"wireguard-preshared", "wireguard-private0", "wireguard-private1"},
    "tls": {"tls-aes128", "tls-aes256", "tls-chacha"},
}
KERNELS = set.union(*BY_KIND.values())  # what the kernel itself has
PROCESSES = {"password", "token"}


def pages(vmcore: Path) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """The page frame numbers that a dump holds, and the pages, shape (n, 4096)."""
    with open_dump(str(vmcore)) as dump:
        memory, size = dump.memory, dump.memory.page_size
        limit = max(each.end for each in memory.ranges) // size
        pfns = np.flatnonzero(memory.present(0, limit))
        data = np.empty((len(pfns), size), np.uint8)
        for row, pfn in enumerate(pfns.tolist()):
            data[row] = np.frombuffer(memory.view(pfn * size, size), np.uint8)
    return pfns, data


def truth(vmcore: Path) -> dict[str, bytes]:
    """The secrets by their names, as the machine's console has them."""
    console = (vmcore.parent.parent / "console.log").read_text(errors="replace")
    return {name: bytes.fromhex(text) for name, text in re.findall(r"TRUTH (\S+) ([0-9a-f]+)", console)}


def seen(data: NDArray[np.uint8], secrets: dict[str, bytes]) -> set[str]:
    """Which of them have their beginning or their end in the pages, anywhere."""
    raw = data.tobytes()
    return {name for name, secret in secrets.items() if secret[:PIECE] in raw or secret[-PIECE:] in raw}


def sbox() -> bytes:
    """FIPS 197, 5.1.1: the inverse in GF(2^8), by trying all, then the affine map."""

    def times(a: int, b: int) -> int:
        product = 0
        for bit in range(8):
            product ^= a << bit if b >> bit & 1 else 0
        for bit in range(14, 7, -1):
            product ^= 0x11B << bit - 8 if product >> bit & 1 else 0
        return product

    table = []
    for value in range(256):
        inverse = next((other for other in range(256) if times(value, other) == 1), 0)
        bits = [sum(inverse >> (bit + step) % 8 for step in (0, 4, 5, 6, 7)) & 1 for bit in range(8)]
        table.append(sum(bit << place for place, bit in enumerate(bits)) ^ 0x63)
    return bytes(table)


SBOX = sbox()


def schedules(data: NDArray[np.uint8]) -> Iterator[bytes]:
    """The key of every whole AES key schedule in the pages, at any multiple of four bytes (FIPS 197, 5.2)."""
    words = np.concatenate((data.reshape(-1).view("<u4"), np.zeros(60, np.uint32)))
    for length, count in ((4, 44), (6, 52), (8, 60)):
        last = len(words) - 60
        good = words[:last] != 0
        for number in (length + 1, length + 2):
            at = [words[place : place + last] for place in (number, number - 1, number - length)]
            good &= at[0] == at[1] ^ at[2]
        starts = np.flatnonzero(good)
        for start in starts.tolist():
            key = words[start : start + length].tobytes()
            made, factor = [key[at : at + 4] for at in range(0, len(key), 4)], 1
            while len(made) < count:
                word = made[-1]
                if len(made) % length == 0:
                    word = bytes(SBOX[byte] for byte in word[1:] + word[:1])
                    word = bytes((word[0] ^ factor, *word[1:]))
                    factor = factor << 1 ^ (0x11B if factor & 0x80 else 0)
                elif length == 8 and len(made) % 8 == 4:
                    word = bytes(SBOX[byte] for byte in word)
                made.append(bytes(a ^ b for a, b in zip(word, made[-length], strict=True)))
            if b"".join(made) == words[start : start + count].tobytes():
                yield key


def save(vmcore: Path, to: Path, *options: str) -> dict[str, Any]:
    """The manifest of what `kdump save` makes."""
    assert main(["save", *options, str(vmcore), str(to)]) == 0
    manifest: dict[str, Any] = json.loads(manifest_path(to).read_bytes())
    return manifest


@pytest.mark.parametrize("series", [pytest.param("6.1", marks=pytest.mark.matrix), SERIES])
def test_the_kernels_secrets_are_in_a_dump_and_not_in_a_scrubbed_one(
    series: str, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    secrets = truth(whole(series))
    assert secrets.keys() >= KERNELS | PROCESSES
    plain, scrubbed = tmp_path / "plain", tmp_path / "scrubbed"
    assert "scrub" not in save(whole(series), plain)["dump"]
    (pfns, before) = pages(plain)
    assert seen(before, secrets) >= KERNELS  # at level 31
    keys = set(schedules(before))
    disk = [secrets[name][at : at + 32] for name in BY_KIND["keys"] for at in (0, 32)]
    assert keys >= {*disk, secrets["tls-aes128"], secrets["tls-aes256"]}

    said = save(whole(series), scrubbed, "--scrub", "all")["dump"]
    (same, after) = pages(scrubbed)
    assert not seen(after, {name: secrets[name] for name in KERNELS | PROCESSES})
    assert not list(schedules(after))
    found = said["scrub"]["found"]
    assert said["scrub"]["failed"] == {}
    assert said["level"] == 63  # without page cache
    assert found["keys"]["dm-crypt volumes"] == 2
    assert found["keyrings"]["payloads of keys"] >= 5
    assert found["tls"]["connections"] == 6
    assert (found["wireguard"]["devices"], found["wireguard"]["peers"]) == (2, 2)
    assert found["wireguard"]["session keys"] >= 4
    # What was changed became zeros, and is no more than the manifest says.
    rows = np.isin(pfns, same)
    changed = before[rows] != after
    assert 0 < np.count_nonzero(changed) <= said["scrub"]["bytes"]
    assert not after[changed].any()
    assert set(pfns[~rows].tolist()).isdisjoint(same.tolist())


@pytest.mark.parametrize(
    "kind", ["wireguard", *(pytest.param(kind, marks=pytest.mark.matrix) for kind in BY_KIND if kind != "wireguard")]
)
def test_each_kind_is_scrubbed_by_itself(kind: str, whole: Callable[[str], Path], tmp_path: Path) -> None:
    secrets = truth(whole(SERIES))
    save(whole(SERIES), tmp_path / "out", "--scrub", kind, "-d", "31")
    left = seen(pages(tmp_path / "out")[1], secrets)
    assert not left & BY_KIND[kind]
    if kind != "keys":  # contexts of ciphers are anybody's
        assert left >= KERNELS - BY_KIND[kind]


def test_passwords_of_processes_are_scrubbed_where_their_memory_is_kept(
    whole: Callable[[str], Path], tmp_path: Path
) -> None:
    secrets = {name: value for name, value in truth(whole(SERIES)).items() if name in PROCESSES | {"not-kept"}}
    save(whole(SERIES), tmp_path / "plain", "-d", "23")
    assert seen(pages(tmp_path / "plain")[1], secrets) == secrets.keys()
    said = save(whole(SERIES), tmp_path / "out", "-d", "23", "--scrub", "passwords-in-cmdline")["dump"]
    assert said["scrub"]["found"]["passwords-in-cmdline"]["passwords"] >= 2
    assert seen(pages(tmp_path / "out")[1], secrets) == {"not-kept"}


@pytest.mark.parametrize("name", [pytest.param("keepme", marks=pytest.mark.matrix), "/kept.slice"])
def test_memory_of_a_process_is_kept_beyond_the_level(name: str, whole: Callable[[str], Path], tmp_path: Path) -> None:
    # What processes got from the kernel's random generator is on old stacks, in another order, but not all of it.
    secrets = {key: value * 2 for key, value in truth(whole(SERIES)).items() if key in {"kept", "not-kept"}}

    def whole_ones(vmcore: Path) -> set[str]:
        raw = pages(vmcore)[1].tobytes()
        return {key for key, value in secrets.items() if value in raw}

    save(whole(SERIES), tmp_path / "plain")
    assert not whole_ones(tmp_path / "plain")
    said = save(whole(SERIES), tmp_path / "out", "--keep", name, "--keep", "nobody")["dump"]
    assert whole_ones(tmp_path / "out") == {"kept"}
    assert [each["name"] for each in said["keep"]["processes"]] == ["keepme"]
    assert said["keep"]["absent"] == ["nobody"]
    assert said["keep"]["failed"] == []
    # The counts still add up: pages that were kept were not dropped.
    plain = json.loads(manifest_path(tmp_path / "plain").read_bytes())["dump"]["pages"]
    assert said["pages"]["kept"] - plain["kept"] == said["keep"]["pages"]
    assert sum(plain["dropped"].values()) - sum(said["pages"]["dropped"].values()) == said["keep"]["pages"]


@pytest.mark.matrix
def test_what_is_kept_is_a_processs_memory_as_drgn_reads_it(
    whole: Callable[[str], Path], debug_vmlinux: Callable[[str], Path], tmp_path: Path
) -> None:
    """Page by page, by the page tables that drgn walks with the kernel's debug information."""
    import drgn
    from drgn.helpers.linux.mm import access_process_vm, for_each_vma
    from drgn.helpers.linux.pid import find_task

    process = save(whole(SERIES), tmp_path / "out", "--keep", "keepme")["dump"]["keep"]["processes"][0]["pid"]

    def content(vmcore: Path) -> dict[int, bytes]:
        program = drgn.Program()
        program.set_core_dump(vmcore)
        program.load_debug_info([debug_vmlinux(SERIES)])
        task = find_task(program, process)
        found = {}
        for area in for_each_vma(task.mm):
            for address in range(area.vm_start.value_(), area.vm_end.value_(), 4096):
                with contextlib.suppress(drgn.FaultError):
                    found[address] = access_process_vm(task, address, 4096)
        return found

    # The compressed dump of the whole machine is in zlib, which drgn reads as well.
    before, after = content(whole(SERIES)), content(tmp_path / "out")
    assert len(after) > 1000
    assert before == after
