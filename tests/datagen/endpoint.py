"""A fake OpenAI-compatible server on loopback that replies correctly, wrongly or not at all, as planned."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

QUESTIONS = (
    "What could somebody reach for without moving anything else first?",
    "Which shape would a painter have to guess most of?",
    "My hands are cold and empty. Where should they go?",
    "If the light went out, what would I remember best?",
    "Whatever rolls in from the left meets which obstacle before all others?",
    "Who or what enjoys the best place of all?",
    "An insurance agent asks for the most valuable item. What do you tell her?",
    "Suppose everything were glass: what would suddenly appear complete?",
    "Where does the eye rest once it has wandered about?",
    "A child points and laughs. At what, most likely?",
    "Please hand me whatever lies closest to the frame.",
    "Before the movers come, which piece needs wrapping in paper?",
    "How would you explain to a robot where danger lurks?",
    "Counting from the back, who comes second in this row?",
    "Name the part of this scene that a storm would carry off.",
    "Yesterday it was not here; today it is. Which one?",
)

Fault = str | None  # 429, 500, slow, cut, broken (no JSON), malformed (JSON of another form), ghost (unknown ids), ...
AROUND = {
    "think": '<think>\nI see {something}. Perhaps {"pairs": []}?\n</think>\n\nJSON',
    "fence": "Here you are:\n```json\nJSON\n```",
    "thinkfence": "<think>hm</think>\n```json\nJSON\n```\n",
    "trailing": "JSON\n\nLet me know if you need more {pairs}!",
}
"""What models write around their JSON."""

REFUSALS = {
    "max_tokens": "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'.",
    "max_completion_tokens": "max_completion_tokens: Extra inputs are not permitted",
    "response_format": "response_format of type json_schema is not supported",
    "json_object": "'response_format.type' must be 'text'",
    "system": "System role not supported",
    "temperature": "Unsupported value: 'temperature' does not support 0.2 with this model.",
}
"""What servers say about parameters that they do not know."""

Plan = Callable[["Request"], Fault]


@dataclass
class Request:
    """A request that arrived."""

    key: str
    body: dict[str, Any]
    time: float
    authorization: str = ""

    @property
    def prompt(self) -> str:
        """Text of the user message."""
        return self.body["messages"][-1]["content"][0]["text"]


@dataclass
class FakeServer:
    """Settings and record of a fake server.

    Attributes:
        url: base URL.
        requests: all requests in order of arrival.
        billed: number of replies written per key; a known key gets the stored reply.
        delay: seconds before a reply.
        plan: fault of each request.
        usage: report the tokens used.
        refuses: parameters that the server does not know; it says so with status 400.
        most_at_once: largest number of requests under way at the same time.
    """

    url: str = ""
    requests: list[Request] = field(default_factory=list)
    billed: Counter[str] = field(default_factory=Counter)
    delay: float = 0.0
    plan: Plan = lambda request: None
    usage: bool = True
    refuses: frozenset[str] = frozenset()
    most_at_once: int = 0
    _under_way: int = 0
    _stored: dict[str, bytes] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, request: Request, fault: Fault) -> bytes:
        """The body of the reply; the same for the same key."""
        with self._lock:
            if request.key in self._stored:
                return self._stored[request.key]
            self.billed[request.key] += 1
            stored = self._stored[request.key] = json.dumps(self._completion(request, fault)).encode()
            return stored

    def _completion(self, request: Request, fault: Fault) -> dict[str, Any]:
        unreadable = {"malformed": "Here are your pairs: 1.", "null": None}
        content: Any = unreadable[fault] if fault in unreadable else json.dumps(written_pairs(request.prompt, fault))
        if fault in AROUND:
            content = AROUND[fault].replace("JSON", content)
        if fault == "parts":
            content = [{"type": "text", "text": content[:50]}, {"type": "text", "text": content[50:]}]
        completion: dict[str, Any] = {
            "id": "x", "object": "chat.completion", "created": 1, "model": "toy",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}],
        }  # fmt: skip
        if fault == "repeated":
            completion["debug"] = {"authorization": request.authorization}
        if self.usage:
            completion["usage"] = {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500}
        return completion


def written_pairs(prompt: str, fault: Fault = None) -> dict[str, Any]:
    """Pairs that satisfy the rules, about the objects that a prompt lists; with `ghost`, about unknown ones."""
    listed = re.findall(r"^\[(\d+)\] ([^;]+);", prompt, re.MULTILINE)
    numbers, kinds = [int(number) for number, _ in listed], [kind for _, kind in listed]
    count = int(re.search(r"Write (\d+) question", prompt)[1])
    fresh = [question for question in QUESTIONS if question not in prompt]
    pairs = []
    for position, question in enumerate(fresh[:count]):
        number = numbers[position % len(numbers)]
        if fault == "ghost" and position % 2:
            number += 1_000_000
        answer = f"I would say it is <p>the {kinds[position % len(numbers)]}</p> {{seg:{number}}} here."
        pairs.append({"question": question, "answer": answer, "occlusion": []})
    return {"pairs": pairs}


def _parameters(body: dict[str, Any]) -> Iterator[str]:
    """Names of the parameters of a request that a server may refuse."""
    yield from (name for name in ("max_tokens", "max_completion_tokens", "temperature") if name in body)
    if body["messages"][0]["role"] == "system":
        yield "system"
    if "response_format" in body:
        yield "response_format" if body["response_format"]["type"] == "json_schema" else "json_object"


def random_faults(seed: int, share: float, faults: tuple[str, ...]) -> Plan:
    """A random one of these faults with the given probability."""
    rng, lock = random.Random(seed), threading.Lock()

    def plan(request: Request) -> Fault:
        with lock:
            return rng.choice(faults) if rng.random() < share else None

    return plan


def first_times(faults: list[Fault]) -> Plan:
    """These faults, one per request, then none."""
    left, lock = iter(faults), threading.Lock()

    def plan(request: Request) -> Fault:
        with lock:
            return next(left, None)

    return plan


def together(count: int) -> Plan:
    """Reply only when `count` requests are under way, again and again."""
    barrier = threading.Barrier(count)

    def plan(request: Request) -> Fault:
        barrier.wait(60)
        return None

    return plan


@contextmanager
def serving(**settings: Any) -> Iterator[FakeServer]:
    """Run a fake server in a thread of this process."""
    fake = FakeServer(**settings)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if len(body) < int(self.headers["Content-Length"]):  # the client was killed while it sent
                self.close_connection = True
                return
            key, authorization = (self.headers.get(name, "") for name in ("Idempotency-Key", "Authorization"))
            request = Request(key, json.loads(body), time.monotonic(), authorization)
            with fake._lock:
                fake.requests.append(request)
                fake._under_way += 1
                fake.most_at_once = max(fake.most_at_once, fake._under_way)
            try:
                self._respond(request, fake.plan(request))
            except (BrokenPipeError, ConnectionResetError):  # the client was killed
                pass
            finally:
                with fake._lock:
                    fake._under_way -= 1

        def _respond(self, request: Request, fault: Fault) -> None:
            if fault is not None and fault.isdecimal():
                headers = {"Retry-After": "0.05"} if fault == "429" else {}
                self._send(int(fault), b'{"error": {"message": "as planned"}}', headers)
                return
            if fault == "indiscreet":
                message = f"Incorrect API key provided: {request.authorization.removeprefix('Bearer ')}"
                self._send(401, json.dumps({"error": {"message": message}}).encode())
                return
            if fault == "quota":
                self._send(429, b'{"error": {"message": "no money", "code": "insufficient_quota"}}')
                return
            if fault == "plain":
                self._send(400, b'{"detail": "no toy here"}')
                return
            unknown = next((name for name in _parameters(request.body) if name in fake.refuses), None)
            if unknown:
                self._send(400, json.dumps({"error": {"message": REFUSALS[unknown]}}).encode())
                return
            if fault == "error200":
                self._send(200, b'{"error": {"message": "Provider returned error", "code": 502}}')
                return
            if fault == "forbidden200":
                self._send(200, b'{"error": {"message": "no such key", "code": 401}}')
                return
            if fault == "html":
                self._send(200, b"<html><body>502 Bad Gateway</body></html>", {"Content-Type": "text/html"})
                return
            if fault == "empty":
                self._send(200, b'{"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": []}')
                return
            if fault == "nonsense":
                self._send(200, b'[{"choices": 3}]')
                return
            time.sleep(3.0 if fault == "slow" else fake.delay)
            if fault == "broken":
                self._send(200, b"<html>not JSON")
                return
            whole = fake.answer(request, fault)
            if fault == "cut":
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(whole)))
                self.end_headers()
                self.wfile.write(whole[: len(whole) // 2])
                self.close_connection = True
                return
            self._send(200, whole)

        def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            for name, value in ({"Content-Type": "application/json"} | (headers or {})).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            """Log nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Ignore the broken connections that killed clients leave."""

    server = Server(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
