"""From configuration and machine to what the capture kernel needs: its plan, its kernel modules, files for its image.

Everything that can be found out while the machine is healthy is found out here, and every reason why a target could
not work is an error here, not in the capture kernel.
"""

from __future__ import annotations

import functools
import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from kdump import processor
from kdump.capture import devicemapper, multipath
from kdump.capture.plan import PLAN_PATH, CapturePlan, Deadlines, Fence, Hooks
from kdump.errors import KdumpError
from kdump.host import drivers, encryption, remote, selinux, storage
from kdump.host.carried import named
from kdump.host.config import Config
from kdump.host.expected import capture_cpus
from kdump.host.network import addresses, resolve
from kdump.host.python_search import python_search
from kdump.image import modprobe_conf
from kdump.image.build import module_paths
from kdump.image.closure import Closure, Search
from kdump.image.kernel_tree import KernelTree, tree_of
from kdump.targets import NETWORKED, btrfs, target_for
from kdump.targets.devices import find_uuid
from kdump.targets.mountinfo import mount_of
from kdump.targets.protocol import Spec
from kdump.targets.superblock import RAID_MEMBER, Content, identify

KERNELS: Final = ("/boot/vmlinuz-{}", "/lib/modules/{}/vmlinuz", "/usr/lib/modules/{}/vmlinuz", "/boot/kernel-{}")
# Segments that a table says all about, or that keep the rest on disks which the table names; and what drives them.
SEGMENTS: Final = {
    "linear": "dm_mod", "striped": "dm_mod", "raid": "dm_raid", "thin": "dm_thin_pool", "thin-pool": "dm_thin_pool",
}  # fmt: skip
METADATA: Final = ("0.90", "1.0", "1.1", "1.2")  # of arrays
REFUSED_SEGMENTS: Final = {
    "cache": "what it knows of a large cache does not fit into a capture kernel's memory",
    "snapshot-origin": "what is written without its snapshots damages them",
    "snapshot": "what it knows of the blocks that differ may not fit into a capture kernel's memory",
}


class NoKernelError(KdumpError):
    """There is no image of the kernel to capture with."""


@dataclass(frozen=True)
class Prepared:
    """The input of an image.

    `modules` are names for `kdump.image.build.build` (the plan says which are loaded at once); `files` maps paths in
    the image to contents (the plan is one); `layers` are the block devices under the local targets; `notes` is what to
    tell the administrator; `search` finds the Python modules.
    """

    kernel: KernelTree
    plan: CapturePlan
    modules: tuple[str, ...]
    files: Mapping[str, bytes | Path]
    layers: tuple[storage.Layer, ...]
    notes: tuple[str, ...] = ()
    search: Search = field(default_factory=lambda: python_search(None))

    @functools.cached_property
    def python(self) -> Closure:
        """Python's part of the image."""
        return self.search.find(*self.plan.imports())


def prepare(config: Config, kernel: KernelTree | None = None, search: Search | None = None) -> Prepared:
    """Resolve `config` on this machine, for `kernel` (default: the configured or the running one).

    `search` is for Python's part of the image; it may have begun.

    Raises KdumpError for a target that could not take a dump, a device that the capture kernel could not reach, a
    module or file that does not exist.
    """
    processor.require_numpy()
    tree = replace(kernel or capture_kernel(config), conf=modprobe_conf.read())
    targets = [target_for(specification(url, config)) for url in config.targets]
    specs = [_labelled(target.check()) for target in targets]
    found = [
        storage.walk(device) for device in dict.fromkeys(device for spec in specs for device in devices_under(spec))
    ]
    lowest_first = {layer.name: layer for each in found for layer in reversed(each.layers)}
    layers = tuple(reversed(lowest_first.values()))
    refuse_unreachable(layers)
    hardware: list[drivers.Drivers] = [storage.watchdogs(), *((each.modules, each.modaliases) for each in found)]
    plan = plan_of(config)
    hosts = [server(spec, config) for spec in specs if spec.parts.scheme in NETWORKED]
    hosts += config.fence.nodes
    connected = remote.connections(layers)
    hosts += [each["address"] for each in connected]
    if hosts or plan.hooks.network:
        network = resolve(config.network, hosts, anywhere=plan.hooks.network)
        plan = replace(plan, network=network.plan, fence=_fence(config))
        hardware.append((network.modules, network.modaliases))
    made = volumes(layers)
    hardware += [(encryption.modules_of(each, tree), ()) for each in made if "holds" in each]
    hardware.append((segment_modules(made), ()))
    modules = drivers.modules_for(specs, hardware, tree)
    modules.update(dict.fromkeys(config.capture.modules))
    files = carried(config)
    for target in targets:
        files.update(getattr(target, "files", dict)())
    files.update(remote.files(connected))
    plan = replace(
        plan,
        targets=tuple(specs),
        modules=tuple(module_paths(tree, modules)),
        storage=(*connected, *made),
    )
    files[PLAN_PATH] = plan.to_json().encode()
    carried_modules = tuple(dict.fromkeys((*modules, *drivers.asked_for_at_run_time(tree))))
    return Prepared(
        kernel=tree,
        plan=plan,
        modules=carried_modules,
        files=files,
        layers=layers,
        notes=drivers.notes(tree, carried_modules),
        search=search or python_search(None),
    )


