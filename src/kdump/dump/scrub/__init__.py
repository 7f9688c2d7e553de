"""Secrets that a dump does not keep: found by the kernel's own types and by their form, and written as zeros.

`look` walks to where a kernel keeps them, `scan` searches all pages that are kept, `cover` hides what both found.
"""
