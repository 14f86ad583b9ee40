"""Who may ask the explorer: browsers of this machine, or whoever has the token; and only through the explorer's page.

- The Host header must name this server, so that no other site's name can be made to lead here (DNS rebinding).
- At another address than the machine's own a token is wanted, in the address of the page, then in a cookie.
- What another site's page asks for is refused: browsers say where a request comes from, and all that does something
  needs a header that other sites' pages can't send.
- Answers say that nothing but the explorer's own files runs, and that nobody else may show them.
- A request is short, whatever it says of its length; but for a picture, which is bounded where it is received.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "x-camkit"
"""A header that pages of other sites can't send without asking first."""
PICTURES = "/api/images"
"""Where pictures are sent to."""
MOST_ASKED = 1 << 18
"""Bytes of any other request."""
NAMES = ("localhost", "127.0.0.1", "::1")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def is_local(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def make_token() -> str:
    """A token that can't be guessed."""
    return secrets.token_urlsafe(32)


class Guard:
    """Lets requests through to an application, or answers them itself.

    Args:
        app: The application.
        host: The address that the server is bound to.
        token: That is wanted; empty for none.
    """

    def __init__(self, app: ASGIApp, *, host: str, token: str = "") -> None:
        self._app = app
        self._token = token
        self._names = {*NAMES, host.lower(), *(_names_of_machine() if token else ())}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        refused = self._refuse(scope, headers)
        cookie = "" if refused else self._cookie_to_set(scope, headers)

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                made = MutableHeaders(raw=message.setdefault("headers", []))
                for name, value in HEADERS.items():
                    made[name] = value
                if cookie:
                    made.append("set-cookie", cookie)
            await send(message)

        await (refused or self._app)(scope, receive if scope["path"] == PICTURES else _bounded(receive), sent)

    def _refuse(self, scope: Scope, headers: Headers) -> Response | None:
        """An answer to what may not be asked; None for what may."""
        if not self._is_named(headers.getlist("host")):
            return _answer(421, "this address isn't the explorer's: open the one that camkit explore printed")
        if self._token and not self._is_known(scope, headers):
            return _answer(403, "the token is missing or wrong: open the address that camkit explore printed")
        origin = headers.get("sec-fetch-site", "none")
        is_page = scope["path"] == "/" and scope["method"] in ("GET", "HEAD")
        if origin not in ("none", "same-origin") and not is_page:
            return _answer(403, "asked by the page of another site")
        if scope["method"] not in ("GET", "HEAD") and HEADER not in headers:
            return _answer(403, f"asked without the header {HEADER}")
        return None

    def _is_named(self, hosts: Iterable[str]) -> bool:
        """Whether the Host header, of which there must be one, names this server."""
        found = list(hosts)
        if len(found) != 1:
            return False
        name = _without_port(found[0].lower())
        return name in self._names or (bool(self._token) and _is_number(name))

    def _is_known(self, scope: Scope, headers: Headers) -> bool:
        """Whether the request has the token."""
        given = [self._asked(scope), *_cookies(headers, self._cookie(scope))]
        return any(secrets.compare_digest(each.encode(), self._token.encode()) for each in given)

    def _cookie_to_set(self, scope: Scope, headers: Headers) -> str:
        if not self._token or not self._asked(scope):
            return ""
        return f"{self._cookie(scope)}={self._token}; Path=/; HttpOnly; SameSite=Strict"

    @staticmethod
    def _asked(scope: Scope) -> str:
        """The token in the page's address."""
        if scope["path"] != "/":
            return ""
        query = parse_qs(scope["query_string"].decode("latin-1"))
        found: str = query.get("token", [""])[0]
        return found

    @staticmethod
    def _cookie(scope: Scope) -> str:
        """The cookie's name: browsers send those of one host to all its ports."""
        server = scope.get("server") or ("", 0)
        return f"camkit-{server[1]}"


def _bounded(receive: Receive) -> Receive:
    """Receives a request of at most :data:`MOST_ASKED` bytes: what is longer is refused before it is in memory."""
    size = 0

    async def received() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > MOST_ASKED:
            raise HTTPException(413, f"a request may have {MOST_ASKED >> 10} KiB")
        return message

    return received


def _answer(status: int, line: str) -> Response:
    return JSONResponse({"error": line}, status)


def _cookies(headers: Headers, name: str) -> list[str]:
    found = []
    for text in headers.getlist("cookie"):
        try:
            jar = SimpleCookie(text)
        except CookieError:
            continue
        if name in jar:
            found.append(jar[name].value)
    return found


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _is_number(host: str) -> bool:
    """Whether this is an address in numbers, which no other site's name can stand for."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _names_of_machine() -> set[str]:
    return {socket.gethostname().lower(), socket.getfqdn().lower()}
