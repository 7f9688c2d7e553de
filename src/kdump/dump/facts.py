"""The facts about a kernel's struct page that the filter needs, from the kernel's own description.

From VMCOREINFO, and from BTF what that lacks. What cannot be found is listed in `missing` with the classes that cannot
be recognized without it. This takes milliseconds if VMCOREINFO is complete, so the image need not carry the facts.

Sources: include/linux/mm_types.h (struct page), include/linux/page-flags.h (flags, page types), kernel/vmcore_info.c.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kdump.errors import KdumpError
from kdump.kernel.vmcoreinfo import VmCoreInfo

if TYPE_CHECKING:
    from kdump.kernel.btf import Btf, Type

FREE, CACHE, USER, OFFLINE = "free", "cache", "user", "offline"  # classes that may have to be given up

PGTY_SHIFT = 24  # since 6.12 a page's type is the top byte of page_type, which shares its place with _mapcount


@dataclass(frozen=True)
class PageFacts:
    """Layout of struct page (offsets and sizes in bytes), flag bits as masks, page types as 32-bit values.

    None is "this kernel has no such thing"; what it has but could not be found is in `missing`: class → reason.
    """

    size: int
    flags: int
    mapping: int
    mapcount: int
    private: int
    head_pointer: int  # compound_head, since 7.1 compound_info
    lru: int
    private_bit: int
    swapcache: int
    swapbacked: int
    head_bit: int
    hwpoison: int | None = None
    slab_bit: int | None = None
    slab_type: int | None = None
    buddy_type: int | None = None
    offline_type: int | None = None
    unaccepted_type: int | None = None
    hugetlb_type: int | None = None
    hugetlb_flag: int | None = None  # mask in the first tail page's flags (6.6 to 6.8)
    hugetlb_dtor: int | None = None  # value of the byte at `dtor` in the first tail page (before 6.6)
    dtor: int = 0
    free_orders: int = 11  # number of buddy orders: MAX_PAGE_ORDER + 1
    missing: dict[str, str] = field(default_factory=dict)


def find_facts(info: VmCoreInfo, types: Callable[[], Btf] | None = None) -> PageFacts:
    """Facts from VMCOREINFO, and from BTF (`types` is only called if something is missing).

    Raises `KdumpError` if not even the layout of struct page is known: without it nothing can be filtered.
    """
    return _Finder(info, types).find()


class _Finder:
    def __init__(self, info: VmCoreInfo, types: Callable[[], Btf] | None) -> None:
        self.info = info
        self._open_types = types
        self._types: Btf | None = None
        self._why_no_types = "" if types else "no BTF"

    def types(self) -> Btf | None:
        """BTF, opened once; None if the kernel has none or it cannot be read."""
        if self._types is None and not self._why_no_types and self._open_types:
            try:
                self._types = self._open_types()
            except KdumpError as error:
                self._why_no_types = f"BTF cannot be read ({error.what})"
        return self._types

    def find(self) -> PageFacts:
        numbers = self.info.numbers
        size = self.size = self.page_size()
        missing: dict[str, str] = {}

        def give_up(name: str, *classes: str) -> None:
            for each in classes:
                missing.setdefault(each, f"neither VMCOREINFO nor BTF tells {name}")

        slab_bit, slab_type = self.flag("PG_slab"), self.page_type("SLAB")
        if slab_bit is None and slab_type is None:
            give_up("how slab pages are marked", USER)
        buddy = self.page_type("BUDDY")
        if buddy is None:
            give_up("how free pages are marked (PG_buddy)", FREE)
        orders = self.info.lengths.get("zone.free_area", 11)
        if not 0 < orders < 32:
            give_up("how large blocks of free pages are", FREE)
            buddy = None
        hugetlb = self.page_type("HUGETLB")
        hugetlb_flag = self.flag("PG_hugetlb") if hugetlb is None else None
        dtor_value = numbers.get("HUGETLB_PAGE_DTOR") if hugetlb is None and hugetlb_flag is None else None
        dtor = self.info.offsets.get("page.compound_dtor", 0)
        if not 0 <= dtor < size:
            dtor = 0
        if hugetlb is None and hugetlb_flag is None and (dtor_value is None or not dtor) and self.has_hugetlb():
            missing.setdefault("hugetlb", "neither VMCOREINFO nor BTF tells how hugetlb pages are marked")
        return PageFacts(
            size=size,
            flags=self.offset("flags"),
            mapping=self.offset("mapping"),
            mapcount=self.offset("_mapcount"),
            private=self.offset("private"),
            head_pointer=self.offset("compound_head", "compound_info"),
            lru=self.required_flag("PG_lru"),
            private_bit=self.required_flag("PG_private"),
            swapcache=self.required_flag("PG_swapcache"),
            swapbacked=self.required_flag("PG_swapbacked"),
            head_bit=head if 0 < (head := numbers.get("PG_head_mask", 0)) < 1 << 64 else self.required_flag("PG_head"),
            hwpoison=self.flag("PG_hwpoison"),
            slab_bit=slab_bit if slab_type is None else None,
            slab_type=slab_type,
            buddy_type=buddy,
            offline_type=self.page_type("OFFLINE"),
            unaccepted_type=self.page_type("UNACCEPTED"),
            hugetlb_type=hugetlb,
            hugetlb_flag=hugetlb_flag,
            hugetlb_dtor=dtor_value if dtor else None,
            dtor=dtor,
            free_orders=orders,
            missing=missing,
        )

    def page_size(self) -> int:
        for size in self.told(self.info.sizes.get("page"), lambda page: page.size):
            if _SMALLEST <= size <= _LARGEST and size % 8 == 0:
                return size
        raise self.unknown("the size of struct page")

    def offset(self, *names: str) -> int:
        """Offset of the first of these members that struct page has."""
        offsets = self.info.offsets
        named = next((offsets[f"page.{name}"] for name in names if f"page.{name}" in offsets), None)
        for offset in self.told(named, lambda page: member.offset if (member := page.first(*names)) else None):
            if 0 <= offset <= self.size - _WIDEST:
                return offset
        raise self.unknown(f"where struct page has its {names[0]}")

    def told(self, info: int | None, ask: Callable[[Type], int | None]) -> Iterator[int]:
        """The facts about struct page from VMCOREINFO, and from BTF where it lacks them."""
        if info is not None:
            yield info
        types = self.types()
        if types and types.has_struct("page") and (found := ask(types.struct("page"))) is not None:
            yield found

    def flag(self, name: str) -> int | None:
        """Mask of a page flag, or None if there is no flag of that name."""
        bit = self.info.numbers.get(name)
        if bit is None and (name not in _ALWAYS_TOLD or self._open_types):
            bit = self.enumerator("pageflags", name)
        return None if bit is None or not 0 <= bit < 64 else 1 << bit

    def required_flag(self, name: str) -> int:
        """Mask of a page flag that every kernel has."""
        mask = self.flag(name)
        if mask is None:
            raise self.unknown(f"the page flag {name}")
        return mask

    def page_type(self, name: str) -> int | None:
        """_mapcount of pages of a type, as an unsigned 32-bit number, or None."""
        value = self.info.numbers.get(f"PAGE_{name}_MAPCOUNT_VALUE")
        if value is None:
            kind = self.enumerator("pagetype", f"PGTY_{name.lower()}")  # 6.12 and later
            if kind is None:
                return None
            value = kind << PGTY_SHIFT
        return value & 0xFFFF_FFFF

    def enumerator(self, enum: str, name: str) -> int | None:
        """An enumerator from BTF, asked for only where VMCOREINFO does not already say all."""
        if not self.needs_types():
            return None
        types = self.types()
        if types is None:
            return None
        try:
            return types.enum(enum).get(name)
        except KeyError:
            return None

    def needs_types(self) -> bool:
        """Whether anything the filter cannot do without is absent from VMCOREINFO.

        Opening BTF costs a walk through kallsyms; kernels whose VMCOREINFO is complete are spared it.
        """
        numbers = self.info.numbers
        slab = "PG_slab" in numbers or "PAGE_SLAB_MAPCOUNT_VALUE" in numbers
        hugetlb = any(name in numbers for name in ("PAGE_HUGETLB_MAPCOUNT_VALUE", "PG_hugetlb", "HUGETLB_PAGE_DTOR"))
        return not (slab and hugetlb and "PAGE_BUDDY_MAPCOUNT_VALUE" in numbers and "PG_lru" in numbers)

    def has_hugetlb(self) -> bool:
        """Whether the kernel may have hugetlb pages at all: without BTF it must be assumed."""
        types = self.types()
        return types is None or types.has_struct("hstate")

    def unknown(self, what: str) -> KdumpError:
        return KdumpError(
            f"pages cannot be classified: neither VMCOREINFO nor BTF gives {what}",
            why=self._why_no_types,
            remedy="level 0 or 1 needs no struct pages",
        )


_SMALLEST, _LARGEST = 32, 1024  # bytes of a struct page that can be; VMCOREINFO may be damaged, or lie
_WIDEST = 8  # bytes of a member
_ALWAYS_TOLD = ("PG_lru", "PG_private", "PG_swapcache", "PG_swapbacked")
