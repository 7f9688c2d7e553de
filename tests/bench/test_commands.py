"""Commands of crash(8) in `kdump shell`: Debian's crash answers the same on the same dump; drgn where it cannot.

8.0.2 of Debian 12 judges on 6.1, 8.0.6 of Debian 13 on 6.12.
"""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests import foreign
from tests.conftest import CrashMaker
from tests.report.machines import MACHINES

from kdump.bench import commands
from kdump.bench.commands.aliases import BUILT_IN
from kdump.bench.commands.base import EXTENDED, NAMESPACE, Session
from kdump.cli.main import main
from kdump.kernel.kernel import Kernel
from kdump.memory import open_dump
from kdump.report.program import open_program

pytestmark = pytest.mark.lab
KDUMP = (sys.executable, "-m", "kdump")
TYPES = ("list_head", "page", "task_struct", "thread_struct", "sk_buff", "inode", "mm_struct", "rq", "kmem_cache")
ASKED = (
    "bt", "bt -s", "bt -sx", "bt -t", "bt -T", "bt -e", "net -s 1", "foreach user net -s", "sym -m virtio_blk",
    "pte 8000000012345067", "alias", "dis schedule", "dis -x schedule 5", "log -m", "log -d",
    'search -c "Linux version"', "fuser /", "kmem -S task_struct",
    *(f"struct {name} -o" for name in TYPES),
)  # fmt: skip
Ask = Callable[[str], str]


def asking(session: Session) -> Ask:
    from drgn.commands import run_command

    def ask(command: str) -> str:
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            run_command(session.program, f"crash {command}", globals={"prog": session.program})
        return output.getvalue()

    return ask


@pytest.fixture(scope="module")
def session(vmcore: Path) -> Iterator[Session]:
    with open_dump(vmcore) as dump:
        kernel = Kernel(dump)
        yield commands.install(open_program([str(vmcore)], kernel, default=False), kernel)


@pytest.fixture(scope="module")
def ours(session: Session) -> Ask:
    return asking(session)


@pytest.fixture(scope="module")
def theirs(series: str, made: Path, vmcore: Path) -> dict[str, str]:
    """What crash answers to each of ASKED."""
    script = "".join(f"!echo '@@{number}@@'\n{command}\n" for number, command in enumerate(ASKED))
    text = foreign.run(*foreign.crash(series), "-s", "-i", "/dev/null", made / "crash", vmcore, text=f"{script}quit\n")
    parts = re.split(r"@@\d+@@\n", text)[1:]
    return dict(zip(ASKED, parts, strict=True))


def plain(text: str) -> str:
    """Names without what compilers append, as crash shows them."""
    return re.sub(r"\.(?:isra|part|constprop)\.\d+", "", text)


def words(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.strip()]


def frames(text: str) -> list[tuple[str, str]]:
    return re.findall(r"^ *#\d+ \[[0-9a-f]+\] (\S+) at ([0-9a-f]+)", text, re.MULTILINE)


def registers(text: str) -> list[tuple[str, str]]:
    """Names and values, but of ORIG_RAX, which drgn does not show."""
    found = re.findall(r"\b(R\w+|CS|SS): ([0-9a-f]+)", text)
    return [(name, value) for name, value in found if name != "RIP" or len(value) == 16]


@pytest.mark.parametrize("command", ["bt", "bt -s", "bt -sx"])
def test_stacks_have_every_frame_of_the_report(
    command: str, session: Session, ours: Ask, theirs: dict[str, str]
) -> None:
    got, known = frames(ours(command)), frames(theirs[command])
    context = session.context
    assert [int(pc, 16) for _, pc in got] == [frame.pc for frame in context.panic_stack.frames]
    assert got[1][0].startswith("panic")
    # crash begins within machine_kexec(), and shows leftovers of the system call before this one.
    assert [frame for frame in known if frame in got[1:]] == got[1:]
    assert registers(ours(command)) == registers(theirs[command])


def test_text_symbols_on_a_stack(ours: Ask, theirs: dict[str, str]) -> None:
    def lines(text: str) -> list[str]:
        return re.findall(r"^ +(\[[0-9a-f]+\] \S+ at [0-9a-f]+)", plain(text), re.MULTILINE)

    assert lines(ours("bt -T")) == lines(theirs["bt -T"])
    got = lines(ours("bt -t"))
    assert got == lines(theirs["bt -t"])[-len(got) :] and len(got) > 10


def test_exception_frames(ours: Ask, theirs: dict[str, str]) -> None:
    places = re.compile(r"(\w+-MODE EXCEPTION FRAME AT: [0-9a-f]+)")
    assert places.findall(ours("bt -e")) == places.findall(theirs["bt -e"])
    assert registers(ours("bt -e")) == registers(theirs["bt -e"])


