"""The kinds of secrets, by the names that kdump.toml and the command line have for them."""

from __future__ import annotations

from typing import Final

from kdump.errors import UsageError

KEYS, KEYRINGS, TLS, WIREGUARD = "keys", "keyrings", "tls", "wireguard"
PASSWORDS, PAGE_CACHE = "passwords-in-cmdline", "page-cache"

KINDS: Final = {
    KEYS: "dm-crypt's keys, contexts of ciphers and AES key schedules wherever they lie",
    KEYRINGS: "payloads of the kernel's keys (keyctl)",
    TLS: "keys of TLS connections that the kernel encrypts",
    WIREGUARD: "WireGuard's keys",
    PASSWORDS: "passwords on command lines and in environments of processes",
    PAGE_CACHE: "all page cache, which is left out",
}
ALL: Final = "all"


def parse_kinds(text: str) -> tuple[str, ...]:
    """Kinds from "keys,tls", or "all". Raises UsageError."""
    names = tuple(dict.fromkeys(text.split(",")))
    if names == (ALL,):
        return tuple(KINDS)
    if unknown := [name for name in names if name not in KINDS]:
        raise UsageError(
            f"{unknown[0]!r} is no kind of secret", remedy=f"choose from {', '.join(KINDS)} (or {ALL}), with commas"
        )
    return names
