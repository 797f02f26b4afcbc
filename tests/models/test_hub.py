"""Finding a model by name: local names never reach the hub, and a hub that does not respond is given up on in time."""

from __future__ import annotations

import ast
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

import amodal.models
from amodal.errors import InputError
from amodal.models import hub
from amodal.models.aura.mllm import load_mllm, mllm_config_for
from amodal.models.bases.families import base_config, load_base
from amodal.models.hub import find_source
from amodal.models.plug import PlugModel

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"config.json": b"{}", "model.safetensors": b"1234", "other.h5": b"not for us"}


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(hub, "_download", asked)


class Repositories(BaseHTTPRequestHandler):
    """A hub with the repository `me/model`, the gated `me/gated`, and nothing else."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        headers = {"X-Repo-Commit": COMMIT}
        status, body = 404, b"{}"
        if path.startswith("/api/models/me/model/tree/"):
            entries = [{"type": "file", "path": n, "size": len(b), "oid": n} for n, b in FILES.items()]
            status, body = 200, json.dumps(entries).encode()
        elif path.startswith("/api/models/me/model/revision/none"):
            headers["X-Error-Code"] = "RevisionNotFound"
        elif path.startswith("/api/models/me/model"):
            siblings = [{"rfilename": name} for name in FILES]
            status, body = 200, json.dumps({"id": "me/model", "sha": COMMIT, "siblings": siblings}).encode()
        elif path.startswith("/api/models/me/gated"):
            status, headers["X-Error-Code"] = 403, "GatedRepo"
        elif path.startswith("/me/model/resolve/"):
            name = path.rsplit("/", 1)[1]
            status, body, headers["ETag"] = 200, FILES[name], f'"{name}"'
        else:
            headers["X-Error-Code"] = "RepoNotFound"
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep the output of the tests clean."""


@pytest.fixture
def small_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Repositories)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    use_endpoint(monkeypatch, server.server_address[1])
    yield
    server.shutdown()
    server.server_close()


def use_endpoint(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    endpoint = f"http://127.0.0.1:{port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture(params=["closed", "silent"])
def unreachable_hub(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A port that refuses connections, and one that accepts them and never responds."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if request.param == "silent":
            server.listen()
        use_endpoint(monkeypatch, server.getsockname()[1])
        yield


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize(
    "name",
    ["./model", "../model", "/no/model", "~/no-model", "runs/plug/model", "runs/sam.pth", "sam.pt", "a/sam.safetensors",
     "a/last.ckpt", "a/pytorch_model.bin", "A/SAM.PTH", r"C:\models\sam", r"runs\sam"],
)  # fmt: skip
def test_names_of_missing_local_files_are_refused_without_the_hub(name: str) -> None:
    with pytest.raises(InputError, match="base .*: expected a file or folder, got none at this path"):
        load_base(name)


@pytest.mark.usefixtures("no_hub")
def test_what_exists_is_found_without_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "me" / "model").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_source("me/model", argument="base", bundled={}).path == Path("me/model")
    assert find_source("~/me", argument="base", bundled={}).path == tmp_path / "me"
    assert find_source("me/model", argument="base", bundled={"me/model": tmp_path}).path == tmp_path
    (tmp_path / "plug.pth").touch()
    with pytest.raises(InputError, match=r"model plug\.pth: expected a model with amodal masks, got a checkpoint file"):
        PlugModel.from_pretrained("plug.pth")


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("name", ["plug-huge", "", "a b/c", "me/", "me/model."])
def test_what_is_neither_a_path_nor_a_hub_id_is_refused_without_the_hub(name: str) -> None:
    with pytest.raises(
        InputError, match=r"base: expected a bundled name \(.*\), a checkpoint file, .*hub id \(owner/na"
    ):
        load_base(name)


@pytest.mark.usefixtures("unreachable_hub")
@pytest.mark.parametrize("load", [PlugModel.from_pretrained, load_base, base_config, load_mllm, mllm_config_for])
def test_a_hub_that_cannot_be_reached_is_named_within_five_seconds(load: object) -> None:
    start = time.monotonic()
    with pytest.raises(
        InputError, match=r"me/model: there is no folder .* could not be reached \(\w+\), and its cache"
    ):
        load("me/model")  # type: ignore[operator]
    assert time.monotonic() - start < 5


def test_a_hub_with_an_error_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Repositories):
        def do_GET(self) -> None:
            self.send_error(503)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Broken)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    use_endpoint(monkeypatch, server.server_address[1])
    with pytest.raises(InputError, match=r"could not be reached \(status 503\)"):
        load_base("me/model")
    server.shutdown()
    server.server_close()


def test_offline_mode_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        InputError, match="no folder of this name, HF_HUB_OFFLINE is set, and the hub's cache has no copy"
    ):
        load_base("me/model")


@pytest.mark.usefixtures("small_hub")
def test_what_the_hub_refuses_is_named() -> None:
    with pytest.raises(InputError, match="no folder of this name, and no repository on http"):
        load_base("me/other")
    with pytest.raises(InputError, match="access to this repository must be requested on .*/me/gated; .*hf auth login"):
        load_base("me/gated")
    with pytest.raises(InputError, match="expected a revision of this repository, got 'none'"):
        load_base("me/model", "none")


@pytest.mark.usefixtures("small_hub")
def test_a_repository_is_downloaded_once_and_then_read_from_the_cache(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = find_source("me/model", argument="base", bundled={}, weights=False)
    assert sorted(file.name for file in settings.path.iterdir()) == ["config.json"]
    source = find_source("me/model", argument="base", bundled={})
    assert source.revision == COMMIT
    assert sorted(file.name for file in source.path.iterdir()) == ["config.json", "model.safetensors"]
    assert (source.path / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    with monkeypatch.context() as context:
        context.setattr(constants, "HF_HUB_OFFLINE", True)
        assert find_source("me/model", argument="base", bundled={}) == source
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        use_endpoint(monkeypatch, server.getsockname()[1])
        assert find_source("me/model", argument="base", bundled={}) == source
    assert "could not be reached; using the cached copy of me/model" in caplog.text


def test_older_repositories_without_safetensors_are_downloaded_too(
    small_hub: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(FILES, "model.safetensors")
    monkeypatch.setitem(FILES, "pytorch_model.bin", b"12")
    source = find_source("me/model", argument="base", bundled={})
    assert sorted(file.name for file in source.path.iterdir()) == ["config.json", "pytorch_model.bin"]


def test_code_of_repositories_is_never_run() -> None:
    """Each call by which transformers could import a repository's code says that it must not."""
    calls = []
    for file in Path(amodal.models.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and "from_" in node.func.attr:
                owner = ast.unparse(node.func.value)
                if owner.startswith("Auto") or owner.endswith(("model_class", "SamModel")):
                    calls.append(file.name)
                    settings = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                    assert settings.get("trust_remote_code") == "False", f"{file}:{node.lineno}"
    assert sorted(set(calls)) == [
        "families.py",
        "mllm.py",
        "packaged.py",
        "processing.py",
        "trunk_mllm.py",
    ]
