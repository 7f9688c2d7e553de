"""Two machines that were put to work, full of secrets, with a journal and a trace of their scheduler, dumped whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import CrashMaker
from tests.dump.journal_guest import JOURNALD

from kdump.capture.plan import CapturePlan

WHOLE = CapturePlan(level=1, codec="zlib", report=False)  # Debian's makedumpfile is built without zstd
MEMORY = 768 << 20
TRACED = "sched:sched_switch,sched:sched_wakeup"
CRYPTO = ("dm_crypt", "xts", "ecb", "essiv", "af_alg", "algif_hash", "algif_skcipher", "aesni_intel", "gcm", "ccm")
TOOLS = {"/usr/sbin/cryptsetup": "cryptsetup", "/usr/bin/wg": "wg", "/usr/sbin/ip": "ip", JOURNALD: JOURNALD}
SECRETS: dict[str, Any] = {
    "guest_modules": (*CRYPTO, "chacha20poly1305", "brd", "wireguard", "tls", "encrypted_keys"),
    "guest_files": {
        "/etc/passwd": b"root:x:0:0:root:/:/bin/sh\n",
        "/etc/machine-id": b"6b64756d70206c6162206d616368696e\n",
        "/secrets.py": Path(__file__).with_name("secrets_guest.py"),
        "/journal.py": Path(__file__).with_name("journal_guest.py"),
    },
    "guest_commands": (("/usr/bin/python3", "/secrets.py"), ("/usr/bin/python3", "/journal.py")),
}


@pytest.fixture(scope="session")
def whole(lab_crash: CrashMaker) -> Callable[[str], Path]:
    """A dump with every page of a machine."""
    tools = {place: Path(shutil.which(name) or name) for place, name in TOOLS.items()}
    secrets = {**SECRETS, "guest_files": {**SECRETS["guest_files"], **tools}}

    def make(series: str) -> Path:
        options = {"memory": MEMORY, "plan": WHOLE, "work": MEMORY // 6, "timeout": 200, **secrets}
        options["cmdline"] = f"trace_event={TRACED}"
        return lab_crash(series, **options).directory / "vmcore"

    return make
