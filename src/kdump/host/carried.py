"""The files of this machine that kdump.toml names for the capture image: when one changes, the image is out of date."""

from __future__ import annotations

from pathlib import Path

from kdump.host.config import Config


def named(config: Config) -> list[str]:
    """Hooks, keys, certificates, and what the configuration adds; files and directories, absolute paths."""
    schemes = {url.partition("://")[0] for url in config.targets}
    wanted = [*config.hooks.pre, *config.hooks.post, *config.hooks.failed, *config.capture.files]
    if "ssh" in schemes:
        wanted += [config.ssh.identity, config.ssh.known_hosts]
    if schemes & {"collector+https", "collector+http"}:
        own = config.collector
        needed = not own.certificate or Path(own.token).exists()
        wanted += [*([own.token] if needed else []), *filter(None, [own.certificate, own.ca_file])]
    if "s3" in schemes:
        wanted += [config.s3.credentials, *filter(None, [config.s3.ca_file])]
    return wanted
