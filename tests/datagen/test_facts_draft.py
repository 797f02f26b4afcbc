"""Facts that a language model drafts and a person confirms."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from amodal.cli.main import main
from amodal.datagen import facts_draft
from amodal.datagen.backends.client import Endpoint
from amodal.datagen.facts_draft import add_facts, categories_without_facts, confirm_facts, draft_facts
from amodal.datagen.generate import RequestPolicy
from amodal.errors import InputError
from amodal.questions.knowledge import CategoryFacts, all_facts, read_facts
from tests.datagen.toy_work import write_many

GEARBOX = {
    "purposes": ["change the speed of a machine"], "parts": ["toothed wheels", "a shaft"], "materials": ["steel"],
    "found": ["workshop"], "looks": ["heavy"], "plural": False,
}  # fmt: skip


@contextmanager
def serving(*replies: str | int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that sends these texts or status codes, one per request, then the last one again and again."""
    bodies = list[dict[str, Any]]()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            reply = replies[min(len(bodies), len(replies)) - 1]
            message = {"role": "assistant", "content": reply}
            content: dict[str, Any] = {
                "id": "x", "object": "chat.completion", "created": 1, "model": "toy",
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            }  # fmt: skip
            self.send_response(reply if isinstance(reply, int) else 200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *arguments: Any) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", bodies
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    """Annotations of a gearbox and a book."""
    path = write_many(tmp_path / "toy", 1)
    path.write_text(path.read_text().replace('"mug"', '"Gear_Box"'))
    return path


def draft(url: str, annotations: Path, facts: Path) -> int:
    return main(
        ["reasonseg", "facts", "draft", "--annotations", str(annotations), "--facts", str(facts), "--model", "toy",
         "--base-url", url, "--retry-wait", "0.01", "--json"]
    )  # fmt: skip


def test_only_categories_without_facts_are_drafted(annotations: Path, tmp_path: Path) -> None:
    path = tmp_path / "facts.yaml"
    assert categories_without_facts(["mug", "Gear_Box", "gear box", "valve"], path) == ["gear box", "valve"]
    path.write_text("# ours\nvalve: {purposes: [stop a flow], parts: [a plug]}  # checked by Ada\n")
    with serving(f"<think>hm</think>\n{json.dumps(GEARBOX)}") as (url, bodies):
        assert draft(url, annotations, path) == 0
        assert draft(url, annotations, path) == 0
    assert len(bodies) == 1, "once per category, and never again"
    assert "gear box" in json.dumps(bodies[0]["messages"])
    drafted = read_facts(path)["gear box"]
    assert drafted.parts == ("toothed wheels", "a shaft") and not drafted.confirmed
    assert path.read_text().startswith("# ours\nvalve: {purposes: [stop a flow], parts: [a plug]}  # checked by Ada\n")
    assert "gear box" not in all_facts(path), "nobody has confirmed it"


FILES = {
    "block": "valve:\n  purposes: [stop a flow]\n  parts: [a plug]\n",
    "no newline at the end": "valve:\n  purposes: [stop a flow]\n  parts: [a plug]",
    "indented": "  valve:\n    purposes: [stop a flow]\n    parts: [a plug]\n",
    "comments": "# ours\nvalve:  # of brass\n  purposes: [stop a flow]\n  parts: [a plug]\n\n# the end\n",
    "document marks": "---\nvalve:\n  purposes: [stop a flow]\n  parts: [a plug]\n...\n",
    "flow": "{valve: {purposes: [stop a flow], parts: [a plug]}}\n",
    "flow on lines": "{\n  valve: {purposes: [stop a flow], parts: [a plug]},  # of brass, or steel\n}\n",
    "flow without a comma": "{\n  valve: {purposes: [stop a flow], parts: [a plug]}  # of brass, or steel\n}  # end\n",
    "JSON": '{"valve": {"purposes": ["stop a flow"], "parts": ["a plug"]}}',
    "flow without entries": "{}\n",
    "long text": "valve:\n  purposes:\n  - >-\n    stop a\n    flow\n  parts: [a plug]\n",
}