def _labelled(spec: Spec) -> Spec:
    """A directory of this machine with the labels that a crash there must have."""
    found = selinux.labels(spec.parts.path) if spec.parts.scheme == "file" else {}
    return replace(spec, facts={**spec.facts, **found}) if found else spec


def capture_kernel(config: Config) -> KernelTree:
    """The kernel to capture with: the configured one, or the running one where distributions keep it."""
    if config.capture.kernel:
        return tree_of(Path(config.capture.kernel))
    return tree_of(kernel_image(os.uname().release))


def kernel_image(release: str) -> Path:
    """The bootable image of an installed kernel. Raises NoKernelError that lists where it was looked for."""
    places = [place.format(release) for place in KERNELS]
    for place in places:
        if Path(place).exists():
            return Path(place)
    raise NoKernelError(
        f"the image of kernel {release} is not found",
        why="looked for " + ", ".join(places),
        remedy="name it in kdump.toml: [capture] kernel = …",
    )


def plan_of(config: Config) -> CapturePlan:
    """The part of the plan that follows from the configuration alone."""
    dump = config.dump
    return CapturePlan(
        hostname=config.name or socket.gethostname(),
        mode=config.save_to,
        level=dump.level,
        codec=dump.codec,
        codec_level=dump.codec_level,
        scrub=dump.scrub,
        processes=dump.keep,
        cpus=capture_cpus(config),
        deadlines=Deadlines(**asdict(config.deadlines)),
        on_success=config.action.success,
        on_failure=config.action.failure,
        hooks=_hooks(config),
        report=dump.report,
        recipients=config.encrypt.recipients,
        keep=0 if pruned_here(config) else config.retention.keep,
        min_free=config.retention.min_free,
    )


def _fence(config: Config) -> Fence:
    """Node names as addresses: the capture kernel need not look them up. Raises KdumpError for an unknown one."""
    nodes = tuple(dict.fromkeys(each for node in config.fence.nodes for each in addresses(node)))
    return Fence(nodes, config.fence.port, config.fence.interval)


def _hooks(config: Config) -> Hooks:
    hooks = config.hooks
    network = hooks.network and bool(hooks.pre or hooks.post or hooks.failed)
    return Hooks(hooks.pre, hooks.post, hooks.failed, hooks.timeout, network)


def pruned_here(config: Config) -> bool:
    """Whether `kdump collect` applies retention after the reboot: it can tell the only crash of a kind from a copy.

    The capture kernel, which cannot, then makes no more room than `min_free` asks for.
    """
    return all(url.startswith("file://") for url in config.targets)