@pytest.mark.parametrize("name", TYPES)
def test_where_members_are(name: str, ours: Ask, theirs: dict[str, str]) -> None:
    def offsets(text: str) -> list[str]:
        """Offsets and names: both write types in their own way."""
        return re.findall(r"^ *(\[\d+\]) .*?(\w+)\)?(?:\(.*\)|\[.*\]| : \d+)*;$", text, re.MULTILINE)

    got, known = ours(f"struct {name} -o"), theirs[f"struct {name} -o"]
    # crash leaves out the places of members of a struct without a name that is a member with one.
    assert [row for row in offsets(got) if row in offsets(known)] == offsets(known) and len(offsets(known)) >= 2
    assert re.search(r"} \w+;", known) or offsets(got) == offsets(known)
    assert got.splitlines()[-1] == known.splitlines()[-1]  # SIZE: …
    address = ours(f"struct {name} -o ffff888000000000")
    assert re.search(r"^ *\[ffff888000000000\]", address, re.MULTILINE)


def test_sockets_and_symbols_and_entries(ours: Ask, theirs: dict[str, str]) -> None:
    assert words(ours("net -s 1"))[2:] == words(theirs["net -s 1"])[2:] != []
    rows = [row for row in words(theirs["foreach user net -s"]) if "INET:STREAM" in row]
    assert [row for row in words(ours("foreach user net")) if "INET:STREAM" in row] == rows != []
    assert words(ours("pte 8000000012345067"))[1] == words(theirs["pte 8000000012345067"])[1]

    def text(answer: str) -> set[str]:
        return set(re.findall(r"^([0-9a-f]+ \(t\) \S+)", plain(answer).replace("(T)", "(t)"), re.MULTILINE))

    assert text(ours("sym -m virtio_blk")) == text(theirs["sym -m virtio_blk"]) != set()
    built_in = {(row[1], " ".join(row[2:])) for row in words(theirs["alias"])[1:] if row[1] != "g"}
    assert built_in == set(BUILT_IN.items()) == {(row[1], " ".join(row[2:])) for row in words(ours("alias"))[1:]}


@pytest.mark.parametrize("command", ["dis schedule", "dis -x schedule 5"])
def test_instructions(command: str, ours: Ask, theirs: dict[str, str]) -> None:
    def lines(text: str) -> list[tuple[str, ...]]:
        """Place, mnemonic without its suffix, and the target of a call or a jump."""
        return re.findall(
            r"^(0x\w+ <[\w+]+>):\s+(call|j\w+|ret|push|pop)[ql]?\b(?: +(0x\w+ <[\w.+]+>))?", text, re.MULTILINE
        )

    assert lines(ours(command)) == lines(theirs[command]) != []


def test_records_of_the_log(ours: Ask, theirs: dict[str, str]) -> None:
    head = re.compile(r"^(\[ *\d+\.\d+\] <\d>)", re.MULTILINE)
    assert head.findall(ours("log -m")) == head.findall(theirs["log -m"]) != []
    device = re.compile(r"^ +((?:SUBSYSTEM|DEVICE)=\S+)", re.MULTILINE)
    assert device.findall(ours("log -d")) == device.findall(theirs["log -d"]) != []


def test_search_goes_past_what_the_dump_lacks(session: Session, ours: Ask, theirs: dict[str, str]) -> None:
    def places(text: str) -> list[str]:
        return re.findall(r"^([0-9a-f]{16}): ", text, re.MULTILINE)

    command = 'search -c "Linux version"'
    assert places(ours(command)) == places(theirs[command])
    banner = session.kernel.symbols.address("linux_banner")
    assert f"{banner:x}: Linux version" in ours("search -s linux_banner -l 100 -c Linux")
    task = session.context.tasks.running()[session.context.panic_cpu or 0]
    found = ours(f"search {session.kernel.objects.address(task):x}").splitlines()
    assert len(found) > 5
    # A return address is on the stacks of tasks whose traces have it.
    pc = session.context.panic_stack.frames[1].pc
    assert re.search(rf"COMMAND: \"init\"\n.*: {pc:x}", ours(f"search -T {pc:x}"))
    around = ours(f"search -x 1 -s linux_banner -l 16 {session.kernel.virtual.u64(banner):x}")
    assert f"{banner:16x}:  " in around and len(around.splitlines()) >= 3


