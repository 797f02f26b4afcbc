"""The server of the review page: what it sends and what it refuses."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from amodal.app.guard import HEADERS, Guard, RequestLimits
from amodal.app.review import LIMITS, PAGE, make_app, serve
from amodal.app.server import access_token, is_loopback
from amodal.datagen.review.items import ReviewItems, run_lengths
from amodal.datagen.review.review import ReviewPolicy, submit
from amodal.datagen.store.records import Draft
from amodal.datagen.store.work_folder import WorkFolder
from amodal.errors import InputError
from amodal.ops.rle import decode_mask
from tests.datagen.toy_work import QUESTION, execute_sql, toy_work
from tests.drawing import mask

TOKEN = "a-token-of-some-length"
HOSTILE = [
    "<script async>document.title='taken'</script >",
    '"><img src=x onerror=alert(1)>',
    "' OR 1=1; DROP TABLE pairs; --",
    "{{7*7}} ${7*7} %s \\u003cscript\\u003e",
    "\u202emoc.elpmaxe &lt;b&gt; \U0001f9d1\u200d\U0001f373",
]


@pytest.fixture
def work(tmp_path: Path) -> Iterator[WorkFolder]:
    with toy_work(tmp_path) as opened:
        yield opened


def client(work: WorkFolder, token: str | None = None, **options: Any) -> Any:
    return TestClient(
        make_app(work, ReviewPolicy(), token=token),
        base_url="http://localhost",
        raise_server_exceptions=False,
        **options,
    )


def post(page: Any, path: str, **body: Any) -> Any:
    return page.post(f"/api/{path}", json={"reviewer": "ada", **body})


def test_next_pair_and_verdict(work: WorkFolder) -> None:
    page = client(work)
    content = post(page, "next").json()
    item = content["item"]
    assert (item["id"], item["question"], item["tries"], item["fault"]) == (1, QUESTION, 1, None)
    assert item["answer"] == "[The red square #1], behind [a green one #2]."
    assert item["verdicts"] == []
    assert content["progress"]["left"] == 3
    red, green = item["objects"]
    assert (red["number"], red["name"], red["behind"], red["hidden"]) == (1, "red", [2], 0.25)
    assert (green["name"], green["behind"], green["hidden"]) == ("green", [], 0)
    assert red["colour"] != green["colour"]
    answer = "It is [a green  one #2] in front."
    saved = post(page, "review", pair=1, tries=1, verdict="fix", answer=answer, note="clearer")
    assert saved.json()["state"] == "reviewed"
    assert saved.json()["progress"]["mine"] == 1
    (review,) = work.reviews.of_pair(1)
    assert (review.answer, review.question, review.note) == (
        "It is <p>a green one</p> {seg:2} in front.", None, "clearer",
    )  # fmt: skip


def test_sent_masks_equal_the_annotation(work: WorkFolder) -> None:
    for obj, record in zip(ReviewItems(work).item(work.pairs.get(1))["objects"], work.object_records(1), strict=True):
        for name, key in (("visible", "visible_mask"), ("amodal", "segmentation")):
            values = np.arange(len(obj[name])) % 2 == 1
            sent = np.repeat(values, obj[name]).reshape(64, 64)
            assert (sent == decode_mask(record[key])).all()
        x, y = obj["anchor"]
        assert decode_mask(record["visible_mask"])[y, x], "the number of the object is drawn on its visible part"


def test_run_lengths() -> None:
    assert run_lengths(mask("..##", "##..")) == [2, 4, 2]
    assert run_lengths(mask("#.", "..")) == [0, 1, 3]
    assert run_lengths(mask("..", "..")) == [4]
    assert run_lengths(mask("##")) == [0, 2]


def test_a_large_image_and_its_masks_are_shrunk(tmp_path: Path) -> None:
    with toy_work(tmp_path, pairs=1) as work:
        Image.fromarray(np.full((1000, 4096, 3), 90, np.uint8)).save(work.folder / "images" / "000000.png")
        band = np.zeros((1000, 4096), bool)
        band[:, 2048:] = True
        from amodal.ops.rle import encode_mask

        record = work.object_records(1)[0] | {"segmentation": encode_mask(band), "visible_mask": encode_mask(band)}
        execute_sql(work, "UPDATE images SET height = 1000, width = 4096 WHERE id = 1")
        execute_sql(work, "DELETE FROM objects WHERE id = 2")
        execute_sql(work, "UPDATE objects SET record = ? WHERE id = 1", (json.dumps(record),))
        items = ReviewItems(work)
        item = items.item(work.pairs.get(1))
        assert (item["image"]["width"], item["image"]["height"]) == (2048, 500)
        assert sum(item["objects"][0]["amodal"]) == 2048 * 500
        assert item["objects"][0]["amodal"][:2] == [1024, 1024]
        (tmp_path / "sent.jpg").write_bytes(items.image_file(1))
        assert Image.open(tmp_path / "sent.jpg").size == (2048, 500)


def test_verdicts_of_others_are_sent_only_for_a_decision(work: WorkFolder) -> None:
    submit(work, 1, "bob", "fix", ReviewPolicy(), question="Which one lies below?", note="shorter")
    page = client(work)
    item = post(page, "next").json()["item"]
    assert (item["id"], item["state"], item["verdicts"]) == (1, "reviewed", [])
    assert "below" not in json.dumps(item)
    post(page, "review", pair=1, tries=1, verdict="accept")
    item = page.post("/api/next", json={"reviewer": "cyd"}).json()["item"]
    assert (item["id"], item["state"]) == (1, "cross_checked")
    assert [(v["verdict"], v["question"], v["note"]) for v in item["verdicts"]] == [
        ("fix", "Which one lies below?", "shorter"),
        ("accept", None, ""),
    ]
    assert "bob" not in json.dumps(item), "people judge the text and not its writer"


def test_release_renew_and_undo(work: WorkFolder) -> None:
    page = client(work)
    assert post(page, "next").json()["item"]["id"] == 1
    assert post(page, "next", reviewer="bob").json()["item"]["id"] == 2
    taken = post(page, "review", reviewer="bob", pair=1, tries=1, verdict="accept")
    assert taken.status_code == 409 and "in ada's" in taken.json()["error"]
    assert post(page, "renew", pair=1).status_code == 200
    assert post(page, "renew", reviewer="bob", pair=1).status_code == 409
    assert post(page, "release", pair=1).status_code == 200
    assert post(page, "next", skip=[1]).json()["item"]["id"] == 3
    assert post(page, "undo").status_code == 409
    post(page, "review", pair=3, tries=1, verdict="reject")
    assert post(page, "undo").json()["item"]["id"] == 3
    assert work.reviews.all() == []


def test_automatic_check_of_an_edited_text(work: WorkFolder) -> None:
    page = client(work)
    post(page, "next")

    def faults(question: str, answer: str) -> list[str]:
        found: list[str] = post(page, "check", pair=1, question=question, answer=answer).json()["faults"]
        return found

    assert faults("Which one of them would fall first?", "It is [the red square #1] there.") == []
    (leak,) = faults("Would the red one fall first?", "It is [the red square #1] there.")
    assert "red" in leak
    assert faults("Which one would it be?", "It is [the square #9].") == ["answer: expected objects #1 to #2, got #9"]
    (bare,) = faults("Which one would it be?", "It is [#2] there.")
    assert "[#2]" in bare, "in the form of the page"
    assert work.reviews.all() == []


def test_a_failed_pair_is_sent_with_the_reason(work: WorkFolder) -> None:
    work.pairs.set_state(1, "failed", "check", reason="leak: names the square")
    assert ReviewItems(work).item(work.pairs.get(1))["fault"] == "leak: names the square"


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_sent_as_text(tmp_path: Path, text: str) -> None:
    with toy_work(tmp_path, drafts={1: Draft(text, f"It is {text} <p>it</p> {{seg:1}}.")}) as work:
        page = client(work)
        answer = post(page, "next")
        assert answer.headers["content-type"] == "application/json"
        assert answer.json()["item"]["question"] == text
        assert text in answer.json()["item"]["answer"]
        saved = post(page, "review", pair=1, tries=1, verdict="fix", question=f"{text}?", note=text)
        assert saved.status_code == 200
        assert (work.reviews.of_pair(1)[0].question, work.reviews.of_pair(1)[0].note) == (f"{text}?", text)


@pytest.mark.parametrize("character", ["\x00", "\x1b", "\ud83d"])
@pytest.mark.parametrize("field", ["question", "answer", "note", "reviewer"])
def test_characters_that_do_not_print_are_refused(work: WorkFolder, field: str, character: str) -> None:
    body = {"reviewer": "ada", "pair": 1, "tries": 1, "verdict": "fix", "question": "What?", field: f"a{character}b"}
    sent = client(work).post("/api/review", content=json.dumps(body), headers={"content-type": "application/json"})
    assert sent.status_code == 422
    assert field in sent.json()["error"]
    assert work.reviews.all() == []


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("next", {"reviewer": ""}, "reviewer: expected a name"),
        ("next", {"reviewer": "a" * 100}, "reviewer: expected a name"),
        ("next", {"reviewer": 5}, "reviewer: Input should be a valid string"),
        ("next", {"reviewer": "ada", "skip": ["1"]}, "skip.0: Input should be a valid integer"),
        ("next", {"reviewer": "ada", "skip": [1] * 501}, "skip: List should have at most 500"),
        ("next", {"reviewer": "ada", "admin": True}, "admin: Extra inputs are not permitted"),
        ("review", {"reviewer": "ada", "pair": 1, "tries": 1, "verdict": "maybe"}, "verdict: Input should be"),
        ("review", {"reviewer": "ada", "pair": 2**63, "tries": 1, "verdict": "accept"}, "pair: Input should be less"),
        ("review", {"reviewer": "ada", "pair": 99, "tries": 1, "verdict": "accept"}, "pair: expected one of the work"),
        ("review", {"reviewer": "ada", "pair": 1, "tries": 1, "verdict": "fix", "answer": "[it #7]"}, "got #7"),
        ("review", {"reviewer": "ada", "pair": 1, "tries": 1, "verdict": "fix", "question": "q" * 9000}, "question: "),
    ],
)
def test_invalid_requests_get_a_one_line_error(work: WorkFolder, path: str, body: dict[str, Any], message: str) -> None:
    answer = client(work).post(f"/api/{path}", json=body)
    assert answer.status_code == 422
    assert message in answer.json()["error"]
    assert "\n" not in answer.json()["error"] and len(answer.json()["error"]) < 400
    assert work.reviews.all() == []


def test_every_response_has_the_security_headers(work: WorkFolder) -> None:
    page = client(work)
    answers = [page.get(path) for path in ("/", "/page.js", "/page.css", "/images/1", "/nothing", "/images/99")]
    answers += [post(page, "next"), post(page, "undo"), page.put("/"), page.post("/api/next", content=b"{}")]
    assert {answer.status_code for answer in answers} == {200, 404, 405, 409, 415, 422}
    for answer in answers:
        for name, value in HEADERS.items():
            assert answer.headers[name] == value
    policy = HEADERS["content-security-policy"]
    assert "unsafe" not in policy and "http" not in policy and "*" not in policy


def test_the_page_is_self_contained(work: WorkFolder) -> None:
    page = client(work)
    for name in PAGE:
        text = page.get("/" if name == "index.html" else f"/{name}").text
        assert len(text) > 100
        outside = text.replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in outside and "https:" not in outside and "url(" not in outside
        for forbidden in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            " style=",
            "onclick=",
        ):
            assert forbidden not in text, name
    assert set(os.listdir(Path(make_app.__code__.co_filename).parent / "review_page")) == set(PAGE)


@pytest.mark.parametrize(
    "path",
    [
        "/state.db",
        "/images/../state.db",
        "/images/..%2fstate.db",
        "/images/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2f..%2fetc%2fpasswd",
        "//etc/passwd",
        "/page.js/../../review.py",
        "/page/../review.py",
        "/images/000000.png",
        "/images/1/",
        "/images/-1",
        "/images/99999999999999999999",
        "/docs",
        "/openapi.json",
    ],
)
def test_no_other_path_is_served(work: WorkFolder, path: str) -> None:
    answer = client(work, follow_redirects=False).get(path)
    assert answer.status_code in (307, 404, 422), (path, answer.status_code)
    assert b"SQLite" not in answer.content and b"root:" not in answer.content and b"import" not in answer.content


@pytest.mark.parametrize("name", ["../secret.png", "link.png", "/etc/hostname", "deep/../../secret.png"])
def test_images_outside_the_work_folder_are_not_served(work: WorkFolder, tmp_path: Path, name: str) -> None:
    shutil.copy(work.folder / "images" / "000000.png", tmp_path / "work" / "secret.png")
    (work.folder / "images" / "deep").mkdir()
    (work.folder / "images" / "link.png").symlink_to(tmp_path / "work" / "secret.png")
    execute_sql(work, "UPDATE images SET file_name = ? WHERE id = 1", (name,))
    answer = client(work).get("/images/1")
    assert answer.status_code == 422
    assert "expected an image inside the work folder" in answer.json()["error"]


def test_files_that_are_not_images_are_not_served(work: WorkFolder) -> None:
    (work.folder / "images" / "000000.png").write_text("the secrets of this machine")
    answer = client(work).get("/images/1")
    assert answer.status_code == 422 and "secrets" not in answer.text
    (work.folder / "images" / "000001.png").unlink()
    assert client(work).get("/images/2").status_code == 422


def test_uploads_and_large_bodies_are_refused(work: WorkFolder) -> None:
    page = client(work)
    assert page.post("/api/next", files={"file": ("a.png", b"x")}).status_code == 415
    assert page.post("/", files={"file": ("a.png", b"x")}).status_code == 415
    assert page.put("/images/1", content=b"x").status_code == 405
    assert page.request("DELETE", "/images/1").status_code == 405
    kind = {"content-type": "application/json"}
    assert page.post("/api/next", content=b"[" * (LIMITS.max_body + 1), headers=kind).status_code == 413

    def drip() -> Iterator[bytes]:
        for _ in range(LIMITS.max_body // 1000 + 2):
            yield b"[" * 1000

    assert page.post("/api/next", content=drip(), headers=kind).status_code == 413
    assert page.post("/api/next", content=b"[" * 60_000, headers=kind).status_code == 400
    assert page.post("/api/next", content=b"{", headers={"content-type": "text/plain"}).status_code == 415


def test_other_sites_cannot_use_the_page(work: WorkFolder) -> None:
    page, body = client(work), {"reviewer": "ada"}
    assert page.post("/api/next", json=body, headers={"origin": "http://evil.example"}).status_code == 403
    assert page.post("/api/next", json=body, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert page.post("/api/next", json=body, headers={"origin": "http://localhost"}).status_code == 200
    for host in ("evil.example", "localhost.evil.example", "", "[", "127.0.0.1@evil.example:80/x"):
        assert page.get("/", headers={"host": host}).status_code == 421, "a foreign name that leads to this machine"
    for host in ("127.0.0.1:8765", "[::1]:8765", "LOCALHOST"):
        assert page.get("/", headers={"host": host}).status_code == 200


def test_a_token_opens_the_page_once_it_was_shown(work: WorkFolder) -> None:
    page = client(work, TOKEN, follow_redirects=False)
    for path in ("/", "/images/1", "/page.js", "/?token=", "/?token=wrong", "/images/1?token=" + TOKEN):
        assert page.get(path).status_code == 401
    assert post(page, "next").status_code == 401
    assert page.get("/", headers={"cookie": "amodal_review=wrong"}).status_code == 401
    assert page.get("/", headers={"authorization": f"Basic {TOKEN}"}).status_code == 401
    entered = page.get(f"/?token={TOKEN}", headers={"host": "review.example"})
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    cookie = entered.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie
    shown = {"cookie": cookie.split(";")[0], "host": "review.example"}
    assert page.get("/", headers=shown).status_code == 200
    assert page.post("/api/next", json={"reviewer": "ada"}, headers=shown).status_code == 200
    assert page.get("/", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_when_a_token_is_asked_for() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "192.168.1.4", "example.org", "")] == [False] * 5
    assert access_token("127.0.0.1", None) is None
    first, second = access_token("0.0.0.0", None), access_token("0.0.0.0", None)
    assert first and second and first != second and len(first) >= 40
    assert access_token("127.0.0.1", TOKEN) == TOKEN
    for bad in ("short", "a" * 20 + ";", "ä" * 20, ""):
        with pytest.raises(InputError, match="token: expected (at least 16 characters|letters, digits)"):
            access_token("127.0.0.1", bad)


def test_an_address_in_use_is_reported(work: WorkFolder) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(InputError, match="an address that is free"):
        serve(work, ReviewPolicy(), port=taken.getsockname()[1])


def test_a_request_body_that_stalls_is_dropped() -> None:
    limits = RequestLimits(10, LIMITS.content_types, "x", body_seconds=0.05)

    async def unreached(*_: Any) -> None:
        raise AssertionError

    async def silence() -> Any:
        await asyncio.sleep(10)

    assert (
        asyncio.run(_status(Guard(unreached, token=None, limits=limits, hosts=frozenset({"localhost"})), silence))
        == 408
    )

    async def gone() -> Any:
        return {"type": "http.disconnect"}

    assert (
        asyncio.run(_status(Guard(unreached, token=None, limits=limits, hosts=frozenset({"localhost"})), gone)) == 400
    )


async def _status(guard: Guard, receive: Any) -> int:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/api/next", "query_string": b"", "headers": headers}
    await guard(scope, receive, send)
    return int(sent[0]["status"])


def test_sockets_are_closed() -> None:
    async def main() -> list[Any]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await Guard(None, token=None, limits=LIMITS, hosts=frozenset())({"type": "websocket"}, None, send)
        return sent

    assert asyncio.run(main()) == [{"type": "websocket.close", "code": 1008}]
