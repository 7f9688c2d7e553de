"""Signing in: people at a real OpenID provider, hosts by certificate."""

from __future__ import annotations

import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey
from oidc_provider_mock import User, run_server_in_thread
from tests.fleet.client import Client
from tests.fleet.evidence import crash, packed
from tests.fleet.process import Collector
from tests.targets.servers import certificate

from kdump.errors import KdumpError
from kdump.fleet import oidc
from kdump.fleet.auth import COOKIE, Person
from kdump.fleet.service import Options, Service
from kdump.fleet.serving import names_of
from kdump.targets import target_for
from kdump.targets.protocol import Spec

ROLES = (("kernel-team", "engineer"), ("ops", "metadata"))


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    people = [
        User(sub="ann", claims={"email": "ann@example.net", "groups": ["kernel-team", "ops"]}),
        User(sub="bob", claims={"email": "bob@example.net", "groups": []}),
    ]
    with run_server_in_thread(user_claims=people) as server:
        yield f"http://localhost:{server.server_port}"


@pytest.fixture
def client(tmp_path: Path, issuer: str) -> Iterator[Client]:
    settings = oidc.Settings(issuer, "kdump", "secret", roles=ROLES)
    with Client(Service(Options(tmp_path / "data", page="http://fleet", oidc=settings))) as running:
        yield running
        running.service.close()


def at_provider(client: Client, who: str, after: str = "/groups/1") -> tuple[str, dict[str, str]]:
    """Sign in at the provider: where it sends the browser, and the cookie the browser has by then."""
    begun = client.get("/sign-in/oidc", params={"next": after})
    assert begun.status_code == 303
    asked = {name: values[0] for name, values in parse_qs(urlsplit(begun.headers["location"]).query).items()}
    assert asked["code_challenge_method"] == "S256"
    assert asked["redirect_uri"] == "http://fleet/sign-in/oidc/back"
    sent = httpx.post(begun.headers["location"], data={"sub": who}, timeout=20)
    assert sent.status_code == 302, sent.text[:300]
    kept = begun.headers["set-cookie"]
    assert "HttpOnly" in kept
    return sent.headers["location"], {"Cookie": kept.partition(";")[0]}


def test_a_person_signs_in_and_has_the_role_of_their_group(client: Client) -> None:
    assert "Sign in at" in client.get("/sign-in").text
    assert client.get("/").status_code == 303
    back, cookie = at_provider(client, "ann")
    done = client.get(back, headers=cookie)
    assert done.status_code == 303, done.text
    assert done.headers["location"] == "/groups/1"
    session = next(text for text in done.headers.get_list("set-cookie") if text.startswith(COOKIE))
    value = session.partition(";")[0].partition("=")[2]
    assert client.service.keys.person_of(value, time.time()) == Person("ann@example.net", "engineer")
    assert client.get("/", headers={"Cookie": f"{COOKIE}={value}"}).status_code == 200
    assert client.get(back, headers=cookie).status_code == 403  # a code is good once


def test_who_has_no_role_does_not_get_in(client: Client) -> None:
    back, cookie = at_provider(client, "bob")
    done = client.get(back, headers=cookie)
    assert done.status_code == 403
    assert "has no role here" in done.text
    assert COOKIE not in done.headers.get("set-cookie", "")


def test_a_sign_in_that_was_begun_elsewhere_is_refused(client: Client) -> None:
    back, cookie = at_provider(client, "ann")
    _, other = at_provider(client, "ann")
    assert client.get(back).status_code == 400
    assert client.get(back, headers=other).status_code == 400
    assert client.get(back, headers={"Cookie": cookie["Cookie"][:-4] + "0000"}).status_code == 400
    assert client.get("/sign-in/oidc/back?state=x&code=y").status_code == 400
    begun = client.get("/sign-in/oidc", params={"next": "//evil.example"})
    kept = begun.headers["set-cookie"].partition(";")[0].partition("=")[2]
    values = client.service.keys.unsealed(oidc.COOKIE, kept, time.time())
    assert values is not None
    assert values["next"] == "/"
    assert client.service.keys.unsealed(oidc.COOKIE, kept, time.time() + oidc.WITHIN + 1) is None


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({}, ""),
        ({"iss": "https://other.example"}, "iss"),
        ({"aud": "another"}, "aud"),
        ({"nonce": "another"}, "nonce"),
        ({"exp": 1}, "expired"),
        ({"sub": None}, "sub"),
    ],
)
def test_a_token_that_is_not_for_us_is_refused(changed: dict[str, object], why: str) -> None:
    key = RSAKey.generate_key(2048, {"kid": "a"})
    provider = oidc.Provider(oidc.Settings("https://sso.example.net", "kdump"), "https://fleet.example.net")
    good = {"iss": "https://sso.example.net", "aud": "kdump", "nonce": "n", "exp": int(time.time()) + 60, "sub": "ann"}
    claims = {name: value for name, value in {**good, **changed}.items() if value is not None}
    token = jwt.encode({"alg": "RS256", "kid": "a"}, claims, key)
    if not why:
        assert provider._claims(token, KeySet([key]), "n")["sub"] == "ann"
        other = RSAKey.generate_key(2048, {"kid": "a"})
        with pytest.raises(KdumpError, match="is invalid"):
            provider._claims(token, KeySet([other]), "n")
        return
    with pytest.raises(KdumpError, match=why):
        provider._claims(token, KeySet([key]), "n")


