"""How the model's API is reached: the HTTP client, its certificates, and what can go wrong.

Whatever the libraries below raise for one request is the service's fault, and worth another
attempt: no answer of a server, however odd, is a bug of this stream. `failure` is the one place
that says so, and says in words what it was. The words never repeat what was received.
"""

import socket
import ssl
from collections.abc import Mapping
from typing import Final

import aiohttp
import httpx
from aiohttp import http_exceptions
from httpx_aiohttp import AiohttpTransport

from operators.errors import ScoringError
from operators.model.errors import Kind, UnavailableError
from settings import Settings

__all__ = ["CERTIFICATE", "certificates", "failure", "present", "transport"]

CERTIFICATE: Final = "ML_API_SSL_CERTIFICATE_LOCATION, ML_API_SSL_KEY_LOCATION"
KNOWN: Final[Mapping[type[BaseException], tuple[str, Kind]]] = {
    aiohttp.ClientPayloadError: ("the answer broke off", "connection"),
    aiohttp.ServerDisconnectedError: ("the connection was closed before an answer", "connection"),
    aiohttp.ClientResponseError: ("an answer that is no valid HTTP", "answer"),
    socket.gaierror: ("no connection: no such host", "connection"),
    UnicodeEncodeError: ("an answer that is no valid HTTP", "answer"),
    # A name that cannot be a host's, such as one with two dots in a row.
    UnicodeError: ("no connection: no such host", "connection"),
    ConnectionRefusedError: ("no connection: refused", "connection"),
    ConnectionResetError: ("the connection was reset", "connection"),
}
"""What the libraries raise, in words; the first that fits counts."""

NO_TLS: Final = {
    "HTTP_REQUEST",
    "PACKET_LENGTH_TOO_LONG",
    "RECORD_LAYER_FAILURE",
    "UNKNOWN_PROTOCOL",
    "WRONG_VERSION_NUMBER",
}
"""OpenSSL's reasons where what comes is no TLS, as its various versions name them."""

WANTS_CERTIFICATE: Final = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED",
    "SSLV3_ALERT_HANDSHAKE_FAILURE",
    "SSLV3_ALERT_BAD_CERTIFICATE",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
    "TLSV1_ALERT_UNKNOWN_CA",
    "TLSV1_ALERT_ACCESS_DENIED",
}
"""Alerts of a server that wants a certificate of its clients, or does not take this one."""


TLS_ALERT: Final = r"\x15\x03"
"""How aiohttp's parser quotes the first bytes of TLS, where it looks for HTTP."""


def certificates(settings: Settings) -> ssl.SSLContext:
    """Read the certificates for the model's API.

    :raises ScoringError: A file of them cannot be used; the message names the setting.

    """
    try:
        context = ssl.create_default_context(cafile=settings.ml_api_ssl_ca_location)
    except (OSError, ValueError) as error:
        raise ScoringError(_unusable("ML_API_SSL_CA_LOCATION", error)) from None
    folders = settings.ssl_cert_dir or ()
    for name, file, folder in (
        ("SSL_CERT_FILE", settings.ssl_cert_file, None),
        *(("SSL_CERT_DIR", None, folder) for folder in folders),
    ):
        if file is None and folder is None:
            continue
        try:  # OpenSSL has read them already, without a word about what it could not use
            ssl.create_default_context(cafile=file, capath=folder)
        except (OSError, ValueError) as error:
            raise ScoringError(_unusable(name, error)) from None
    present(context, settings)
    return context


def present(context: ssl.SSLContext, settings: Settings) -> None:
    """Read the certificate of this client, if it has one, for the connections that follow.

    :raises ScoringError: It cannot be used; the message names the settings.

    """
    certificate, secret = settings.ml_api_ssl_certificate_location, settings.ml_api_ssl_key_password
    if certificate is None:
        return
    password = secret.get_secret_value() if secret else ""
    try:
        # Without a password OpenSSL would ask for it on the terminal.
        context.load_cert_chain(
            certificate, settings.ml_api_ssl_key_location, password=lambda: password
        )
    except (OSError, ValueError) as error:
        raise ScoringError(_unusable(CERTIFICATE, error)) from None


def transport(context: ssl.SSLContext) -> AiohttpTransport:
    """Make the HTTP client.

    :arg context: From `certificates`.

    """
    # aiohttp below httpx: a tenth of the processor time with many requests in flight.
    return AiohttpTransport(
        verify=context,
        client=lambda: aiohttp.ClientSession(
            # The scoring step bounds what is in flight.
            connector=aiohttp.TCPConnector(limit=0, ssl=context),
            cookie_jar=aiohttp.DummyCookieJar(),
        ),
    )


def failure(error: Exception) -> UnavailableError:
    """Say what was wrong with one request.

    :arg error: That came out of a library below.

    """
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLError):
            return UnavailableError(_tls(cause), kind="connection")
        if isinstance(cause, http_exceptions.HttpProcessingError) and TLS_ALERT in str(cause):
            reason = "TLS is spoken there: http instead of https in ML_API_URL"
            return UnavailableError(reason, kind="connection")
        for kind_of, (reason, kind) in KNOWN.items():
            if isinstance(cause, kind_of):
                return UnavailableError(reason, kind=kind)
    if isinstance(error, httpx.ConnectTimeout | httpx.ConnectError):
        # The transport says so of any connection that was not made.
        return UnavailableError("no connection", kind="connection")
    return UnavailableError(f"an answer that cannot be read: {type(error).__name__}", kind="answer")


def _causes(error: BaseException) -> list[BaseException]:
    """The error and what it comes from, the first cause first."""
    found: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in found:
        found.append(at)
        at = getattr(at, "os_error", None) or at.__cause__ or at.__context__
    return found[::-1]


def _tls(error: ssl.SSLError) -> str:
    reason = error.reason or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted, {error.verify_message}: ML_API_SSL_CA_LOCATION"
    if reason in NO_TLS:
        return "no TLS is spoken there: https instead of http in ML_API_URL"
    if reason in WANTS_CERTIFICATE:
        return f"it wants another certificate of its clients: {CERTIFICATE}"
    return f"TLS: {reason.replace('_', ' ').lower() or type(error).__name__}"


def _unusable(setting: str, error: Exception) -> str:
    # OpenSSL's text may name the file; it never has what is in it.
    words = getattr(error, "reason", None) or getattr(error, "strerror", None)
    return f"{setting}: cannot be used: {words or type(error).__name__}"
