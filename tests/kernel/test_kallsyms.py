"""Symbol tables in every encoding, written by a small writer, read by ours."""

from __future__ import annotations

import pytest
from tests.kernel import fakes

from kdump.errors import KdumpError
from kdump.kernel import kallsyms
from kdump.kernel.vmcoreinfo import VmCoreInfo

TEXT = 0xFFFFFFFF81000000


def symbols(count: int = 700) -> list[tuple[str, int, str]]:
    """One name longer than 127 tokens, one made of long tokens, one that occurs twice."""
    out = [("_stext", TEXT, "T"), ("_text", TEXT, "T")]
    out += [(f"fun__{number}", TEXT + 0x10 * number, "t") for number in range(1, count)]
    out += [("x" * 200, TEXT + 0x10 * count, "T"), ("a_long_token_of_many_characters_9", TEXT + 0x10 * count + 8, "D")]
    return [*out, ("twice", TEXT + 0x20000, "d"), ("twice", TEXT + 0x20010, "d")]


@pytest.mark.parametrize("encoding", ["absolute", "absolute-percpu", "base-relative", "place-relative"])
@pytest.mark.parametrize("count", [3, 700])
def test_every_encoding(encoding: str, count: int) -> None:
    expected = symbols(count)
    if encoding in ("absolute", "absolute-percpu"):
        expected = [("fixed_percpu_data", 0, "A"), ("current_task", 0x1FB80, "D"), *expected]
    table = kallsyms.load(*fakes.kallsyms(expected, encoding=encoding, where=0xFFFFFFFF82000000))
    assert [(symbol.name, symbol.address, symbol.type) for symbol in table] == expected
    assert table.addresses("twice") == [TEXT + 0x20000, TEXT + 0x20010]
    assert table.get("fun__2") == TEXT + 0x20
    assert table.get("un__2") is None
    assert table.get("missing") is None
    with pytest.raises(KeyError, match="missing"):
        table.address("missing")
    found = table.at(TEXT + 0x25)
    assert found == kallsyms.Symbol("fun__2", TEXT + 0x20, "t", 0x10)
    first = table.at(TEXT)
    assert first is not None and first.name == "_stext"


def test_names_of_one_address_have_one_size() -> None:
    table = kallsyms.load(*fakes.kallsyms(symbols()))
    sizes = {symbol.name: symbol.size for symbol in table}
    assert sizes["_stext"] == sizes["_text"] == 0x10 and sizes["fun__1"] == 0x10 and sizes["twice"] == 0


def test_variables_that_are_linked_as_code() -> None:
    data = TEXT + 0x30000
    more = [("_sdata", data, "T"), ("init_task", data + 64, "t"), ("weak", data + 72, "W"), ("_edata", data + 80, "T")]
    table = kallsyms.load(*fakes.kallsyms([*symbols(), *more, ("set_up", data + 96, "t")]))
    assert [symbol.type for symbol in table][-5:] == ["D", "d", "V", "D", "t"]


def test_one_byte_lengths_before_6_1() -> None:
    expected = symbols()
    table = kallsyms.load(*fakes.kallsyms(expected, wide=False))
    assert [symbol.name for symbol in table] == [name for name, _, _ in expected]


def test_kernel_without_the_tables_says_since_when() -> None:
    with pytest.raises(KdumpError, match=r"since Linux 6\.0"):
        kallsyms.load(fakes.Pieces({}), VmCoreInfo(b"", strings={"OSRELEASE": "5.10.0"}))


def test_wrong_stext_is_refused() -> None:
    memory, info = fakes.kallsyms(symbols())
    with pytest.raises(KdumpError, match="_stext"):
        kallsyms.load(memory, VmCoreInfo(b"", {**info.symbols, "_stext": TEXT + 1}))


@pytest.mark.parametrize("count", [0, 1 << 30, 100000])
def test_damaged_count(count: int) -> None:
    memory, info = fakes.kallsyms(symbols())
    start, blob = next(iter(memory.pieces.items()))
    memory.pieces[start] = count.to_bytes(8, "little") + blob[8:]
    with pytest.raises(KdumpError, match="symbol table"):
        kallsyms.load(memory, info)


def test_absent_pages_are_named() -> None:
    memory, info = fakes.kallsyms(symbols())
    start, blob = next(iter(memory.pieces.items()))
    memory.pieces[start] = blob[:64]
    with pytest.raises(KdumpError, match="cannot be read"):
        kallsyms.load(memory, info)
