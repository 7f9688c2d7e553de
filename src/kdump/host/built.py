"""The capture image of this machine: built when what goes into it has changed, loaded, and known by its record.

Whether an image is stale is decided by content: digests of everything it is made of are recorded beside it and worked
out again. Time stamps play no part.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from kdump.capture.plan import PLAN_PATH
from kdump.errors import FormatError, KdumpError
from kdump.files.directory import exclusive
from kdump.files.drafts import replace_file, sync_directory
from kdump.foreign import LATEST, Schema, load_object, mapping, number, path_text, text, whole
from kdump.host import encryption
from kdump.host.config import Config
from kdump.host.expected import capture_cpus
from kdump.host.home import STATE
from kdump.host.plan import Prepared
from kdump.host.python_search import ENTRY, MADE
from kdump.image.build import ImageSummary, build, request_table, shared_libraries
from kdump.image.made import content_digest, file_digest
from kdump.kexec import load as kexec
from kdump.kexec.cmdline import CommandLine, capture_command_line, option_name, running_command_line, split
from kdump.kexec.record import RECORD as RECORD_OF_LOAD
from kdump.kexec.sources import choose_method, read_sources
from kdump.kexec.state import read_state
from kdump.units import LARGEST_SIZE

IMAGE: Final = "capture.img"
RECORD: Final = "image.json"
NEXT: Final = "image-next.json"  # the record of an image that is about to replace the one there is
_WAIT: Final = 240.0  # seconds for another build to end
PARTS: Final = {
    "plan": "the configuration or the machine it was resolved on",
    "kernel": "the kernel",
    "modules": "kernel modules",
    "python": "kdump or its Python",
    "libraries": "shared libraries",
    "files": "files that the configuration adds",
}
_RECORD: Final[Schema] = {
    "image": path_text, "release": text(255), "vmlinuz": path_text, "size": whole(0, LARGEST_SIZE),
    "built": number(0, LATEST), "parts": mapping(text(255), 100), "digest": text(255),
}  # fmt: skip


@dataclass(frozen=True)
class Record:
    """What is known of a built image: where it is, its kernel, its size in bytes, when it was built (Unix time).

    `parts` maps each of PARTS to the digest of what went in; `digest` is the image's own.
    """

    image: str
    release: str
    vmlinuz: str
    size: int
    built: float
    parts: Mapping[str, str]
    digest: str = ""

    @classmethod
    def read(cls, path: Path) -> Record | None:
        """The record in a file; None if it is missing or this version does not understand it.

        Raises PermissionError.
        """
        try:
            return cls(**load_object(path.read_bytes(), path, _RECORD))
        except PermissionError:
            raise
        except (OSError, FormatError, TypeError):  # the last: keys of another version
            return None

    def write(self, path: Path) -> None:
        """Put the record into a file, mode 0600, all or nothing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, (json.dumps(asdict(self), indent=1) + "\n").encode())


def directory(release: str, state: Path = STATE) -> Path:
    """Where the image for a kernel release and its record are."""
    return state / release


def recorded(release: str, state: Path = STATE) -> Record | None:
    """The record of the image for a kernel release, if there is an image."""
    place = directory(release, state)
    after = Record.read(place / NEXT)
    if after and not damage(after):
        return after  # a build was interrupted between the image and its record
    record = Record.read(place / RECORD)
    return record if record and Path(record.image).exists() else None


def damage(record: Record) -> str:
    """In what way the image is not the one that was built; empty if it is. Reads all of it."""
    image = Path(record.image)
    try:
        size = image.stat().st_size
        if size != record.size:
            return f"the image has {size} bytes, {record.size} were built"
        if file_digest(image) != record.digest:
            return "the image has another content than the one that was built"
    except OSError as error:
        return f"the image cannot be read: {error.strerror or error}"
    return ""


def check(record: Record) -> None:
    """Raise KdumpError unless image and kernel are those that go together."""
    if why := damage(record):
        raise KdumpError(f"{record.image} is damaged", why=why, remedy="kdump build --load")
    if _digest([Path(record.vmlinuz)]) != record.parts.get("kernel"):
        raise KdumpError(
            f"{record.image} is not for {record.vmlinuz}", why="the kernel was replaced", remedy="kdump build --load"
        )


def remove_images(state: Path = STATE) -> None:
    """Delete images, their records and what the next one would be made of; nothing else that is kept there."""
    for place in (each.parent for each in state.glob(f"*/{RECORD}")):
        for name in (IMAGE, RECORD, NEXT):
            (place / name).unlink(missing_ok=True)
        with suppress(OSError):
            place.rmdir()
    (state / MADE).unlink(missing_ok=True)


