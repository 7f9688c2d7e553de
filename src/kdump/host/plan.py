"""From configuration and machine to what the capture kernel needs: its plan, its kernel modules, files for its image.

Everything that can be found out while the machine is healthy is found out here, and every reason why a target could
not work is an error here, not in the capture kernel.
"""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from kdump import processor
from kdump.capture.plan import PLAN_PATH, CapturePlan, Deadlines, Fence, Hooks
from kdump.errors import KdumpError
from kdump.host import copies, drivers, encryption, remote, selinux, storage, volumes
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

KERNELS: Final = ("/boot/vmlinuz-{}", "/lib/modules/{}/vmlinuz", "/usr/lib/modules/{}/vmlinuz", "/boot/kernel-{}")


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
    checked = [(spec, devices_under(spec)) for spec in [target.check() for target in targets]]
    specs = [_labelled(_on_volume(spec, beneath)) for spec, beneath in checked]
    found = [storage.walk(device) for device in dict.fromkeys(each for _spec, beneath in checked for each in beneath)]
    lowest_first = {layer.name: layer for each in found for layer in reversed(each.layers)}
    layers = tuple(reversed(lowest_first.values()))
    volumes.refuse_unreachable(layers)
    volumes.refuse_unfit(layers)
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
    made = volumes.volumes(layers)
    copies.refuse_copies(specs, made, layers)
    hardware += [(encryption.modules_of(each, tree), ()) for each in made if "holds" in each]
    hardware.append((volumes.segment_modules(made), ()))
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


def _on_volume(spec: Spec, beneath: list[str]) -> Spec:
    """A target on a volume of device-mapper with its name: its file system's UUID is on what it is made of, too.

    `beneath` are the `devices_under` it.
    """
    alone = spec.parts.scheme in ("file", "fs") and len(beneath) == 1
    top = storage.read_layer(storage.block_directory(beneath[0])) if alone else None
    return replace(spec, facts={**spec.facts, "volume": top.detail}) if top and top.kind in ("lvm", "dm") else spec


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
