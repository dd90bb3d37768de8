"""The model's API over TLS: what is trusted, what is shown, and what is said when it fails."""

import asyncio
import re
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

from operators.errors import DependencyError, ScoringError
from operators.model.check import check
from operators.model.client import ModelClient
from operators.model.errors import UnavailableError
from operators.model.transport import failure
from tests.kit import factories
from tests.kit.serving import predictions, serving

CERTIFICATE = "ML_API_SSL_CERTIFICATE_LOCATION, ML_API_SSL_KEY_LOCATION"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Signs the certificates."""
    return trustme.CA()


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path) -> dict[str, Any]:
    """Settings with which the authority is trusted."""
    return {"ml_api_ssl_ca_location": _file(tmp_path / "ca.pem", authority.cert_pem)}


def _file(path: Path, *blobs: trustme.Blob) -> Path:
    path.write_bytes(b"".join(blob.bytes() for blob in blobs))
    return path


def _server(
    certificate: trustme.LeafCert,
    clients: trustme.CA | None = None,
    version: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED,
) -> ssl.SSLContext:
    """Configure a server; with `clients` it wants a certificate of them, signed by these."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.maximum_version = version
    certificate.configure_cert(context)
    if clients is not None:
        clients.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _shown(certificate: trustme.LeafCert, folder: Path) -> dict[str, Any]:
    """Settings with which a client shows a certificate."""
    return {
        "ml_api_ssl_certificate_location": _file(
            folder / "client.pem", *certificate.cert_chain_pems
        ),
        "ml_api_ssl_key_location": _file(folder / "client.key", certificate.private_key_pem),
    }


async def _answer(request: web.BaseRequest) -> web.StreamResponse:
    return predictions(await request.json())


def _ask(
    server: ssl.SSLContext | None,
    settings: Mapping[str, Any],
    url: Callable[[str], str] = lambda url: url,
    renew: Callable[[], None] | None = None,
) -> int:
    """Ask once; twice more if something is done about a failure."""

    async def run() -> int:
        async with serving(_answer, server) as at:
            client = ModelClient(factories.settings(ml_api_url=url(at), **settings))
            try:
                async with asyncio.timeout(60):
                    if renew is not None:
                        with pytest.raises(UnavailableError):
                            await client.predict([factories.transaction()])
                        renew()
                        with pytest.raises(UnavailableError):  # notices that there is another
                            await client.predict([factories.transaction()])
                    return len(await client.predict([factories.transaction()]))
            finally:
                await client.close()

    return asyncio.run(run())


def _complaint(*arguments: Any, **more: Any) -> str:
    with pytest.raises(UnavailableError) as caught:
        _ask(*arguments, **more)
    return str(caught.value)


def test_a_model_of_an_own_authority_is_asked(
    authority: trustme.CA, trusted: dict[str, Any]
) -> None:
    """The authority is named by a setting."""
    assert _ask(_server(authority.issue_cert("127.0.0.1")), trusted) == 1


def test_what_is_not_trusted_is_told_with_the_reason(
    authority: trustme.CA, trusted: dict[str, Any]
) -> None:
    """An authority that nobody knows, a certificate that has expired, or is another host's."""
    past = datetime.now(UTC) - timedelta(days=1)
    here, other = authority.issue_cert("127.0.0.1"), authority.issue_cert("model.example")
    old = authority.issue_cert("127.0.0.1", not_before=past - timedelta(1), not_after=past)
    assert "unable to get local issuer certificate: ML_API_SSL_CA" in _complaint(_server(here), {})
    assert "certificate has expired" in _complaint(_server(old), trusted)
    assert "IP address mismatch" in _complaint(_server(other), trusted)


def test_tls_and_plain_text_are_not_mixed_up(
    authority: trustme.CA, trusted: dict[str, Any]
) -> None:
    """`https` to a port without TLS is told; `http` to one with it is no answer."""
    plain = _complaint(None, trusted, lambda url: url.replace("http", "https"))
    assert plain == "no TLS is spoken there: https instead of http in ML_API_URL"
    server = _server(authority.issue_cert("127.0.0.1"))
    assert _complaint(server, trusted, lambda url: url.replace("https", "http"))


