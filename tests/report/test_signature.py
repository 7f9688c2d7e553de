"""The signature: what makes two crashes one, what tells them apart, and when there is none."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from kdump.cli.main import main
from kdump.report import json as as_json
from kdump.report import logtext, signature, text
from kdump.report.build import build
from kdump.report.context import Context
from kdump.report.diff import compare
from kdump.report.kinds import BY_ID
from kdump.report.model import Frame, Verdict
from kdump.report.verdict import judge, signature_of

NULL = "BUG: kernel NULL pointer dereference, address: 0000000000000008\n"
NULL += "CPU: 1 PID: 300 Comm: worker Not tainted 6.1.0 #1\n"
HUNG = "INFO: task worker:300 blocked for more than 120 seconds.\n"


def verdict(log: str) -> Verdict:
    return judge(Context(None, logtext.from_text(log)))


def stack(*functions: str) -> str:
    return "Call Trace:\n" + "".join(f" {name}+0x1/0x2\n" for name in functions)


def sign(log: str) -> tuple[str, str]:
    found = verdict(log)
    return found.signature, found.coarse


def test_the_algorithm_as_documented() -> None:
    """Version 2, byte for byte: a change of it takes a new version."""
    found = sign(NULL + stack("memcpy", "kd_step.isra.0", "kd_loop", "vfs_read", "do_syscall_64"))
    assert found == ("2-acc8beb95f9af76e", "null-dereference kd_step")
    lines = "kdump signature 2\nnull-dereference\n\nkd_step\nkd_loop\n"
    assert found[0] == f"2-{sha256(lines.encode()).hexdigest()[:16]}"


def test_two_frames_tell_and_the_coarse_key_takes_one() -> None:
    first = sign(NULL + stack("kd_step", "kd_loop", "vfs_read"))
    assert sign(NULL + stack("kd_step", "kd_loop", "vfs_write")) == first
    near = sign(NULL + stack("kd_step", "kd_other", "vfs_read"))
    assert near[0] != first[0] and near[1] == first[1]
    assert sign(NULL + stack("kd_walk", "kd_loop"))[1] != first[1]
    assert sign(NULL.replace("kernel NULL pointer dereference, address", "unable to handle page fault for address")
                + stack("kd_step", "kd_loop"))[1] != first[1]  # fmt: skip


DECODED = (
    " kd_step+0x1/0x2 drivers/kd.c:12\n kd_inner drivers/kd.c:30 [inline]\n kd_loop+0x1/0x2 drivers/kd.c:31\n",
    " kd_step (drivers/kd.c:12)\n kd_loop (drivers/kd.c:30 drivers/kd.c:31)\n",
    " kd_step (drivers/kd.c:12 (discriminator 3)) kd\n kd_loop (drivers/kd.c:31) kd\n",
    " kd_step.cold+0x1/0x2 [kd]\n kd_loop.constprop.0+0x1/0x2 [kd]\n",
)


@pytest.mark.parametrize("frames", DECODED)
def test_decoded_traces_sign_as_undecoded(frames: str) -> None:
    assert sign(f"{NULL}Call Trace:\n{frames}") == sign(NULL + stack("kd_step", "kd_loop"))


@pytest.mark.parametrize(
    "log",
    [
        NULL,
        NULL + stack(),
        NULL + stack("dump_stack", "memcpy", "kfree", "do_syscall_64"),
        HUNG + stack("__schedule", "schedule", "kthread"),
        "rcu: INFO: rcu_sched detected stalls on CPUs/tasks:\n",
        "Kernel panic - not syncing: Fatal exception\n",
        "all is well\n",
        "",
    ],
)
def test_where_nothing_tells_there_is_no_signature(log: str) -> None:
    assert sign(log) == ("", "")
    assert signature_of(Context(None, logtext.from_text(log))) == ""


@pytest.mark.parametrize(
    ("log", "other"),
    [
        ("Kernel panic - not syncing: kd: table 3 is gone\n", "Kernel panic - not syncing: kd: lost\n"),
        ("Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000009\n",
         "Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b\n"),
        ("Kernel panic - not syncing: Fatal local machine check\n",
         "Kernel panic - not syncing: NMI: Not continuing\n"),
    ],
)  # fmt: skip
def test_what_a_message_alone_tells(log: str, other: str) -> None:
    """A panic's own words, and kinds whose stack is chance, need no stack; numbers in the words do not count."""
    assert sign(log)[0].startswith("2-") and sign(log)[0] != sign(other)[0]
    assert sign(log.replace("table 3", "table 7")) == sign(log)


