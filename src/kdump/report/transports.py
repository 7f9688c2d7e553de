"""The prefixes that transports put before kernel messages, and their removal.

The kernel's own time stamp is the best landmark: whatever stands before it is a transport's (syslog, journal, serial
server, container, CI, a mail's quotes). Where there is none, known forms are taken off, and where none fits, lines
whose text is known ("Modules linked in:", "Call Trace:", …) teach the prefix of this file.

Sources: kernel/printk/printk.c (print_caller(), info_print_ext_header()), util-linux dmesg(1), RFC 3164, RFC 5424,
systemd's logs-show.c, Documentation/networking/netconsole.rst.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Stripped(NamedTuple):
    """A message: seconds since boot (None where no stamp was), who printed it ("T12", "C0" or ""), its text."""

    seconds: float | None
    caller: str
    text: str


_FAR = 200  # characters before the kernel's own stamp at most
_LEARNED = 8  # prefixes that are learnt from one file at most

# "[   12.345678]", "[   12.345678 <    0.000001>]" (dmesg -d)
_STAMP = re.compile(r"\[ *(?P<seconds>\d{1,9}\.\d{6})(?: <[ \d.+]+>)?\] ?")
# Who printed: CONFIG_PRINTK_CALLER, Android's CPU and pid, Samsung's and MediaTek's forms.
_CALLER = re.compile(
    r"\[ *(?P<tag>[TC]\d+)(?: [^\]]{1,16})?\] ?|c\d{1,3} +(?P<pid>\d+) |-?\[\d{1,3}: *[^:\]]{1,16}: *(?P<sec>\d+)\] ?"
    r"|-?\(\d{1,3}\)\[(?P<mtk>\d+):[^\]]{1,24}\] ?"
)
_ISO = r"\d{4}[-/]\d\d[-/]\d\d[T _]\d\d:\d\d:\d\d(?:[.,]\d+)?(?: ?(?:Z|UTC|[+-]\d\d:?\d\d))?"
_HEADERS = tuple(
    re.compile(pattern)
    for pattern in (
        r"<\d{1,3}>1 \S+ \S+ \S+ \S+ \S+ (?:-|\[[^\]]*\]) ?(?:\ufeff)?",  # RFC 5424
        r"<\d{1,3}>",  # dmesg -r, pstore, RFC 3164
        r"\d+,\d+,(?P<usec>\d{1,15}),[^;]{0,200};",  # extended netconsole, /dev/kmsg
        r"[a-z0-9]+ *:[a-z]+ *: ",  # dmesg -x
        r"(?=[^:]{0,60}\d).{0,160}?\bkernel(?:\[\d+\])?: ?",  # syslog, journal in any language and precision
        r"\[ *(?P<seconds>\d{1,9}\.\d{1,9})\] ?",
        r"\[[A-Z][a-z]{2} [A-Z][a-z]{2} +\d+ [\d:]{8} \d{4}\] ?",  # dmesg -T
        r"\[[A-Z][a-z]{2} *\d+ \d\d:\d\d\] ?|\[ *\+ *\d+\.\d+\] ?|\[ *< *\d+\.\d+>\] ?",  # dmesg -H, -d -t
        rf"\[?{_ISO}\]? ",  # serial servers, CI, containers
        r"\d\d:\d\d:\d\d(?:[.,]\d+)? ",
        r"(?:> ?)+(?=\S| )",  # quoted in a mail
    )
)
_TAGGED = _HEADERS[4]
_CALLER_FIELD = re.compile(r"\bcaller=(?P<tag>[TC]\d+)")
_KMSG_FIELD = re.compile(r"^ [A-Z_]+=")
# Text that stood on a console when another message began there: kept as a line of its own.
_BROKEN_OFF = re.compile(r"\b(?:BUG|WARNING|INFO|Oops|panic|fault|RIP|Trace)\b")
# Lines whose text is known wholly: what stands before is a prefix.
_ANCHOR = re.compile(
    r"(?:Modules linked in:|Call [Tt]race:|CPU: \d+ (?:UID: \d+ )?PID: \d+ |Hardware name: "
    r"|RIP: [0-9a-f]{4}:|---\[ end "
    r"|-+\[ cut here \]|Kernel panic - not syncing|BUG: |general protection fault|RAX: [0-9a-f]{16} )"
)
_JSON_KEYS = ("MESSAGE", "log", "message", "msg", "textPayload")


_EMPTY = Stripped(None, "", "")


def strip(lines: Iterable[str]) -> list[Stripped]:
    """Messages of the lines of a text. Lines of other programs in a syslog are left out."""
    lines = [_unwrapped(line) if line else line for line in lines]
    lines = _without_foreign(lines)
    found = [stripped for line in lines for stripped in (_line(line) if line else (_EMPTY,))]
    if any(stripped.seconds is not None for stripped in found):
        return found
    learned = _learn([stripped.text for stripped in found])
    if learned is None:
        return found
    return [_again(stripped, learned) for stripped in found]


def _unwrapped(line: str) -> str:
    """The message of a line of JSON (containers, journalctl -o json), else the line."""
    if not line.lstrip().startswith('{"'):
        return line
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return line
    for key in _JSON_KEYS:
        if isinstance(value, dict) and isinstance(value.get(key), str):
            return str(value[key]).rstrip("\r\n").replace("\n", " ")
    return line


def _line(line: str) -> Iterator[Stripped]:
    stamp = _STAMP.search(line, 0, _FAR)
    if stamp:
        before = line[: stamp.start()]
        if before and _BROKEN_OFF.search(before):
            yield _plain(before)
        line = line[stamp.end() :]
        seconds = float(stamp["seconds"])
        while again := _STAMP.match(line):  # relayed by another kernel's netconsole
            line = line[again.end() :]
        caller, line = _who(line)
        yield Stripped(seconds, caller, line)
    else:
        yield _plain(line)


def _plain(line: str) -> Stripped:
    """A line without the kernel's own stamp."""
    seconds: float | None = None
    caller = ""
    for _ in range(4):  # a transport in a transport: journal of a netconsole listener
        for pattern in _HEADERS:
            found = pattern.match(line)
            if found and found.end():
                groups = found.groupdict()
                if groups.get("seconds"):
                    seconds = float(groups["seconds"])
                elif groups.get("usec"):
                    seconds = int(groups["usec"]) / 1e6
                    if field := _CALLER_FIELD.search(found[0]):
                        caller = field["tag"]
                line = line[found.end() :]
                break
        else:
            break
    tag, line = _who(line)
    return Stripped(seconds, tag or caller, line)