def test_users_of_files_and_objects_of_slabs(session: Session, ours: Ask, theirs: dict[str, str]) -> None:
    from drgn.helpers.linux.slab import find_slab_cache, slab_cache_for_each_allocated_object

    def users(text: str) -> set[tuple[str, ...]]:
        """Process, task, use. crash 8.0.6 cuts names."""
        return set(re.findall(r"^ *([1-9]\d*) +([0-9a-f]{16}) .* ((?:root|cwd)\b.*?) *$", text, re.MULTILINE))

    # crash 8.0.2 finds only some tasks of 6.1, and no areas. It goes by names: kdevtmpfs has a root of its own, "/".
    known = re.sub(r".*\"kdevtmpfs\".*", "", theirs["fuser /"])
    assert set() != users(known) <= users(ours("fuser /"))
    assert re.search(r"\"init\" .*\bmmap", ours("fuser /usr/bin/python3"))

    def objects(text: str) -> tuple[set[str], set[str]]:
        return (
            set(re.findall(r"^ +\[(f[0-9a-f]{15})\]$", text, re.MULTILINE)),
            set(re.findall(r"^ +(f[0-9a-f]{15})(?: +\(cpu.*\))? *$", text, re.MULTILINE)),
        )

    ours_used, ours_free = objects(ours("kmem -S task_struct"))
    # Slabs on a node's list are left out here: drgn judges every object, and crash says how many there are.
    used, free = objects(theirs["kmem -S task_struct"].partition("KMEM_CACHE_NODE")[0])
    free -= set(re.findall(r"KMEM_CACHE_CPU:\s+(\w+)", theirs["kmem -S task_struct"]))
    total = int(theirs["kmem -S task_struct"].splitlines()[1].split()[3])
    assert used <= ours_used and free and free <= ours_free
    assert not ours_used & ours_free and len(ours_used | ours_free) == total
    cache = find_slab_cache(session.program, "task_struct")
    allocated = slab_cache_for_each_allocated_object(cache, "struct task_struct")
    assert ours_used == {f"{each.value_():x}" for each in allocated}
    assert {word for row in words(ours("ps")) for word in row if len(word) == 16 and word[:4] == "ffff"} - {
        f"{ours('sym init_task').split()[0]}"
    } <= ours_used


def test_pages_of_a_task(session: Session, ours: Ask) -> None:
    """crash 8.0.2 does not know this kernel's areas; drgn walks the page tables too."""
    from drgn import FaultError
    from drgn.helpers.linux.mm import follow_phys
    from drgn.helpers.linux.pid import find_task

    mm = find_task(session.program, 1).mm
    rows = re.findall(r"^([0-9a-f]+) +(?:([0-9a-f]+)$|FILE: |\(not mapped\)|SWAP: )", ours("vm -p 1"), re.MULTILINE)
    assert sum(bool(physical) for _, physical in rows) > 1000 < sum(not physical for _, physical in rows)
    for address, physical in rows[::7]:
        try:
            assert f"{follow_phys(mm, int(address, 16)).value_():x}" == physical
        except FaultError:
            assert not physical


def test_names_of_ones_own(ours: Ask) -> None:
    from drgn.commands import CommandError

    ours("alias mine ps 1")
    assert "init" in ours("mine") and "user     mine" in ours("alias")
    ours("alias mine ''")
    for command in (
        "mine",
        "alias ps log",
        "alias loop loop",
        "alias nothing ''",
        "repeat -x ps",
        "repeat",
        "corelens bt",
    ):
        with pytest.raises(CommandError):
            ours(command)


def test_a_later_kernel(lab_crash: CrashMaker) -> None:
    """The same on 6.12 without a crash that judges (`-m matrix` has one): they answer, and bt as the report."""
    vmcore = lab_crash("6.12", **MACHINES["6.12"]).directory / "vmcore"
    with open_dump(vmcore) as dump:
        kernel = Kernel(dump)
        session = commands.install(open_program([str(vmcore)], kernel, default=False), kernel)
        ask = asking(session)
        got = [int(pc, 16) for _, pc in frames(ask("bt"))]
        assert got == [frame.pc for frame in session.context.panic_stack.frames]
        assert len(frames(ask("foreach bt"))) > 100
        for command in ASKED:
            assert command == "fuser /" or "sym -m" in command or len(ask(command)) > 40, command
        assert kernel.symbols.address("linux_banner") in {
            int(line.partition(":")[0], 16) for line in ask('search -c "Linux version"').splitlines()
        }


def test_a_split_set_and_scripts(vmcore: Path, ours: Ask, tmp_path: Path) -> None:
    assert main(["save", "--split", "3", "-d", "31", str(vmcore), str(tmp_path / "part")]) == 0
    parts = [tmp_path / f"part.{number}" for number in (3, 1, 2)]
    script = tmp_path / "commands"
    script.write_text("# two commands\nbt\n\nps\n")
    result = subprocess.run(
        [*KDUMP, "shell", *parts, "--crash", "-i", script, "-c", "net"], capture_output=True, text=True, check=True
    )
    assert result.stdout == ours("bt") + ours("ps") + ours("net")
    assert result.stderr == ""  # a silent start


