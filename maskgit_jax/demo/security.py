"""Who may ask: hosts and origins, the size of bodies, and the headers of every answer."""

import ipaddress
import json
import socket
from collections.abc import Collection
from typing import Any
from urllib.parse import urlsplit

from maskgit_jax.configuration import InputError, require

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
LOCAL = ("localhost", "127.0.0.1", "::1")


def json_text(value: Any) -> bytes:
    """Returns a value as JSON; characters beyond ASCII are escaped, so that any text is valid."""
    return json.dumps(value, separators=(",", ":")).encode()


def host_name(netloc: str) -> str:
    """Returns the name in HOST or HOST:PORT in lower case; "" if it is neither."""
    try:
        parts = urlsplit(f"//{netloc}")
        _ = parts.port  # raises ValueError
        return (parts.hostname or "") if not parts.path and "@" not in netloc else ""
    except ValueError:
        return ""


def check_origin(origin: str) -> str:
    """Returns an origin, such as https://example.org, in lower case.

    Raises:
        InputError: It is none.
    """
    scheme, _, netloc = origin.lower().rstrip("/").partition("://")
    require(
        scheme in ("http", "https") and bool(host_name(netloc)),
        f"--allow_origin is '{origin}'; write it as https://example.org, with :PORT if needed",
    )
    return f"{scheme}://{netloc}"


class Access:
    """Which hosts and origins are accepted.

    A page of another site can make a browser send requests here. Its origin is refused; and so
    that it cannot rename itself to this address (DNS rebinding), the host must be a known one.

    Args:
        address: The address that the server is bound to.
        origins: Other origins that are allowed, with their hosts.
    """

    def __init__(self, address: str, origins: Collection[str] = ()):
        self.origins = {check_origin(origin) for origin in origins}
        self._hosts = {*LOCAL, address.lower()}
        self._hosts |= {host_name(origin.partition("://")[2]) for origin in self.origins}
        self._any_address = address not in LOCAL
        if self._any_address:
            names = {socket.gethostname().lower(), socket.getfqdn().lower()}
            self._hosts |= names | {f"{name}.local" for name in names}

    def refusal(self, headers: dict[str, str], is_api: bool) -> str:
        """Returns why a request is refused, "" if it is not.

        Args:
            headers: Of the request, names in lower case.
            is_api: Whether it is for the API, which links on other pages do not lead to.
        """
        host, origin = headers.get("host", ""), headers.get("origin")
        name = host_name(host)
        if name not in self._hosts and not (self._any_address and _is_address(name)):
            return "this host name is not one of the server's; --allow_origin adds one"
        if origin is not None:
            own = origin.lower().partition("://")[2] == host.lower()
            if not own and origin.lower() not in self.origins:
                return "requests of other origins are refused; --allow_origin adds one"
        elif is_api and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            return "requests of other sites are refused"
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
        return True
    except ValueError:
        return False


class Guard:
    """Refuses requests of other origins and hosts, and adds the headers to every answer.

    Args:
        app: The application.
        access: What is accepted.
    """

    def __init__(self, app: Any, access: Access):
        self._app, self._access = app, access

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handles a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        added = dict(HEADERS)
        if headers.get("origin", "").lower() in self._access.origins:
            added |= {
                "Access-Control-Allow-Origin": headers["origin"],
                "Access-Control-Allow-Methods": "GET, POST, DELETE",
                "Access-Control-Allow-Headers": "Content-Type, Last-Event-ID",
                "Vary": "Origin",
            }

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                pairs = [(name.lower().encode(), text.encode()) for name, text in added.items()]
                message = {**message, "headers": [*message.get("headers", ()), *pairs]}
            await send(message)

        refusal = self._access.refusal(headers, scope["path"].startswith("/api"))
        if refusal:
            await _answer(send_with_headers, 403, {"error": refusal})
        elif scope["method"] == "OPTIONS" and len(added) > len(HEADERS):
            await _answer(send_with_headers, 200, {})
        else:
            await self._app(scope, receive, send_with_headers)


async def _answer(send: Any, status: int, value: Any) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json_text(value)})


class TooLargeError(InputError):
    """The body of a request is too large."""


async def read_body(request: Any, limit: int) -> bytes:
    """Returns the body of a request; what its header says of the length is not trusted.

    Raises:
        TooLargeError: It has more than `limit` bytes.
    """
    message = f"the request has more than {limit:,} bytes"
    length = request.headers.get("content-length", "0")
    if not length.isdigit() or int(length[:20]) > limit:
        raise TooLargeError(message)
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise TooLargeError(message)
        parts.append(part)
    return b"".join(parts)