def test_a_model_may_want_a_certificate(
    authority: trustme.CA, trusted: dict[str, Any], tmp_path: Path
) -> None:
    """Without it the reason is told, as far as the server says it; with it the model answers."""
    server = _server(authority.issue_cert("127.0.0.1"), authority)
    # A server that closes the connection at once may be quicker than its own alert.
    assert re.search(f"connection was|{CERTIFICATE}$", _complaint(server, trusted))
    shown = _shown(authority.issue_cert("stream"), tmp_path)
    assert _ask(server, trusted | shown) == 1


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_an_alert_of_a_server_that_wants_a_certificate_names_the_settings(
    authority: trustme.CA, version: ssl.TLSVersion
) -> None:
    """As OpenSSL raises it, which has another name for it in each version of TLS."""
    server = _server(authority.issue_cert("127.0.0.1"), authority, version)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    with pytest.raises(ssl.SSLError) as caught:
        _shake_hands(server, client)
    assert str(failure(caught.value)).endswith(CERTIFICATE)


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """Without a network, until the client has heard all that the server says."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(back, there, server_hostname="127.0.0.1"),
        server.wrap_bio(there, back, server_side=True),
    ]
    for _ in range(3):
        with suppress(ssl.SSLWantReadError):
            sides[0].do_handshake()
        with suppress(ssl.SSLError):  # which it tells the client as an alert
            sides[1].do_handshake()
    sides[0].read()


def test_a_refusal_over_tls_names_the_certificate_too(
    authority: trustme.CA, trusted: dict[str, Any]
) -> None:
    """A server such as nginx completes the handshake without one, and answers 400 then."""

    async def refuse(_request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=400)

    async def run() -> None:
        async with serving(refuse, _server(authority.issue_cert("127.0.0.1"))) as url:
            await asyncio.to_thread(check, factories.settings(ml_api_url=url, **trusted))

    with pytest.raises(DependencyError, match=f"^ML_API_URL, ML_API_CONTRACT, {CERTIFICATE}: "):
        asyncio.run(run())


def test_a_certificate_that_is_renewed_is_read_again(
    authority: trustme.CA, trusted: dict[str, Any], tmp_path: Path
) -> None:
    """When the old one has been refused, for the attempt after that."""
    past = datetime.now(UTC) - timedelta(days=1)
    server = _server(authority.issue_cert("127.0.0.1"), authority)
    old = authority.issue_cert("stream", not_before=past - timedelta(1), not_after=past)
    shown = _shown(old, tmp_path)

    def renew() -> None:
        _shown(authority.issue_cert("stream"), tmp_path)

    assert _ask(server, trusted | shown, renew=renew) == 1


def test_files_that_cannot_be_used_are_named_at_the_start(
    authority: trustme.CA, tmp_path: Path
) -> None:
    """One line with the setting; a key with a password is not asked for on the terminal."""
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no certificate")
    shown = _shown(authority.issue_cert("stream"), tmp_path)
    other = _file(tmp_path / "other.key", authority.issue_cert("other").private_key_pem)
    for spoiled, setting in (
        ({"ml_api_ssl_ca_location": garbage}, "ML_API_SSL_CA_LOCATION: "),
        ({"ssl_cert_file": garbage}, "SSL_CERT_FILE: "),
        ({"ml_api_ssl_certificate_location": garbage}, f"{CERTIFICATE}: "),
        (
            shown | {"ml_api_ssl_key_location": other},
            f"{CERTIFICATE}: .*KEY_VALUES_MISMATCH",
        ),
    ):
        with pytest.raises(DependencyError, match=f"^{setting}") as caught:
            check(factories.settings(ml_api_url="https://127.0.0.1:1", **spoiled))
        assert "\n" not in str(caught.value)
        with pytest.raises(ScoringError, match=f"^{setting}"):
            _ask(None, spoiled)