def test_what_fails_is_said_in_words(vmcore: Path, tmp_path: Path) -> None:
    """In one session: files that cannot be written, a pipe that fails as well; a script of comments asks nobody."""

    def said(*options: str) -> tuple[int, str]:
        command = [*KDUMP, "shell", "--crash", str(vmcore), *options]
        with subprocess.Popen(["yes", "ps"], stdout=subprocess.PIPE) as endless:
            result = subprocess.run(command, stdin=endless.stdout, capture_output=True, text=True, check=False)
            endless.kill()
        assert result.stdout == ""
        return result.returncode, result.stderr

    nowhere = tmp_path / "nowhere/out"
    asked = (f"ps > {nowhere}", "ps > /dev/full", "rd nosuch | false")
    status, text = said(*(word for each in asked for word in ("-c", each)))
    assert status == 1
    assert text.splitlines() == [
        f"{nowhere}: No such file or directory",
        "No space left on device",
        "LookupError: could not find symbol with name 'nosuch'",
        "'false' exited with status 1",
    ]
    script = tmp_path / "script"
    script.write_text("# nothing\n")
    assert said("-i", str(script)) == (0, "")
    status, text = said("-i", "/dev/zero")
    assert (status, "/dev/zero: larger than" in text) == (1, True)


def test_python_scripts_and_variables_without_a_type(vmcore: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("print(prog['init_task'].pid.value_(), __name__)\nprog['virtblk_wq']\n")
    result = subprocess.run([*KDUMP, "shell", vmcore, "-i", script], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (1, "0 __main__\n")
    assert result.stderr.startswith(f"{script}:2: ObjectNotFoundError: the type of variable virtblk_wq of virtio_blk")
    assert "--declare 'TYPE virtblk_wq'" in result.stderr and "Traceback" not in result.stderr
    declared = ("--declare", "struct workqueue_struct *virtblk_wq", "-c", "print(prog['virtblk_wq'].name.string_())")
    assert foreign.run(*KDUMP, "shell", *declared, vmcore) == "b'virtio-blk'\n"


def test_modules_of_drgn_tools_by_name(vmcore: Path, tmp_path: Path) -> None:
    """A package of that name, made here: drgn-tools itself is on no index. One of its modules, as it declares them."""
    package = tmp_path / "drgn_tools"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "corelens.py").write_text(
        "class Hello:\n"
        "    'Say hello.'\n"
        "    name, skip_unless_have_kmods = 'hello', None\n"
        "    def add_args(self, parser): parser.add_argument('--to')\n"
        "    def run(self, prog, args): print('hello', args.to, prog['init_task'].comm.string_())\n"
        "class Needs(Hello):\n"
        "    name, skip_unless_have_kmods = 'needs', ['nfs']\n"
        "def all_corelens_modules(): return {'hello': Hello(), 'needs': Needs()}\n"
    )
    command: list[str | Path] = ["env", f"PYTHONPATH={tmp_path}", *KDUMP, "shell", "--crash", vmcore]
    assert foreign.run(*command, "-c", "hello --to you") == "hello you b'swapper/0'\n"
    assert "hello                Say hello." in foreign.run(*command, "-c", "corelens")
    result = subprocess.run([*command, "-c", "needs"], capture_output=True, text=True, check=False)
    assert result.returncode == 1 and "kernel modules that are not loaded: nfs" in result.stderr


def test_the_table_of_commands_is_true(series: str, session: Session, made: Path, vmcore: Path) -> None:
    """docs/crash-commands.md lists all of crash's commands, and whose each is here."""
    page = (Path(__file__).parents[2] / "docs/crash-commands.md").read_text()
    table = dict(re.findall(r"^\| `(\S+)` \| (\w+) \|", page, re.MULTILINE))
    crash = [*foreign.crash(series), "-s", "-i", "/dev/null", made / "crash", vmcore]
    text = foreign.run(*crash, text="!echo @@\nhelp\nquit\n")
    listed = text.partition("@@\n")[2].partition("crash version")[0]
    assert set(table) == {word for line in words(listed) for word in line}
    from drgn.commands import CommandNotFoundError

    for name, whose in table.items():
        try:
            function = NAMESPACE.lookup(session.program, name)
        except CommandNotFoundError:
            assert whose == "absent", name
            continue
        code = [vars(function).get("_argparse_func"), vars(function).get("_func")]
        here = any(getattr(each, "__module__", "").startswith("kdump.") for each in code)
        extended = here and name in EXTENDED
        assert whose == ("both" if extended else "kdump" if here else "drgn"), name
