"""Foreign text on a screen: what a dump, a manifest, a file name or a server says is shown by one function.

Imports nothing, for every error passes here, in the capture kernel too.
"""

from __future__ import annotations


def shown(text: object) -> str:
    """Text in one line that is safe to print: control, format and broken characters become \\xNN; a tab stays.

    Takes bytes (UTF-8, as the kernel writes it) and whatever str() takes. The form is that of dmesg(1): the bytes.
    """
    line = text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else str(text)
    if line.isprintable():
        return line
    return "".join(letter if letter.isprintable() or letter == "\t" else _escaped(letter) for letter in line)


def paragraph(text: object) -> str:
    """Text of several lines, each as `shown`; those after the first are indented, so that none can pass for ours."""
    return "\n  ".join(shown(line) for line in str(text).split("\n"))


def _escaped(letter: str) -> str:
    if "\udc80" <= letter <= "\udcff":  # a byte that was no UTF-8, as Python keeps those of file names
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return "".join(f"\\x{byte:02x}" for byte in letter.encode("utf-8", "surrogatepass"))
