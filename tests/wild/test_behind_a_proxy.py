"""The page and the API behind a reverse proxy, at the root of a host and under a path, with and without a token."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import urljoin

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import Response
from PIL import Image

from amodal.app.demo import make_app
from amodal.app.images import DemoModels
from amodal.app.server import proxy_options
from amodal.errors import InputError
from tests.app.live import serving

PUBLIC = "demo.example.org"
ORIGIN = {"origin": f"https://{PUBLIC}"}


@contextmanager
def proxied(root_path: str, *, strip: bool, keep_host: bool, token: str | None = None) -> Iterator[httpx.Client]:
    """A server of the demo and a client that reaches it through a small reverse proxy.

    Args:
        root_path: path under which the proxy serves it.
        strip: whether the proxy removes this path, as nginx does with a slash after `proxy_pass`'s port.
        keep_host: whether the proxy passes the name on that the client used; nginx sets its own by default.
        token: token of the server.
    """
    models = DemoModels(cast("Any", None), cast("Any", None))
    app = make_app(models, token=token, hosts=frozenset({PUBLIC}), root_path=root_path)
    with serving(app) as port:
        proxy = FastAPI(openapi_url=None)

        @proxy.api_route("/{path:path}", methods=["GET", "POST"])
        async def forward(request: Request, path: str) -> Response:
            path = f"/{path}"
            if root_path and path != root_path and not path.startswith(f"{root_path}/"):
                return Response("another site", 418)
            if strip:
                path = path.removeprefix(root_path) or "/"
            headers = [(k, v) for k, v in request.headers.items() if keep_host or k != "host"]
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as inner:
                answer = await inner.request(
                    request.method, path, params=request.query_params, headers=headers, content=await request.body()
                )
            return Response(answer.content, answer.status_code, dict(answer.headers))

        with serving(proxy) as public, httpx.Client(base_url=f"http://127.0.0.1:{public}") as client:
            client.headers["host"] = PUBLIC
            yield client


CASES = [
    pytest.param(root, strip, keep, id=f"{root or 'root'}-{'strip' if strip else 'pass'}-{'host' if keep else 'nginx'}")
    for root, strip, keep in (("", False, True), ("", False, False), ("/amodal", True, False), ("/a/b", False, True))
]


@pytest.mark.parametrize(("root_path", "strip", "keep_host"), CASES)
def test_page_upload_and_api_work(root_path: str, strip: bool, keep_host: bool) -> None:
    with proxied(root_path, strip=strip, keep_host=keep_host) as client:
        home = f"{root_path}/"
        page = client.get(home)
        assert page.status_code == 200
        addresses = re.findall(r'(?:href|src)="([^"#]+)"', page.text)
        script = client.get(urljoin(home, "page.js")).text
        addresses += re.findall(r'from "([^"]+)"', script)
        assert len(addresses) >= 5
        for address in addresses:
            assert client.get(urljoin(home, address)).status_code == 200, address
        assert client.get(urljoin(home, "api/about")).status_code == 200
        opened = client.post(urljoin(home, "api/images"), files={"image": ("a.png", png())}, headers=ORIGIN)
        assert opened.status_code == 200 and opened.json()["size"] == [10, 20]
        view = client.get(urljoin(home, f"api/images/{opened.json()['key']}/view"))
        assert view.headers["content-type"] == "image/jpeg"
        foreign = client.post(urljoin(home, "api/segment"), json={}, headers={"origin": "https://evil.example"})
        assert foreign.status_code == 403
        servers = client.get(urljoin(home, "openapi.json")).json().get("servers", [{"url": ""}])
        assert servers[0]["url"] == root_path


def test_the_page_names_no_absolute_address() -> None:
    folder = Path("src/amodal/app")
    for file in [*folder.glob("demo_page/*.*"), *folder.glob("review_page/*.*")]:
        assert not re.search(r"""(?:href|src|from|fetch\(|call\()\s*=?\s*["'`]/""", file.read_text()), file


def test_the_link_with_the_token_leads_to_the_page_under_its_path() -> None:
    token = "a-token-of-sixteen-letters"
    with proxied("/amodal", strip=True, keep_host=False, token=token) as client:
        assert client.get("/amodal/api/about").status_code == 401
        entry = client.get(f"/amodal/?token={token}")
        assert entry.status_code == 303 and entry.headers["location"] == "/amodal/"
        assert "Path=/amodal/" in entry.headers["set-cookie"]
    with proxied("/amodal", strip=False, keep_host=False) as client:
        slash = client.get("/amodal")
        assert slash.status_code == 308 and slash.headers["location"] == "/amodal/"


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("amodal", [], []), "root_path: expected a path such as /amodal, got 'amodal'"),
        (("/a/../b", [], []), "root_path"),
        (("/a b", [], []), "root_path"),
        (("https://x/y", [], []), "root_path"),
        (("", ["https://demo.example.org"], []), "allow_host: expected a name"),
        (("", ["demo.example.org:80"], []), "allow_host"),
        (("", ["*"], []), "allow_host"),
        (("", [], ["proxy"]), "forwarded_from: expected an IP address, got 'proxy'"),
        (("", [], ["*"]), "forwarded_from"),
    ],
)
def test_options_that_are_refused(options: tuple[str, list[str], list[str]], line: str) -> None:
    with pytest.raises(InputError, match=re.escape(line)):
        proxy_options(*options)


def test_options_are_normalised() -> None:
    assert proxy_options("/", ["Demo.Example.org"], ["::1"]) == ("", frozenset({PUBLIC}), frozenset({"::1"}))
    assert proxy_options("/a/b/", [], [])[0] == "/a/b"


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10)).save(buffer, format="PNG")
    return buffer.getvalue()
