"""The meaning of each taint flag.

Source: include/linux/panic.h (TAINT_*), kernel/panic.c (letters), Documentation/admin-guide/tainted-kernels.rst.
"""

from __future__ import annotations

from collections.abc import Iterable

TAINTS = (
    ("P", "a proprietary module was loaded"),
    ("F", "a module was loaded by force"),
    ("S", "the processor or system is out of its specification"),
    ("R", "a module was unloaded by force"),
    ("M", "the processor reported a machine check"),
    ("B", "a page was in a bad state"),
    ("U", "user space asked for this taint"),
    ("D", "the kernel had died before (oops or BUG)"),
    ("A", "an ACPI table was overridden"),
    ("W", "the kernel had warned before"),
    ("C", "a staging driver was loaded"),
    ("I", "a workaround for a firmware bug is active"),
    ("O", "a module from outside the kernel tree was loaded"),
    ("E", "an unsigned module was loaded"),
    ("L", "a soft lockup had happened before"),
    ("K", "the kernel was live patched"),
    ("X", "the distribution set its auxiliary taint"),
    ("T", "the kernel was built with randomised structures"),
    ("N", "an in-kernel test was run"),
    ("J", "user space used a mutating debug operation (fwctl)"),
)


def explain_mask(mask: int) -> list[str]:
    """Sentences for the bits of `tainted_mask`."""
    known = [f"{letter}: {meaning}" for bit, (letter, meaning) in enumerate(TAINTS) if mask >> bit & 1]
    unknown = mask >> len(TAINTS) << len(TAINTS)
    return known + ([f"unknown taint bits {unknown:#x}"] if unknown else [])


def explain_letters(letters: Iterable[str]) -> list[str]:
    """Sentences for the letters after "Tainted:"; G says only that no proprietary module was loaded."""
    meanings = dict(TAINTS)
    return [f"{letter}: {meanings.get(letter, 'unknown')}" for letter in letters if letter not in "G "]
