"""Certificates that cannot be used are named: they are this machine's files, not the server's fault."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from kdump.cli.main import main
from kdump.errors import KdumpError
from kdump.targets.https import Server, show_certificate, trusting


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """one.pem and two.pem with keys one.key and two.key; locked.key is one.key with a passphrase."""
    here = tmp_path_factory.mktemp("certificates")
    for name in ("one", "two"):
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=x"]
        subprocess.run([*command, "-keyout", f"{name}.key", "-out", f"{name}.pem"], cwd=here, check=True)
    lock = ["openssl", "rsa", "-aes256", "-passout", "pass:secret", "-in", "one.key", "-out", "locked.key"]
    subprocess.run(lock, cwd=here, check=True)
    (here / "text").write_text("no certificate\n")
    (here / "both.pem").write_text((here / "one.pem").read_text() + (here / "one.key").read_text())
    return here


@pytest.mark.parametrize(
    ("certificate", "key", "why"),
    [
        ("one.pem", "two.key", "no certificate with its key"),
        ("one.pem", "locked.key", "without a passphrase"),
        ("one.pem", "", "no certificate with its key"),
        ("text", "one.key", "no certificate with its key"),
        ("none", "one.key", "No such file"),
        ("one.pem", "none", "No such file"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_named(
    certificate: str, key: str, why: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(made / name) for name in (certificate, key) if name]
    with pytest.raises(KdumpError, match=why) as caught:
        show_certificate(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), *files)
    assert all(name in str(caught.value) for name in files)
    if key:
        serve = ["fleet", "serve", "--data", str(tmp_path / "data"), "--listen", "127.0.0.1:0"]
        assert main([*serve, "--tls-cert", files[0], "--tls-key", files[1]]) == 1
        assert str(caught.value) in capsys.readouterr().err


def test_certificates_to_trust_that_cannot_be_used_are_named(made: Path) -> None:
    for name, why in (("text", r"no certificate \(PEM\)"), ("none", "No such file")):
        with pytest.raises(KdumpError, match=f"{made / name} cannot be used: .*{why}"):
            trusting(str(made / name))
        with pytest.raises(KdumpError, match=f"{made / name} cannot be used"):
            Server.of("https://server.invalid").connect("192.0.2.1", str(made / name), 0.1)


def test_good_ones_pass(made: Path) -> None:
    show_certificate(trusting(str(made / "one.pem")), str(made / "both.pem"))
    show_certificate(trusting(str(made / "one.pem")), str(made / "one.pem"), str(made / "one.key"))
