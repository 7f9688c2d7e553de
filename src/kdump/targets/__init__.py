"""Where dumps go: one module per kind of target, one protocol (`kdump.targets.protocol`).

`target_for(spec)` picks the module by the URL's scheme.
"""

from __future__ import annotations

from kdump.errors import UsageError
from kdump.targets.protocol import Spec, Target

SCHEMES = {
    "file": "kdump.targets.file:FileTarget",
    "fs": "kdump.targets.filesystem:FilesystemTarget",
    "block": "kdump.targets.block:BlockTarget",
    "nfs": "kdump.targets.nfs:NfsTarget",
    "s3": "kdump.targets.s3:S3Target",
    "collector+https": "kdump.targets.collector:CollectorTarget",
    "collector+http": "kdump.targets.collector:CollectorTarget",
    "ssh": "kdump.targets.ssh:SshTarget",
}
NETWORKED = ("ssh", "nfs", "s3", "collector+https", "collector+http")


def target_for(spec: Spec) -> Target:
    """The target that a specification means. Raises `UsageError` for a scheme that no module serves."""
    from importlib import import_module

    scheme = spec.url.partition("://")[0]
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise UsageError(f"{spec.url!r} is not a target", why=f"a target is a URL: {known}")
    module, _, name = SCHEMES[scheme].partition(":")
    target: Target = getattr(import_module(module), name)(spec)
    return target
