"""The kernel's page table is found under each name that kernels have noted it by."""

import pytest

from kdump.arch.x86_64.paging import START_KERNEL_MAP, kernel_paging

NUMBERS = {"phys_base": 0x1000000}


@pytest.mark.parametrize("name", ["init_top_pgt", "init_level4_pgt", "swapper_pg_dir"])
def test_the_root_is_found_by_any_name(name: str) -> None:
    assert kernel_paging({name: START_KERNEL_MAP + 0x5000}, NUMBERS).root == 0x1005000


def test_the_newer_name_counts() -> None:
    symbols = {"swapper_pg_dir": 0, "init_level4_pgt": START_KERNEL_MAP, "init_top_pgt": START_KERNEL_MAP + 0x5000}
    assert kernel_paging(symbols, NUMBERS).root == 0x1005000


def test_without_any_the_last_name_is_said_to_be_missing() -> None:
    with pytest.raises(KeyError, match="swapper_pg_dir"):
        kernel_paging({}, NUMBERS)