def specification(url: str, config: Config) -> Spec:
    """A target as configured, before the machine is asked: its URL and what its table in kdump.toml says."""
    scheme = url.partition("://")[0]
    facts: dict[str, dict[str, str]] = {
        "ssh": {"identity": config.ssh.identity, "known_hosts": config.ssh.known_hosts},
        "s3": {
            "endpoint": config.s3.endpoint,
            "region": config.s3.region,
            "credentials": config.s3.credentials,
            "ca_file": config.s3.ca_file,
        },
        "nfs": {"options": config.nfs.options},
    }
    facts["collector+https"] = facts["collector+http"] = {
        "token": config.collector.token,
        "certificate": config.collector.certificate,
        "ca_file": config.collector.ca_file,
        "dump": config.collector.dump,
        "least_level": str(config.collector.least_level),
        "host": plan_of(config).hostname,
    }
    return Spec(url, {name: value for name, value in facts.get(scheme, {}).items() if value})


def server(spec: Spec, config: Config) -> str:
    """The host that a target across the network talks to."""
    if spec.parts.scheme == "s3":
        endpoint = urlsplit(config.s3.endpoint).hostname
        return endpoint or f"s3.{config.s3.region}.amazonaws.com"
    return spec.parts.hostname or ""


def devices_under(spec: Spec) -> list[str]:
    """ "major:minor" of the block devices that a local target is on; none for a target across the network."""
    if spec.parts.scheme == "block":
        return [storage.device_of(spec.parts.path)]
    if spec.parts.scheme == "fs":
        several = btrfs.present(spec.facts["uuid"]) if spec.facts["fstype"] == "btrfs" else []
        found = several or [find_uuid(spec.facts["uuid"]) or ""]
        return [storage.device_of(path) for path in found]
    if spec.parts.scheme != "file":
        return []
    mount = mount_of(spec.parts.path)
    several = btrfs.devices(mount.uuid) if mount.fstype == "btrfs" else []
    return several or [storage.device_of(mount.source)]


def refuse_unreachable(layers: Iterable[storage.Layer]) -> None:
    """Raise KdumpError for a layer that the capture kernel cannot put together."""
    for layer in layers:
        if layer.kind == "foreign":
            raise KdumpError(
                f"{layer.name} is {layer.detail}: the capture kernel cannot reach it",
                remedy="choose a file system on a disk of this machine, or nfs://, ssh:// or s3://",
            )
        if layer.kind == "loop":
            raise KdumpError(
                f"{layer.name} is a file on another file system", remedy="choose a directory on that file system"
            )
        if layer.kind == "dmraid" or (layer.kind == "md" and layer.metadata not in METADATA):
            metadata = layer.metadata or "of a controller"
            raise KdumpError(
                f"{layer.name} is a {layer.detail or 'RAID'} array with metadata {metadata}: "
                f"the capture kernel assembles only those with metadata {', '.join(METADATA)}",
                remedy="choose a file system beside the array, or the network",
            )