@pytest.mark.parametrize("name", FILES)
def test_facts_are_added_to_a_file_of_any_style(tmp_path: Path, name: str) -> None:
    path = tmp_path / "facts.yaml"
    path.write_text(FILES[name])
    before = read_facts(path)
    facts = CategoryFacts.model_validate(GEARBOX)
    for added in ("gear box", "ventilateur à pales: grand"):
        add_facts(path, added, facts)
        before[added] = facts.model_copy(update={"confirmed": False})
        assert read_facts(path) == before
    for line in FILES[name].strip("{}\n").splitlines():
        assert line.strip("{}") in path.read_text()  # comments too
    confirm_facts(path, "gear box")
    assert read_facts(path)["gear box"].confirmed


def test_a_file_that_cannot_be_extended_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "facts.yaml"
    path.write_text("[valve]\n")
    with pytest.raises(InputError, match="expected categories with their facts, got list"):
        add_facts(path, "gear box", CategoryFacts.model_validate(GEARBOX))
    path.write_text(FILES["block"])
    with pytest.raises(InputError, match="expected a plain YAML mapping without 'valve', got another file"):
        add_facts(path, "valve", CategoryFacts.model_validate(GEARBOX))
    assert path.read_text() == FILES["block"]


def test_an_interrupted_run_keeps_what_it_has(annotations: Path, tmp_path: Path) -> None:
    """The second of two categories fails in a way that ends the run; the first one is in the file."""
    path = tmp_path / "facts.yaml"
    endpoint, policy = Endpoint("toy", "http://127.0.0.1:9/v1"), RequestPolicy(concurrency=1)
    asked = list[str]()

    async def ask(_client: Any, name: str, _policy: Any) -> CategoryFacts:
        asked.append(name)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return CategoryFacts.model_validate(GEARBOX)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(facts_draft, "_ask", ask)
        with pytest.raises(KeyboardInterrupt):
            draft_facts(["gear box", "valve", "pump"], path, endpoint, policy)
    assert list(read_facts(path)) == ["gear box"]
    assert categories_without_facts(["gear box", "valve", "pump"], path) == ["valve", "pump"]


def test_a_person_confirms(annotations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "facts.yaml"
    with serving(json.dumps(GEARBOX)) as (url, _):
        draft(url, annotations, path)
    before = path.read_text()
    assert main(["reasonseg", "facts", "confirm", "--facts", str(path), "--category", "gear box"]) == 0
    assert path.read_text() == before.replace("confirmed: false", "confirmed: true")
    assert all_facts(path)["gear box"].purposes == ("change the speed of a machine",)
    with pytest.raises(InputError, match="expected unconfirmed facts about 'valve', got none"):
        confirm_facts(path, "valve")


@pytest.mark.parametrize(("reply", "confirmed"), [("y\n", True), ("n\n", False)])
def test_the_answer_of_the_person_counts(tmp_path: Path, reply: str, confirmed: bool) -> None:
    from typer.testing import CliRunner

    from amodal.cli.reasonseg_facts import facts_app

    path = tmp_path / "facts.yaml"
    path.write_text("valve: {purposes: [stop a flow], parts: [a plug], confirmed: false}\n")
    result = CliRunner().invoke(facts_app, ["confirm", "--facts", str(path)], input=reply)
    assert "valve: purposes: ('stop a flow',)" in result.output
    assert read_facts(path)["valve"].confirmed is confirmed


def test_broken_replies_are_asked_for_again(annotations: Path, tmp_path: Path) -> None:
    path = tmp_path / "facts.yaml"
    with serving(500, "no idea", '{"purposes": []}', json.dumps(GEARBOX)) as (url, bodies):
        assert draft(url, annotations, path) == 0
    assert len(bodies) == 4 and "gear box" in read_facts(path)


def test_a_model_that_knows_nothing(annotations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "facts.yaml"
    with serving('{"purposes": ["open my door"]}') as (url, _):
        assert draft(url, annotations, path) == 2
    assert "expected a purpose without 'I', 'me' or 'my'" in capsys.readouterr().err
    assert not path.exists()