def test_victims_of_one_fault_gather() -> None:
    """Who waits for RCU, for other CPUs or for the network's lock is chance."""
    for place, others in (
        ("synchronize_rcu", ("synchronize_net", "synchronize_rcu_expedited", "synchronize_sched")),
        ("rtnl_lock", ("rtnl_lock_killable",)),
    ):
        first = sign(HUNG + stack("__schedule", "schedule", place, "kd_step"))
        for other in others:
            assert sign(HUNG + stack("__schedule", "schedule", other, "kd_elsewhere"))[0] == first[0]
    stuck = "watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [worker:300]\n"
    many = sign(stuck + stack("smp_call_function_many", "on_each_cpu", "kd_step"))
    assert sign(stuck + stack("smp_call_function_single", "kd_elsewhere"))[0] == many[0]
    assert sign(NULL + stack("rtnl_lock", "kd_step"))[0] != sign(NULL + stack("rtnl_lock", "kd_elsewhere"))[0]


def test_is_current() -> None:
    assert [signature.is_current(each) for each in ("2-4c76de15ac1db1bd", "", "1-4c76de15ac1db1bd", "x")] == [
        True, True, False, False,
    ]  # fmt: skip


def test_the_headlines_function_stands_in() -> None:
    made = signature.parts(BY_ID["kasan"], "use-after-free", [Frame("kasan_report")], Frame("kd_step"))
    assert made.functions == ["kd_step"] and signature.coarse(made) == "kasan kd_step"
    assert signature.signature(signature.parts(BY_ID["kasan"], "x", [], Frame("memcpy"))) == ""


def test_explain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log"
    path.write_text(NULL + stack("__memcpy", "mutex_lock", "kd_step", "kd_loop", "do_syscall_64"))
    assert main(["report", "--signature", "--explain", str(path)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == verdict(path.read_text()).signature
    assert told[1:] == [
        "coarse: null-dereference kd_step",
        "kind: null-dereference (the kernel used a null pointer)",
        "function 1: kd_step",
        "function 2: kd_loop",
        "left out: __memcpy (memory and strings: they copy, compare and fill memory, also that of user space)",
        "left out: mutex_lock (locks: they take and release locks)",
    ]
    path.write_text(NULL)
    assert main(["report", "--signature", "--explain", str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "no signature"
    assert main(["report", "--explain", str(path)]) == 2


def test_exit_status_and_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log"
    warning = "WARNING: CPU: 1 PID: 300 at drivers/kd.c:12 kd_step+0x1/0x2\n" + stack("kd_step", "kd_loop")
    for log, status in (
        (NULL + stack("kd_step"), 0),
        (warning, 3),
        (warning + "Kernel panic - not syncing: panic_on_warn set ...\n", 0),
        ("all is well\n", 3),
    ):
        path.write_text(log)
        for options in ([], ["--json"], ["--signature"], ["--short"]):
            assert main(["report", *options, str(path)]) == status
    shown = capsys.readouterr().out
    assert "Nothing says that the kernel died of it." in shown
    assert "none: nothing tells this crash from others" in shown
    assert "Stack of task worker (pid 300) on CPU 1" in shown


def test_diff_of_crashes_that_nothing_tells_apart() -> None:
    def document(log: str) -> dict[str, object]:
        return as_json.document(build(Context(None, logtext.from_text(log)), "x"))

    alike = compare(document(NULL), document(NULL))
    assert (alike.same, alike.near) == (False, False)
    near = compare(document(NULL + stack("kd_step", "kd_a")), document(NULL + stack("kd_step", "kd_b")))
    assert (near.same, near.near) == (False, True)


def test_text_says_whose_stack_it_is() -> None:
    context = Context(None, logtext.from_text(NULL + stack("kd_step")))
    assert "Stack of task worker (pid 300) on CPU 1" in list(text.render(build(context, "x")))
