"""The promises of SECURITY.md: each is named there together with its test here."""

from __future__ import annotations

import ast
import io
import json
import pickle
import re
import socket
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import yaml
from fastapi.testclient import TestClient
from PIL import Image

from amodal.app.demo import MAX_UPLOAD, make_app
from amodal.app.images import DemoModels
from amodal.app.server import access_token, without_folders
from amodal.app.store import MAX_PIXELS
from amodal.cli.main import main
from amodal.errors import InputError
from amodal.inference.segmenter import AmodalSegmenter
from amodal.io.images import load_image
from amodal.models.aura.mllm import load_mllm
from amodal.models.bases.checkpoints import read_checkpoint
from amodal.models.bases.families import load_base
from amodal.training.recipe import load_recipe
from tests.data.toy import write_toy
from tests.datagen.endpoint import serving

ROOT = Path(__file__).parents[1]


class _Code:
    """Code in a pickle, which writes a file when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.fixture
def client() -> Iterator[TestClient]:
    models = DemoModels(cast("Any", None), cast("Any", None))  # requests that reach a model fail with status 500
    with TestClient(make_app(models), base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


def test_every_promise_has_its_test() -> None:
    named = re.findall(r"`(test_\w+)`", (ROOT / "SECURITY.md").read_text())
    assert len(named) >= 9 and set(named) <= set(globals()), set(named) - set(globals())


def test_files_hold_data_not_code(tmp_path: Path) -> None:
    """Checkpoints with code are refused, YAML tags make no objects, and images start no other program."""
    trace = tmp_path / "ran"
    for name, write in (("a.pth", torch.save), ("b.bin", lambda o, p: Path(p).write_bytes(pickle.dumps(o)))):
        write({"model": _Code(trace)}, tmp_path / name)
        with pytest.raises(InputError):
            read_checkpoint(tmp_path / name)
    (tmp_path / "r.yaml").write_text(f"output: !!python/object/apply:pathlib.Path.touch [{trace}]\n")
    with pytest.raises((InputError, yaml.YAMLError)):
        load_recipe(tmp_path / "r.yaml")
    (tmp_path / "p.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop\n")
    with pytest.raises(InputError, match="got a file of another kind"):
        load_image(tmp_path / "p.jpg")
    assert not trace.exists()


def test_no_code_of_model_folders_is_run() -> None:
    """Each call of a loader of transformers that could run code of a folder says that it must not."""
    checked = 0
    loader = re.compile(r"(?:transformers\.)?(?:Auto\w+\.from_(?:pretrained|config)|pipeline)")
    for file in (ROOT / "src").rglob("*.py"):
        if loader.search(file.read_text()) is None:
            continue
        for call in (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)):
            name = ast.unparse(call.func)
            if loader.fullmatch(name):
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
                assert given.get("trust_remote_code") == "False", f"{file}:{call.lineno}"
                checked += 1
    assert checked >= 6


@pytest.mark.parametrize("kind", ["mine", "llava"])
def test_a_folder_that_needs_its_own_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Also where somebody would answer yes."""
    trace, names = tmp_path / "trace", ("AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoProcessor")
    (tmp_path / "code.py").write_text(f"open({str(trace)!r}, 'w')\nclass C: pass\n")
    settings = {"model_type": kind, "auto_map": dict.fromkeys(names, "code.C"), "architectures": ["C"]}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "processor_config.json").write_text(json.dumps({"auto_map": {"AutoProcessor": "code.C"}}))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    monkeypatch.setenv("HF_HUB_TRUST_REMOTE_CODE", "1")
    for load in (load_mllm, load_base, AmodalSegmenter.from_pretrained):
        with pytest.raises(InputError) as error:
            load(str(tmp_path))
        assert "\n" not in str(error.value)
    assert not trace.exists()


