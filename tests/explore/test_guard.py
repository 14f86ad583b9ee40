"""Who may ask: names of the host, tokens, other sites' pages, and what answers allow."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from camkit.explore.guard import HEADER, is_local
from tests.explore.serving import Client, served, tiny

TOKEN = "a-token-that-nobody-guesses"


@pytest.mark.parametrize("host", ["127.0.0.1:{}", "localhost:{}", "LOCALHOST", "[::1]:{}"])
def test_the_machines_own_names_are_answered(page: Client, host: str) -> None:
    assert page.get("/api/about", host=host.format(page.port)).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{}", "127.0.0.1.evil.example", "192.168.0.7", "", "localhost@evil"]
)
def test_a_name_that_was_made_to_lead_here_is_refused(page: Client, host: str) -> None:
    for method, path in (("GET", "/"), ("GET", "/api/about"), ("POST", "/api/map")):
        answer = page.request(method, path, headers={"host": host.format(page.port), HEADER: "page"})
        assert (answer.status, list(answer.told)) == (421, ["error"])


def test_what_another_sites_page_asks_for_is_refused(page: Client) -> None:
    asked = {"source": "a", "image": "given:000.png"}
    plain = page.request("POST", "/api/map", b"{}", {"content-type": "text/plain"})  # a form can send this
    assert plain.status == 403
    assert page.post("/api/map", asked, **{"sec-fetch-site": "cross-site"}).status == 403
    assert page.get("/api/small?id=given:000.png", **{"sec-fetch-site": "same-site"}).status == 403
    assert page.get("/", **{"sec-fetch-site": "cross-site"}).status == 200, "a link may lead here"
    preflight = page.request("OPTIONS", "/api/map", headers={"origin": "http://evil.example"})
    assert "access-control-allow-origin" not in preflight.headers


def test_answers_allow_the_pages_own_files_alone(page: Client) -> None:
    for path in ("/", "/api/about", "/web/explore.js", "/nothing"):
        headers = page.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"


def test_the_page_has_no_script_or_style_in_it(page: Client) -> None:
    text = page.get("/").body.decode()
    assert "<script>" not in text
    assert "<style" not in text
    assert " style=" not in text
    assert re.search(r"<[^>]* on\w+=", text) is None


def test_elsewhere_the_token_is_wanted(pictures: Path) -> None:
    with served(tiny(pictures), host="192.0.2.1", token=TOKEN) as page:
        host = {"host": f"192.0.2.1:{page.port}"}
        for query in ("", "?token=", "?token=wrong", f"?token={TOKEN[:-1]}", f"?token={TOKEN}x", "?token=%ff%fe"):
            answer = page.get(f"/{query}", **host)
            assert answer.status == 403
            assert "token" in answer.told["error"]
            assert "set-cookie" not in answer.headers
        assert page.get(f"/api/about?token={TOKEN}", **host).status == 403, "only the page's address has it"
        opened = page.get(f"/?token={TOKEN}", **host)
        cookie = opened.headers["set-cookie"]
        assert opened.status == 200
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        held = cookie.partition(";")[0]
        assert page.get("/api/about", cookie=held, **host).status == 200
        assert page.get("/web/explore.js", cookie=held, **host).status == 200
        assert page.get("/api/about", cookie=held[:-1], **host).status == 403
        assert page.get("/api/about", **host).status == 403
        assert page.get("/api/about", cookie=held, host="evil.example").status == 421


def test_which_addresses_are_this_machines_own() -> None:
    assert all(map(is_local, ("127.0.0.1", "127.8.8.8", "::1", "localhost")))
    assert not any(map(is_local, ("0.0.0.0", "::", "192.168.0.7", "localhost.evil.example", "")))
