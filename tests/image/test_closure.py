"""The module closure: complete enough to run with nothing else, lean, followed into functions, reproducible."""

from __future__ import annotations

import compileall
import io
import json
import marshal
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from kdump.errors import KdumpError
from kdump.image import bytecode, closure


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package on sys.path."""
    monkeypatch.syspath_prepend(tmp_path)
    directory = tmp_path / "sample_entry"
    directory.mkdir()
    (directory / "__init__.py").write_text('"""Docstring that goes."""\nimport fractions\n')
    (directory / "__main__.py").write_text(
        "from sample_entry import part\nif __name__ == '__main__':\n    print(part.value())\n"
    )
    (directory / "part.py").write_text("def value():\n    assert False, 'asserts go'\n    return 42\n")
    (directory / "unused.py").write_text("import xmlrpc.client\n")
    return directory


def test_the_closure_runs_by_itself(package: Path, tmp_path: Path) -> None:
    found = closure.find("sample_entry", "runpy")
    root = tmp_path / "root"
    for module in found.modules:
        target = root / module.place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(module.code or module.path.read_bytes())
    # -S and -I: no site-packages; sys.path holds nothing but what was found.
    code = f"import sys; sys.path[:] = [{str(root)!r}]\n"
    code += "import runpy; runpy.run_module('sample_entry', run_name='__main__')"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("42\n", "")
    names = {module.name for module in found.modules}
    assert {"sample_entry", "sample_entry.__main__", "sample_entry.part", "fractions", "encodings.utf_8"} <= names
    assert not names & {"sample_entry.unused", "site", "xmlrpc.client"}
    init = next(module for module in found.modules if module.name == "sample_entry")
    assert init.place == "sample_entry/__init__.pyc"
    assert b"Docstring that goes" not in init.code


def test_the_first_stage_is_tiny() -> None:
    alone = closure.find("kdump.image.stage0")
    assert closure.find("kdump.kernel.kallsyms", first="kdump.image.stage0").first == alone.modules
    assert alone.first == alone.modules[: len(alone.first)]
    names = {module.name for module in alone.modules}
    assert "kdump.capture.system" in names
    assert not names & {"re", "collections", "typing", "pathlib", "numpy", "kdump.errors"}


def test_libraries_that_a_module_declares_come_along() -> None:
    found = [module for module in closure.find("kdump.kernel.kallsyms").modules if module.path.name == "libkdump.so"]
    assert [(module.place, module.code) for module in found] == [("kdump/native/libkdump.so", b"")]


def test_two_runs_give_the_same_bytes() -> None:
    assert closure.find("kdump.capture.plan") == closure.find("kdump.capture.plan")


def test_byte_code_does_not_depend_on_what_else_was_compiled() -> None:
    sources = {
        module.__name__: Path(str(module.__file__)).read_bytes() for module in (json, shutil, textwrap, subprocess)
    }

    def compiled(*names: str) -> dict[str, bytes]:
        interpreter = bytecode.Interpreter("compile.py")
        found = {name: interpreter.ask((name, sources[name])) for name in names}
        interpreter.close()
        return found

    together = compiled(*sources)
    assert compiled(*reversed(sources)) == together
    assert {name: compiled(name)[name] for name in sources} == together


def test_what_does_not_compile_is_told() -> None:
    interpreter = bytecode.Interpreter("compile.py")
    with pytest.raises(KdumpError, match=r"compile.py failed.*SyntaxError"):
        interpreter.ask(("broken.py", b"1 +"))
    interpreter.close()


def test_bytes_do_not_depend_on_what_python_has_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    copied = tmp_path / "copied"
    shutil.copytree(Path(json.__file__).parent, copied, ignore=shutil.ignore_patterns("__pycache__"))
    first = closure.find("copied.decoder")
    assert compileall.compile_dir(copied, quiet=2)
    assert closure.find("copied.decoder") == first


def test_other_sources_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def code(name: str, entry: str) -> bytes:
        return {module.name: module.code for module in closure.find(entry).modules}[name]

    whole = code("colorsys", "colorsys")
    monkeypatch.setattr(closure, "stand_ins", lambda: {"colorsys": b""})
    assert 0 < len(code("colorsys", "colorsys")) < 200 < len(whole)
    # Where it does not do, there is the original.
    monkeypatch.setattr(closure, "stand_ins", lambda: {"heapq": b""})
    assert len(code("heapq", "queue")) > 1000


def test_numpy_does_with_its_stand_ins() -> None:
    sizes = {module.name: len(module.code) for module in closure.find("colorsys", "numpy.typing").modules}
    assert all(
        0 < sizes[name] < 1000 for name in ("numpy.typing", "numpy._core._add_newdocs", "numpy.lib._nanfunctions_impl")
    )


def test_imports_in_functions_of_ours_are_followed(tmp_path: Path) -> None:
    # The probe looks into modules of the package "kdump" only: this one is one, in a tree of its own.
    package = tmp_path / "kdump"
    (package / "sub").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "sub/__init__.py").write_text("")
    (package / "sub/lazy.py").write_text("__capture_imports__ = ('colorsys',)\n")
    (package / "sub/entry.py").write_text(
        textwrap.dedent("""
        __capture_omits__ = ("wave", "ftplib", "xml.dom")
        class C:
            def method(self):
                import chunk_that_is_not_installed
                from kdump.sub import lazy
                def inner():
                    from sched import scheduler
                    import wave, ftplib
                    from xml.dom.minidom import parse
                    import xml.etree
        def long(value):
            return [{names}]
            import quopri
        class D:
            import netrc  # at the module's import, and not inside a function
        """).replace("{names}", ", ".join(f"value.name{number}" for number in range(300)))
    )
    probe = Path(closure.__file__).with_name("probe.py")
    request = marshal.dumps(([str(tmp_path), *sys.path], ["sched"], ["getpass", "pty"], {}))
    request += marshal.dumps((["getpass"], ["getpass"]))
    command = [sys.executable, "-S", str(probe), "kdump.sub.entry"]
    done = subprocess.run(command, input=request, capture_output=True, check=False)
    assert not done.returncode, done.stderr
    answer = done.stdout
    stream = io.BytesIO(answer)
    answers = []
    while stream.tell() < len(answer):
        answers.append(marshal.load(stream))
    *modules, missing = answers
    before = modules.index(None)
    assert "sched" in {name for name, *_ in modules[:before]}
    names = {name for name, *_ in filter(None, modules)}
    assert {"kdump.sub.lazy", "sched", "colorsys", "getpass", "xml.etree"} <= names
    assert not names & {"wave", "ftplib", "opcode", "xml.dom", "xml.dom.minidom"}
    assert missing == ["chunk_that_is_not_installed"]


def test_an_entry_that_does_not_import_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_entry.py").write_text("import no_such_module_anywhere\n")
    with pytest.raises(KdumpError, match=r"broken_entry cannot be put in an image.*no_such_module_anywhere"):
        closure.find("broken_entry")