def test_a_provider_that_fails_is_said_so(tmp_path: Path) -> None:
    settings = oidc.Settings("http://localhost:9", "kdump")
    with Client(Service(Options(tmp_path / "data", page="http://fleet", oidc=settings))) as running:
        answer = running.get("/sign-in/oidc")
        running.service.close()
    assert answer.status_code == 502
    assert "does not answer" in answer.text


def test_the_file_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "oidc.toml"
    good = 'issuer = "https://sso.example.net"\nclient_id = "kdump"\n[roles]\nops = "report"\n'
    path.write_text(good)
    path.chmod(0o600)
    settings = oidc.load(path)
    assert (settings.role({"groups": ["ops", "x"]}), settings.role({})) == ("report", "none")
    for text in (
        "issuer = 3", good.replace("https:", "http:"), good.replace('"report"', '"king"'), 'secret = "x"\n' + good,
        good.replace('client_id = "kdump"', ""), "[",
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(KdumpError):
            oidc.load(path)
    path.write_text(good)
    path.chmod(0o644)
    with pytest.raises(KdumpError, match="read by others"):
        oidc.load(path)


def authority(directory: Path) -> Path:
    """A CA, and certificates of two hosts that it signed."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=our hosts", "-days", "2")
    for host in ("web1", "web2"):
        openssl("req", *new, "-keyout", f"{host}.key", "-out", f"{host}.csr", "-subj", f"/CN={host}")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")
        openssl("x509", "-req", "-in", f"{host}.csr", *signed, "-out", f"{host}.pem")
    return directory / "ca.pem"


def test_hosts_write_by_their_certificates(tmp_path: Path) -> None:
    own = certificate(tmp_path, "127.0.0.1")
    (tmp_path / "hosts").mkdir()
    ca = authority(tmp_path / "hosts")
    more = ("--tls-cert", str(own), "--tls-key", str(own.with_name("key.pem")), "--client-ca", str(ca))
    collector = Collector(tmp_path / "data", *more)
    Path.mkdir(tmp_path / "data", exist_ok=True)

    def asked(host: str | None, named: str, token: str = "") -> int:
        context = ssl.create_default_context(cafile=str(own))
        if host:
            context.load_cert_chain(ca.with_name(f"{host}.pem"), ca.with_name(f"{host}.key"))
        headers = {"Content-Encoding": "zstd", **({"Authorization": f"Bearer {token}"} if token else {})}
        with httpx.Client(verify=context, timeout=20) as client:
            url = f"https://127.0.0.1:{collector.port}/v1/crashes"
            return client.post(url, content=packed(crash(named)), headers=headers).status_code

    collector.url = f"https://127.0.0.1:{collector.port}"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SSL_CERT_FILE", str(own))  # for the test's own look at /healthz
        with collector:
            assert asked("web1", "web1") == 201
            assert asked("web1", "web2") == 403
            assert asked(None, "web1", collector.token("web1")) == 401
            assert asked("web2", "web2", collector.token("web1")) == 403
            assert asked("web2", "web2", collector.token("web2")) == 201
            assert asked("web2", "web1", collector.token("*")) == 403
            identity = tmp_path / "web1.pem"
            identity.write_text(ca.with_name("web1.pem").read_text() + ca.with_name("web1.key").read_text())
            facts = {"token": str(tmp_path / "none"), "certificate": str(identity), "ca_file": str(own), "host": "web1"}
            target = target_for(Spec(f"collector+https://127.0.0.1:{collector.port}", facts))
            with pytest.raises(KdumpError, match="may be read by others"):
                target.check()
            identity.chmod(0o600)
            target.check()


def test_names_in_a_certificate() -> None:
    subject = ((("commonName", "web9"),),)
    assert names_of({"subject": subject}) == ("web9",)
    assert names_of({"subject": subject, "subjectAltName": (("DNS", "web1"), ("DNS", "*.x"), ("IP", "::1"))}) == (
        "web1",
    )
    assert names_of({}) == names_of(None) == ()