def fingerprint(prepared: Prepared) -> dict[str, str]:
    """Digest of each part of an image made from `prepared`. Reads everything that goes into it."""
    files = dict(prepared.files)
    plan = files.pop(PLAN_PATH)
    modules = prepared.kernel.module_index.closure(prepared.modules)
    python = prepared.python.modules
    binaries = [Path("/proc/self/exe").resolve(), *(module.path for module in python if not module.code)]
    parts: dict[str, list[bytes | Path]] = {
        "plan": [plan],
        "kernel": [prepared.kernel.vmlinuz],
        "modules": [
            request_table(prepared.kernel, prepared.modules).encode(),
            *(module.path for module in modules),
            *prepared.kernel.firmware(modules).values(),
        ],
        "python": [*(module.code for module in python), *binaries],
        "libraries": [*shared_libraries(binaries, prepared.search.made).values()],
        "files": [part for name in sorted(files) for part in (name.encode(), files[name])],
    }
    with ThreadPoolExecutor() as pool:
        return dict(zip(parts, pool.map(_digest, parts.values()), strict=True))


def stale(record: Record | None, now: Mapping[str, str]) -> list[str]:
    """Why the recorded image is not what would be built `now` (a fingerprint); empty if it is. See `damage`, too."""
    if record is None:
        return ["no image is built"]
    return [f"{meaning} changed" for part, meaning in PARTS.items() if record.parts.get(part) != now[part]]


def build_image(
    prepared: Prepared, parts: Mapping[str, str] | None = None, state: Path = STATE
) -> tuple[Record, ImageSummary]:
    """Build the image and its record; `parts` is its fingerprint if that was taken already. Raises KdumpError."""
    for volume in prepared.plan.storage:
        if "holds" in volume:
            encryption.prove(volume)
    release = prepared.kernel.release
    place = directory(release, state)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KdumpError(f"{place} cannot be made", why=error.strerror or str(error), remedy="run as root") from None
    with exclusive(place, _WAIT) as got:  # linux-kdump.service builds on its own accord, too
        if not got:
            raise KdumpError(f"another build for {release} has not ended", remedy="wait for it and try again")
        python = prepared.python  # both need it
        with ThreadPoolExecutor(1) as pool:
            digests = pool.submit(lambda: parts or fingerprint(prepared))

            def ready(image: bytes) -> None:
                digest = content_digest([image])
                vmlinuz = str(prepared.kernel.vmlinuz)
                Record(
                    str(place / IMAGE), release, vmlinuz, len(image), time.time(), digests.result(), digest
                ).write(place / NEXT)  # fmt: skip

            summary = build(
                prepared.kernel,
                entry=ENTRY,
                output=place / IMAGE,
                modules=prepared.modules,
                python=python,
                files=dict(prepared.files),
                made=prepared.search.made,
                ready=ready,
            )
        # Power may be cut at any moment: there is always a record that fits the image.
        (place / NEXT).replace(place / RECORD)
        sync_directory(str(place))
        record = Record.read(place / RECORD)
        assert record is not None
        return record, summary


def command_line(config: Config, root: Path = Path("/")) -> CommandLine:
    """The capture kernel's command line: the running one's, as the lists of `kdump.kexec` and `config` change it."""
    unwanted = {option_name(option) for option in config.capture.cmdline_remove}
    kept = [option for option in split(running_command_line(root)) if option_name(option) not in unwanted]
    return capture_command_line(
        " ".join(kept),
        append=" ".join(config.capture.cmdline_add),
        cpus=capture_cpus(config),
        boot_cpu_apicid=boot_cpu(root),
    )


def load_image(record: Record, config: Config) -> kexec.LoadResult:
    """Load the recorded image and its kernel for the next panic, unless just that is loaded.

    Raises KdumpError, also if they are not what was recorded.
    """
    check(record)
    return kexec.load(Path(record.vmlinuz), Path(record.image), command_line(config).text, if_changed=True)


def outdated(record: Record, config: Config, root: Path = Path("/")) -> list[str]:
    """In what loading the recorded image would differ from what is loaded, in words; empty if in nothing."""
    state = read_state(root)
    sources = read_sources(Path(record.vmlinuz), Path(record.image))
    method, _why = choose_method(sources.kernel, state, root=root)
    line = command_line(config, root).text
    loaded = root / RECORD_OF_LOAD.relative_to("/")
    return kexec.changes_against_record(sources, line, method, state, root=root, record=loaded)


def boot_cpu(root: Path = Path("/")) -> int | None:
    """APIC id of the CPU that the firmware started (the first in /proc/cpuinfo), if the architecture has one."""
    found = re.search(r"^initial apicid\s*: (\d+)", (root / "proc/cpuinfo").read_text(), re.MULTILINE)
    return int(found[1]) if found else None


def _digest(parts: Iterable[bytes | Path]) -> str:
    return content_digest(part if isinstance(part, bytes) else _of_file(part) for part in parts)


def _of_file(path: Path) -> bytes:
    try:
        return file_digest(path).encode()
    except OSError as error:
        raise KdumpError(f"{path} cannot be read", why=error.strerror or str(error)) from None