def volumes(
    layers: Iterable[storage.Layer],
    table_of: Callable[[str], list[devicemapper.DmTarget]] = devicemapper.read_table,
    content_of: Callable[[str], Content | None] = identify,
    identify_disk: Callable[[str], str] = lambda name: multipath.wwid(Path("/sys/block", name)),
) -> tuple[dict[str, Any], ...]:
    """The arrays and volumes among `layers` (each above what it stands on), lowest first, for the plan.

    Of an encrypted one, "holds" is the UUID of what is on it, by which its key will be proved.

    A multipath map of disks that do not say who they are is left out: the capture kernel finds what is on it on any
    one path. Raises KdumpError for a volume with other segments than SEGMENTS, or something that stands on a device
    without a UUID.
    """
    every = list(layers)
    names = {layer.device: layer.name for layer in every}

    def uuid(name: str, fstype: str = "") -> str:
        content = content_of(f"/dev/{name}") if name in names.values() else None
        if content is None or not content.uuid or fstype not in ("", content.fstype):
            raise KdumpError(
                f"a volume stands on {name}, and nothing there has a UUID",
                remedy="choose a file system elsewhere, or the network",
            )
        return content.uuid

    ours = {layer.device: layer.detail for layer in every if layer.kind in ("lvm", "dm", "crypt")}

    mapped: dict[str, str] = {}  # multipath maps of the plan, of which partitions may be mapped again

    def identity(found: re.Match[str]) -> str:
        if found[0] in ours:
            return f"<{devicemapper.BY_NAME}{ours[found[0]]}>"
        return f"<{uuid(names.get(found[0], found[0]))}>"

    made: list[dict[str, Any]] = []
    for layer in reversed(every):
        if layer.kind == "md":
            array = uuid(layer.beneath[0], RAID_MEMBER)
            disks = len(layer.beneath)
            made.append({"array": layer.name, "uuid": array, "metadata": layer.metadata, "disks": disks})
        if layer.kind == "multipath" and (entry := _multipath(layer, table_of, every, identify_disk)):
            made.append(entry)
            mapped[layer.device] = f"<{devicemapper.BY_NAME}{layer.detail}>"
        if layer.kind == "partition" and layer.uuid and mapped:
            lines = [
                line._replace(parameters=re.sub(r"\b\d+:\d+\b", lambda found: mapped[found[0]], line.parameters))
                for line in table_of(layer.device)
            ]
            made.append({"name": layer.detail, "uuid": layer.uuid, "table": [list(line) for line in lines]})
        if layer.kind not in ("lvm", "dm", "crypt"):
            continue
        table = table_of(layer.device)
        if layer.kind == "crypt":
            table = [encryption.plan_of(layer.detail or layer.name, table)]
        elif kinds := sorted({line.kind for line in table} - SEGMENTS.keys()):
            known = [f"{kind}: {REFUSED_SEGMENTS[kind]}" for kind in kinds if kind in REFUSED_SEGMENTS]
            raise KdumpError(
                f"the volume {layer.detail} is of kind {', '.join(kinds)}: the capture kernel assembles only "
                + ", ".join(SEGMENTS),
                why="; ".join(known),
                remedy="choose another file system, or the network",
            )
        lines = [line._replace(parameters=re.sub(r"\b\d+:\d+\b", identity, line.parameters)) for line in table]
        holds = {"holds": uuid(layer.name)} if layer.kind == "crypt" else {}
        made.append({"name": layer.detail, "uuid": layer.uuid, "table": [list(line) for line in lines], **holds})
    return tuple(made)


def _multipath(
    layer: storage.Layer,
    table_of: Callable[[str], list[devicemapper.DmTarget]],
    every: list[storage.Layer],
    identify_disk: Callable[[str], str],
) -> dict[str, Any]:
    """A multipath map for the plan; an empty one if its disks do not tell that they are one.

    Its parameters: number and features, number and words of the hardware handler, number of groups, first group, then
    the first group's path selector (Documentation/admin-guide/device-mapper/dm-mpath.rst).
    """
    disks = [each.name for each in every if each.name in layer.beneath]
    identities = {identify_disk(name) for name in disks}
    if len(identities) != 1 or not (wwid := identities.pop()):
        return {}
    [target] = table_of(layer.device)
    words = target.parameters.split()
    rest = words[int(words[0]) + 1 :]
    handler, rest = rest[: int(rest[0]) + 1], rest[int(rest[0]) + 1 :]
    return {
        "multipath": wwid, "name": layer.detail, "uuid": layer.uuid, "paths": len(disks), "size": target.length,
        "handler": " ".join(handler), "selector": rest[2] if len(rest) > 2 else "service-time",
    }  # fmt: skip


def segment_modules(storage: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names or aliases of the kernel modules that the plan's volumes need for their segments."""
    found: dict[str, None] = {}
    for volume in storage:
        if "multipath" in volume:
            found |= dict.fromkeys(("dm_multipath", f"dm_{volume['selector'].replace('-', '_')}"))
    for _start, _length, kind, parameters in (line for volume in storage for line in volume.get("table", ())):
        if kind in SEGMENTS:
            found[SEGMENTS[kind]] = None
        if kind == "raid" and (level := re.match(r"raid\d+", parameters)):  # "raid5_ls …"
            found[f"md-{level[0]}"] = None
    return list(found)


def carried(config: Config) -> dict[str, bytes | Path]:
    """Files of this machine that the image carries under the same path: hooks, keys, what the configuration adds."""
    files: dict[str, bytes | Path] = {}
    for name in named(config):
        path = Path(name)
        if not path.exists():
            raise KdumpError(f"{name} does not exist", why="kdump.toml names it for the capture image")
        inside = (each for each in sorted(path.rglob("*")) if each.is_file()) if path.is_dir() else [path]
        files.update({str(each): each for each in inside})
    return files