def _who(line: str) -> tuple[str, str]:
    """Who printed a message, and the message."""
    found = _CALLER.match(line) or (_CALLER.match(line, 1) if line.startswith(" ") else None)
    if not found:
        return "", line
    pid = found["pid"] or found["sec"] or found["mtk"]
    return found["tag"] or f"T{pid}", line[found.end() :]


def _without_foreign(lines: list[str]) -> list[str]:
    """Without the lines that other programs wrote into the same syslog or journal, and without /dev/kmsg's fields."""
    heads: Counter[str] = Counter()
    kmsg = False
    for line in filter(None, lines):
        if found := _TAGGED.match(line):
            heads[_shape(found[0].rsplit("kernel", 1)[0])] += 1
        kmsg = kmsg or bool(_HEADERS[2].match(line))
    if kmsg:
        lines = [line for line in lines if not _KMSG_FIELD.match(line)]
    if not heads:
        return lines
    known = _union(heads)
    return [line for line in lines if _TAGGED.match(line) or not known.match(line)]


def _learn(texts: list[str]) -> re.Pattern[str] | None:
    """The prefix of a file as its anchors show it, or None."""
    heads: Counter[str] = Counter()
    bare = 0
    for text in filter(None, texts):
        found = _ANCHOR.search(text, 0, _FAR)
        if found and found.start():
            heads[_shape(text[: found.start()])] += 1
        elif found:
            bare += 1
    heads = Counter({head: count for head, count in heads.items() if count > 1})
    return _union(heads) if heads and sum(heads.values()) > bare else None


def _union(heads: Counter[str]) -> re.Pattern[str]:
    return re.compile("|".join(head for head, _ in heads.most_common(_LEARNED)))


def _shape(prefix: str) -> str:
    """A prefix as an expression: numbers and the first word (a month, a weekday) may change."""
    shape = re.sub(r"\d+", "\0", prefix)
    shape = re.sub(r"^[^\W\d]+", "\1", shape)
    return re.escape(shape).replace("\0", r"\d+").replace("\1", r"\w+")


def _again(stripped: Stripped, learned: re.Pattern[str]) -> Stripped:
    found = learned.match(stripped.text)
    return _plain(stripped.text[found.end() :]) if found else stripped
