"""How well signatures group crashes whose right names are known: `python -m benchmarks.grouping CORPUS`.

CORPUS is a folder of logs, each with headers (`TITLE: …`), an empty line, and the kernel's log. Crashes with one title
belong together; those with one signature are put together, and a crash without a signature stays alone. B-cubed
precision is, for the mean crash, the share of its group that has its title; recall the share of its title that is in
its group. Over-merging is counted apart: groups that hold several titles, and the crashes in them.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from pathlib import Path

from kdump.report.context import Context
from kdump.report.logtext import decode, from_text
from kdump.report.verdict import judge


def read(path: Path) -> tuple[str, str, str] | None:
    """Title, signature and coarser key of one log; None if it has no title (it tells of no crash)."""
    head, _, log = decode(path.read_bytes()).partition("\n\n")
    found = re.search(r"^TITLE: (.+)$", head, re.M)
    if not found:
        return None
    verdict = judge(Context(None, from_text(log)))
    return found[1].strip().lower(), verdict.signature, verdict.coarse


def score(pairs: list[tuple[str, str]]) -> str:
    """B-cubed of (title, group) pairs, in words."""
    groups, titles, both = Counter(g for _, g in pairs), Counter(t for t, _ in pairs), Counter(pairs)
    precision = sum(both[pair] / groups[pair[1]] for pair in pairs) / len(pairs)
    recall = sum(both[pair] / titles[pair[0]] for pair in pairs) / len(pairs)
    merged = {group for group in groups if len({title for title, own in both if own == group}) > 1}
    return (
        f"B-cubed precision {precision:.3f}, recall {recall:.3f},"
        f" F {2 * precision * recall / (precision + recall):.3f};"
        f" {len(groups)} groups for {len(titles)} titles; over-merged: {len(merged)} groups with"
        f" {sum(groups[group] for group in merged)} of {len(pairs)} crashes"
    )


def main() -> None:
    """Print the scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    found = [each for path in sorted(parser.parse_args().corpus.iterdir()) if path.is_file() and (each := read(path))]
    if not found:
        sys.exit("no log has a title")
    for name, place in (("signature", 1), ("coarser key", 2)):
        print(f"{name}: {score([(each[0], each[place] or f'alone {n}') for n, each in enumerate(found)])}")
        several = Counter(each[0] for each in found)
        some = [(each[0], each[place] or f"alone {n}") for n, each in enumerate(found) if several[each[0]] > 1]
        print(f"  of titles with several logs: {score(some)}")


if __name__ == "__main__":
    main()