def test_the_server_fetches_no_address(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an image is expected, an address or a path is only a wrong image."""
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the server opened a connection"))
    for place in ("http://127.0.0.1:9/a.png", "file:///etc/passwd", "/etc/passwd", "data:image/png;base64,"):
        answer = client.post("/api/segment", files={"image": ("a.png", place.encode())})
        assert answer.status_code == 422 and "another kind" in answer.json()["error"]
        answer = client.post("/api/segment", data={"image": place, "prompts": "{}"}, files={"x": b""})
        assert answer.status_code == 422


@pytest.mark.parametrize("path", ["/api/about/", "/api/images/x/view/", "//api/about/", "/index.html/"])
def test_no_address_is_redirected(client: TestClient, path: str) -> None:
    """A redirect of the framework names the host that the request claims, which is another one behind a proxy."""
    assert client.get(f"http://127.0.0.1{path}", follow_redirects=False).status_code == 404


def test_uploads_are_limited_before_they_are_decoded(client: TestClient) -> None:
    side = int(MAX_PIXELS**0.5) + 1
    head = struct.pack(">IIBBBBB", side, side, 16, 2, 0, 0, 0)
    chunk = struct.pack(">I", len(head)) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    bomb = b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT"
    answer = client.post("/api/segment", files={"image": ("a.png", bomb)})
    assert answer.status_code == 422 and f"expected at most {MAX_PIXELS} pixels" in answer.json()["error"]
    headers = {"content-type": "multipart/form-data; boundary=x", "content-length": str(MAX_UPLOAD + 1)}
    assert client.post("/api/segment", content=b"", headers=headers).status_code == 413


def test_the_mcp_server_reads_below_one_folder(tmp_path: Path) -> None:
    pytest.importorskip("mcp")
    from amodal.integrations.mcp import ImageFolder

    root = tmp_path / "root"
    root.mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    (root / "link.png").symlink_to("../secret.png")
    (root / "away").symlink_to("..")
    for name in ("../secret.png", str(tmp_path / "secret.png"), "link.png", "away/secret.png", "away/root/link.png"):
        with pytest.raises(InputError, match="expected a path below the folder of the server"):
            ImageFolder(root).open(name)


def test_label_backend_asks_for_a_password_where_it_is_not_local(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BASIC_AUTH_USER", "BASIC_AUTH_PASS"):
        monkeypatch.delenv(name, raising=False)
    assert main(["label", "backend", "--host", "0.0.0.0"]) == 2
    assert "host: expected BASIC_AUTH_USER and BASIC_AUTH_PASS in the environment" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["/../SECURITY.md", "/%2e%2e/SECURITY.md", "/page/..%2f..%2fserver.py", "/etc/passwd"])
def test_no_path_of_a_request_is_opened(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_names_of_uploads_stay_names(client: TestClient) -> None:
    opened = client.post("/api/images", files={"image": ("../../../etc/x\r\ny.png", _png())}).json()
    assert "/" not in opened["name"] and "\n" not in opened["name"]


def test_servers_are_local_and_ask_for_a_token_where_they_are_not() -> None:
    import inspect

    from amodal.app.review import serve as serve_review
    from amodal.cli.serve import serve

    assert inspect.signature(serve).parameters["host"].default == "127.0.0.1"
    assert inspect.signature(serve_review).parameters["host"].default == "127.0.0.1"
    assert access_token("127.0.0.1", None) is None and access_token("::1", None) is None
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        assert len(access_token(host, None) or "") >= 32
    guarded = make_app(DemoModels(cast("Any", None), cast("Any", None)), token="a" * 20)
    with TestClient(guarded, base_url="http://10.0.0.1") as client:
        for path in ("/", "/api/about", "/metrics", "/openapi.json", "/page.js"):
            assert client.get(path).status_code == 401, path
        # The token is checked before the body is looked at.
        headers = {"content-length": str(10**9), "content-type": "text/plain"}
        assert client.post("/api/segment", content=b"", headers=headers).status_code == 401
        assert [client.get(path).status_code for path in ("/healthz", "/readyz")] == [200, 200]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 421),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://[::1"}, 403),
        ({"origin": "http://127.0.0.1.evil.example"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
def test_requests_of_other_sites_are_refused(client: TestClient, headers: dict[str, str], status: int) -> None:
    assert client.post("/api/images/x/scene", json={}, headers=headers).status_code == status


@pytest.mark.parametrize("depth", [13, 1000, 100_000])
@pytest.mark.parametrize(("start", "end"), [("[", "]"), ('{"a":', "}")])
def test_hostile_json_gets_one_line(client: TestClient, depth: int, start: str, end: str) -> None:
    nested = start * depth + "1" + end * depth
    for prompts in (
        nested,
        f'{{"masks": [{{"counts": {nested}}}]}}',
        f'{{"detections": [{{"segmentation": {nested}}}]}}',
    ):
        answer = client.post("/api/segment", files={"image": ("a.png", _png())}, data={"prompts": prompts})
        assert answer.status_code == 422 and len(answer.json()["error"]) < 400, prompts[:60]
        key = client.post("/api/images", files={"image": ("a.png", _png())}).json()["key"]
        json_type = {"content-type": "application/json"}
        answer = client.post(f"/api/images/{key}/segment", content=prompts, headers=json_type)
        assert answer.status_code in (400, 422) and "error" in answer.json()


def test_errors_name_no_folder_of_the_server(client: TestClient) -> None:
    assert without_folders("out '/srv/secret place/x': expected /home/me/models/plug/config.json\n, got none") == (
        "out '/srv/secret place/x': expected config.json , got none"
    ) or "secret" not in without_folders("out '/srv/secret/x'")
    assert without_folders("image C:\\Users\\me\\a.png: bad") == "image a.png: bad"
    assert without_folders("expected 1/2 or https://example.org/a/b") == "expected 1/2 or https://example.org/a/b"
    failed = client.post("/api/segment", files={"image": ("a.png", _png())}, data={"prompts": '{"boxes": [[1,1,9,9]]}'})
    assert failed.status_code == 500 and json.loads(failed.text) == {"error": "the server failed; its log says where"}


@pytest.mark.parametrize("fault", [None, "indiscreet", "repeated"])
def test_keys_stay_secret(
    fault: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also where the endpoint repeats the key in its error or in its reply."""
    key = "sk-5ecret-0123456789abcdef"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    annotations = write_toy(tmp_path / "toy", count=2)
    work, out = tmp_path / "work", tmp_path / "dataset"
    with serving(plan=lambda _request: fault) as server:
        hosted = ["--backend", "openai", "--model", "toy", "--base-url", server.url]
        generate = ["generate", "--format", "canonical", "--annotations", str(annotations), *hosted, "--out", str(work)]
        assert main(["reasonseg", *generate]) == (2 if fault == "indiscreet" else 0)
    assert {request.authorization for request in server.requests} == {f"Bearer {key}"}
    if fault != "indiscreet":
        assert main(["reasonseg", "check", str(work)]) == 0
        assert main(["reasonseg", "export", str(work), "--states", "checked,unclear,failed", "--out", str(out)]) == 0
        assert (out / "annotations.json").is_file()
    printed = capfd.readouterr()
    assert key not in printed.out + printed.err
    assert [file for file in tmp_path.rglob("*") if file.is_file() and key.encode() in file.read_bytes()] == []


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((10, 20, 3), np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()
