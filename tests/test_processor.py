"""Processors that NumPy does not run on are refused by name, before it ends the process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kdump import processor
from kdump.errors import KdumpError

# The flags of QEMU's models, abridged.
KVM64 = (
    "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse sse2 syscall nx lm pni"
)
NEHALEM = f"{KVM64} ssse3 cx16 sse4_1 sse4_2 x2apic popcnt hypervisor lahf_lm"


@pytest.mark.parametrize(
    ("text", "lacking"),
    [
        (f"flags\t\t: {KVM64} hypervisor\n", ("cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3")),
        (f"processor\t: 0\nflags\t\t: {NEHALEM}\nbugs\t:\n", ()),
        ("Features\t: fp asimd evtstrm\n", ()),  # arm64
        ("", ()),
    ],
)
def test_what_is_missing(tmp_path: Path, text: str, lacking: tuple[str, ...]) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert processor.missing(tmp_path / "cpuinfo") == lacking
    assert processor.missing(tmp_path / "none") == ()


def test_numpy_is_tried_where_something_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "missing", lambda: ("sse4_2",))
    processor._runs.cache_clear()
    processor.require_numpy()  # it runs here
    monkeypatch.setattr(processor, "_PROBE", "import os; os.kill(os.getpid(), 4)")
    processor._runs.cache_clear()
    with pytest.raises(KdumpError, match=r"NumPy 2\.\S+ does not run on this processor: it lacks sse4_2") as caught:
        processor.require_numpy()
    assert "pip install 'numpy<2.3'" in caught.value.remedy
    with pytest.raises(KdumpError, match="does not run"):
        processor._Check().find_spec("numpy")
    processor._runs.cache_clear()


def test_a_command_that_needs_it_says_so_instead_of_dying(tmp_path: Path) -> None:
    code = (
        "import sys; from kdump import processor; from kdump.cli.main import entry\n"
        "processor.missing = lambda: ('ssse3',); processor._PROBE = 'import os; os.abort()'\n"
        f"sys.argv = ['kdump', 'info', {str(tmp_path / 'vmcore')!r}]; entry()"
    )
    (tmp_path / "vmcore").write_bytes(b"KDUMP   " + bytes(8192))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "kdump info: NumPy" in done.stderr
    assert "does not run on this processor" in done.stderr
    assert "Traceback" not in done.stderr


def test_status_answers_in_json_all_the_same() -> None:
    code = (
        "import sys; from kdump import processor; from kdump.cli.main import entry\n"
        "processor.missing = lambda: ('ssse3',); processor._PROBE = 'import os; os.abort()'\n"
        "sys.argv = ['kdump', 'status', '--json']; entry()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    found = json.loads(done.stdout)
    assert (found["ready"], found["verdict"]) == (False, "not ready: processor")
    assert "ssse3" in found["checks"][0]["found"]
