"""Build the capture image for this machine, and load it.

kdump.toml and the machine determine the contents of the image: the plan of the capture, the kernel modules that lead
to the targets, keys and hooks. The image is stored in /var/lib/linux-kdump/RELEASE/.

--if-stale builds only if a rebuild would change the contents. --load loads the image if it differs from the loaded
one, or if memory or CPUs were added. If the machine cannot be examined, for example because a target's server is
away, --load takes the existing image, and the exit status is 3.

--arch builds an image for another machine: for a Debian kernel (--kernel: a series or a path) and a plan (--plan) in
the form that `kdump capture` reads. kdump then reads neither this machine nor kdump.toml.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from kdump.cli import values
from kdump.errors import KdumpError, UsageError
from kdump.host import config, in_force
from kdump.units import duration_text, size_text

if TYPE_CHECKING:
    from kdump.image.closure import Search


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument("--kernel", help="path of the capture kernel (default: the configured or the running one)")
    parser.add_argument(
        "--arch", type=values.architecture, metavar="MACHINE", help="build for another machine of that architecture"
    )
    parser.add_argument("--plan", type=Path, metavar="FILE", help="with --arch: the plan of the capture")
    parser.add_argument("--output", type=Path, metavar="FILE", help="with --arch: the image to write")
    parser.add_argument("--if-stale", action="store_true", help="build only if the contents would change")
    parser.add_argument("--load", action="store_true", help="load the image for the next panic")
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"configuration (default: {config.CONFIG_PATH})")
    parser.add_argument("--state", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Build and load; returns the exit status."""
    from kdump.host.home import settled
    from kdump.host.python_search import python_search

    if args.arch:
        return _for_another(args)
    if args.plan or args.output:
        raise UsageError("--plan and --output need --arch")
    state = args.state or settled()
    with python_search(state) as search:
        return _run(args, state, search)


def _for_another(args: argparse.Namespace) -> int:
    """Build the image of a machine that is not this one."""
    if args.load or args.if_stale or args.config:
        raise UsageError("--load, --if-stale and --config are for this machine's own image, not for --arch")
    if not args.plan or not args.output:
        raise UsageError("--arch needs --plan and --output")
    from kdump.capture.plan import PLAN_PATH, load_plan
    from kdump.host.python_search import ENTRY
    from kdump.image.build import build
    from kdump.image.kernel_tree import canonical
    from kdump.image.python import python_modules
    from kdump.lab import kernels
    from kdump.lab.foreign import platform_of

    try:
        plan = load_plan(args.plan)
    except OSError as error:
        raise KdumpError(f"the plan {args.plan} cannot be read", why=error.strerror or str(error)) from None
    tree = kernels.find(args.kernel or kernels.default(args.arch), args.arch)
    platform = platform_of(args.arch)
    summary = build(
        tree,
        entry=ENTRY,
        modules=[canonical(module.split(" ")[0]) for module in plan.modules],
        python=python_modules(ENTRY, plan.imports(), platform=platform),
        files={PLAN_PATH: plan.to_json().encode()},
        output=args.output,
        platform=platform,
    )
    if args.json:
        print(json.dumps({"image": str(summary.path), "release": summary.release, "size": summary.size}))
    else:
        size, time = size_text(summary.size), duration_text(summary.seconds)
        print(f"built {summary.path} for {summary.release} ({size}) in {time}")
    return 0


def _run(args: argparse.Namespace, state: Path, search: Search) -> int:
    from kdump.host import built, plan
    from kdump.image.kernel_tree import tree_of
    from kdump.kexec.state import read_state

    wanted = in_force.load(args.config)
    tree = tree_of(Path(args.kernel)) if args.kernel else plan.capture_kernel(wanted)
    record = built.recorded(tree.release, state)
    status = 0
    told: list[str] = []
    result: dict[str, object] = {"built": False, "loaded": False}
    if args.load and args.if_stale and record and not read_state().crash_loaded:
        # The image there is protects the machine while it is found out whether a newer one is needed.
        with suppress(KdumpError):  # of a damaged image, say: it is stale, then
            built.load_image(record, wanted)
            told.append(f"loaded {record.image} with kernel {record.release}")
            result["loaded"] = True
    try:
        prepared = plan.prepare(wanted, tree, search)
        told += [f"note: {note}" for note in prepared.notes]
        parts = built.fingerprint(prepared) if record and args.if_stale else None
        damage = built.damage(record) if record else ""
        if record is None or parts is None or damage or built.stale(record, parts):
            before, (record, summary) = record, built.build_image(prepared, parts, state)
            reasons = [damage] * bool(damage) + built.stale(before, record.parts)
            told.append(f"built {record.image} ({size_text(record.size)}) in {duration_text(summary.seconds)}")
            told += [f"  because {reason}" for reason in reasons] if args.if_stale else []
            result |= {"built": True, "reasons": reasons, "modules": list(summary.modules)}
        else:
            told.append(f"{record.image} is fresh")
    except KdumpError as error:
        if record is None or not args.load:
            raise
        print(f"kdump build: {error}\nthe image of before is used", file=sys.stderr)
        result["error"] = str(error)
        status = 3
    if args.load:
        done = built.load_image(record, wanted)
        if done.changed:
            told.append(f"loaded it with kernel {record.release}: {', '.join(done.changed)} changed")
            result["loaded"] = True
        elif not result["loaded"]:
            told.append("it is loaded already")
    print(json.dumps(result | {"record": asdict(record)}, indent=1) if args.json else "\n".join(told))
    return status
