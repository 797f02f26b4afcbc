"""Generation through an endpoint: every image gets its pairs exactly once, whatever goes wrong."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from amodal.datagen.backends.base import BackendReply, UsageEstimate, WritingTask
from amodal.datagen.backends.client import Endpoint
from amodal.datagen.backends.endpoint import OpenAIBackend
from amodal.datagen.check import check
from amodal.datagen.generate import LOCK_FILE, GenerationOutcome, RequestPolicy, TokenPrices, UsageLimits, generate
from amodal.datagen.select import DatasetSource, ImageSelection, select
from amodal.datagen.store.work_folder import WorkFolder
from amodal.errors import InputError
from amodal.synthetic.generate import synthesize
from tests.datagen.endpoint import FakeServer, first_times, serving, together
from tests.datagen.toy_work import execute_sql

Works = Callable[..., WorkFolder]
QUICK = RequestPolicy(concurrency=4, attempts=4, first_wait=0.01)


def run(
    work: WorkFolder,
    server: FakeServer,
    *,
    policy: RequestPolicy = QUICK,
    timeout: float = 5.0,
    structured: str = "schema",
    **more: object,
) -> GenerationOutcome:
    endpoint = Endpoint("toy", server.url, timeout=timeout, structured=structured, max_tokens=600)
    return generate(work, OpenAIBackend(endpoint), policy=policy, progress=False, **more)


def assert_complete(work: WorkFolder, images: int) -> None:
    """Assert that each image has ten pairs, none of them twice."""
    pairs = list(work.pairs.find())
    assert len(pairs) == 10 * images
    assert len({(pair.image_id, pair.slot) for pair in pairs}) == 10 * images
    assert len({(pair.image_id, pair.question) for pair in pairs}) == 10 * images
    assert all([e.state for e in work.pairs.history(pair.id)].count("generated") == 1 for pair in pairs)


def test_one_request_per_image(toy_work: Works) -> None:
    work = toy_work(6)
    with serving(plan=together(2)) as server:
        outcome = run(work, server, timeout=60.0)
        assert (outcome.images, outcome.pairs, outcome.stopped) == (6, 60, None)
        assert_complete(work, 6)
        assert len(server.requests) == 6
        assert 1 < server.most_at_once <= 4
        assert run(work, server) == GenerationOutcome(), "nothing is left to ask"
        assert len(server.requests) == 6
    kept = [json.loads(raw) for (raw,) in execute_sql(work, "SELECT response FROM requests")]
    assert all(json.loads(one["choices"][0]["message"]["content"])["pairs"] for one in kept)
    assert work.requests.usage().tokens == 6 * 1500


def test_generate_inside_a_running_event_loop(toy_work: Works) -> None:
    """A notebook runs one."""
    work = toy_work(2)

    async def cell(server: FakeServer) -> GenerationOutcome:
        return run(work, server)

    with serving() as server:
        assert asyncio.run(cell(server)).pairs == 20
    assert_complete(work, 2)


def test_request_body(toy_work: Works) -> None:
    work = toy_work(1)
    with serving() as server:
        run(work, server)
    body = server.requests[0].body
    text, image = body["messages"][1]["content"]
    assert "[1] mug; visible box" in text["text"]
    assert "Write 10 question-answer pairs" in text["text"]
    assert image["image_url"]["url"].startswith("data:image/jpeg;base64,")
    schema = body["response_format"]["json_schema"]
    assert schema["strict"] and schema["schema"]["additionalProperties"] is False
    assert (body["model"], body["max_tokens"]) == ("toy", 600)
    assert server.requests[0].key == f"{work.settings()['id']}-1-0"


@pytest.mark.parametrize(("structured", "form"), [("json", {"type": "json_object"}), ("none", None)])
def test_servers_without_json_schemas(toy_work: Works, structured: str, form: object) -> None:
    work = toy_work(1)
    with serving() as server:
        run(work, server, structured=structured)
    assert server.requests[0].body.get("response_format") == form
    assert_complete(work, 1)


@pytest.mark.parametrize("fault", ["429", "500", "503", "408", "cut", "broken", "slow"])
def test_temporary_faults(toy_work: Works, fault: str) -> None:
    work = toy_work(3)
    with serving(plan=first_times([fault, None, fault])) as server:
        outcome = run(work, server, timeout=1.5 if fault == "slow" else 5.0)
        assert (outcome.images, outcome.stopped) == (3, None)
        assert_complete(work, 3)
        assert len(server.requests) == 5
        assert work.requests.counts() == {"answered": 3, "error": 2}
        assert len({request.key for request in server.requests}) == 3, "a repeated request has the same key"
        assert max(server.billed.values()) == 1


def test_malformed_replies_are_requested_again_with_the_reason(toy_work: Works) -> None:
    work = toy_work(1)
    with serving(plan=first_times(["malformed", "null"])) as server:
        outcome = run(work, server)
    assert (outcome.images, outcome.unreadable) == (1, 2)
    assert [request.key[-1] for request in server.requests] == ["0", "1", "2"]
    assert "could not be used: format: expected JSON of the form asked for" in server.requests[1].prompt
    assert_complete(work, 1)


def test_images_fail_after_malformed_replies_in_all_rounds(toy_work: Works) -> None:
    work = toy_work(2)
    with serving(plan=lambda request: "malformed") as server:
        outcome = run(work, server)
        assert (outcome.images, outcome.unreadable, outcome.stopped) == (0, 6, None)
        assert run(work, server) == GenerationOutcome(), "three rounds are enough"
    assert [image.state for image in work.images()] == ["failed", "failed"]
    report = check(work, progress=False)
    assert report.images_failed == 2
    assert report.rules["format"].failed == 6
    assert "Here are your pairs" in report.rules["format"].examples[0]["response"]


class MalformedBackend:
    """Backend with malformed replies, whose order is fixed.

    The reply about image 2 waits until image 3 has its first reply, and the other way round.
    """

    name = "nonsense"

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []
        self.first, self.last = asyncio.Event(), asyncio.Event()

    def estimate(self, task: WritingTask) -> UsageEstimate:
        return UsageEstimate()

    async def ask(self, task: WritingTask) -> BackendReply:
        self.asked.append((task.image.id, task.round))
        if task.image.id == 2:
            await self.first.wait()
        if (task.image.id, task.round) == (3, 1):
            self.first.set()
            await self.last.wait()
            await asyncio.sleep(0.05)  # time for the other worker to take the next image
        if (task.image.id, task.round) == (2, 2):
            self.last.set()
        return BackendReply("nonsense", "nonsense")

    async def close(self) -> None:
        pass


def test_each_image_belongs_to_one_worker(toy_work: Works) -> None:
    """Image 3 is in its second round when the other worker, finished with image 2, takes the next image."""
    backend = MalformedBackend()
    generate(toy_work(3), backend, policy=RequestPolicy(2, 1, 0.0), progress=False)
    assert sorted(backend.asked) == [(image, round_) for image in (1, 2, 3) for round_ in (0, 1, 2)]


def test_failed_pairs_are_generated_again(toy_work: Works) -> None:
    work = toy_work(2)
    with serving(plan=first_times(["ghost"])) as server:
        run(work, server)
        report = check(work, progress=False)
        assert (report.checked, report.failed, report.again) == (15, 5, 1)
        assert report.rules["ids"].failed == 5
        kept = {pair.id: pair for pair in work.pairs.find(["checked"])}
        outcome = run(work, server)
        assert (outcome.images, outcome.pairs) == (1, 5)
        last = server.requests[-1]
        assert "Write 5 question-answer pairs" in last.prompt
        assert "ids: expected numbers of the image's objects, got {seg:100000" in last.prompt
        assert {pair.id: pair for pair in work.pairs.find() if pair.id in kept} == kept, "pairs that passed stay"
        again = check(work, progress=False)
        assert (again.checked, again.failed, again.again) == (20, 0, 0)
    assert sorted(pair.tries for pair in work.pairs.find()) == [1] * 15 + [2] * 5


def test_missing_pairs_are_added(toy_work: Works) -> None:
    work = toy_work(1)
    with serving() as server:
        run(work, server, pairs=7)
        assert len(list(work.pairs.find())) == 7
        report = check(work, pairs=10, progress=False)
        assert report.rules["count"].failed == 1
        run(work, server, pairs=10)
        assert "Write 3 question-answer pairs" in server.requests[-1].prompt
    assert_complete(work, 1)


@pytest.mark.parametrize(
    ("fault", "message"), [("401", "got 401"), ("404", "got 404"), ("400", "got 400"), ("quota", "got 429")]
)
def test_an_endpoint_that_refuses_everything(toy_work: Works, fault: str, message: str) -> None:
    work = toy_work(3)
    with serving(plan=lambda request: fault) as server:
        with pytest.raises(InputError, match=message):
            run(work, server)
        assert len(server.requests) <= 4
    assert [image.state for image in work.images()] == ["selected"] * 3


def test_the_reason_of_a_refusal_is_reported_in_any_form(toy_work: Works) -> None:
    with (
        serving(plan=lambda request: "plain") as server,
        pytest.raises(InputError, match='got 400: {"detail": "no toy'),
    ):
        run(toy_work(1), server)


def test_a_refused_image(toy_work: Works) -> None:
    work = toy_work(3)
    with serving(plan=first_times([None, "400"])) as server:
        outcome = run(work, server, policy=RequestPolicy(1, 2, 0.01))
    assert (outcome.images, outcome.refused) == (2, 1)
    refused = next(iter(work.images("failed")))
    assert refused.reason is not None and refused.reason.startswith("refused: 400")
    assert check(work, progress=False).again == 0


def test_a_key_that_expires_stops_the_run(toy_work: Works) -> None:
    work = toy_work(3)
    with serving(plan=first_times([None, "401"])) as server:
        outcome = run(work, server, policy=RequestPolicy(1, 2, 0.01))
        assert outcome.stopped is not None and "the endpoint refuses (401" in outcome.stopped
        assert run(work, server).images == 2
    assert_complete(work, 3)


def test_an_endpoint_that_is_down(toy_work: Works) -> None:
    work = toy_work(6)
    with serving() as server:
        url = server.url
    with pytest.raises(
        InputError, match="backend openai/toy prompt 2: expected an answer, got no answer: .*(refused|failed)"
    ):
        run(work, FakeServer(url=url), policy=RequestPolicy(2, 2, 0.01))
    assert {image.state for image in work.images()} == {"selected"}
    with serving() as server:
        assert run(work, server).images == 6
    assert_complete(work, 6)


def test_an_endpoint_that_goes_down(toy_work: Works) -> None:
    work = toy_work(6)
    with serving() as server:
        assert run(work, server, limits=UsageLimits(requests=1)).images == 1
        url = server.url
    outcome = run(work, FakeServer(url=url), policy=RequestPolicy(2, 2, 0.01))
    assert outcome.stopped is not None and "the endpoint does not answer (no answer: " in outcome.stopped
    assert outcome.given_up >= 2 and outcome.error in outcome.stopped
    with serving() as server:
        assert run(work, server).images == 5
    assert_complete(work, 6)


def test_a_limit_on_requests_holds_over_runs(toy_work: Works) -> None:
    work = toy_work(5)
    with serving() as server:
        outcome = run(work, server, limits=UsageLimits(requests=3))
        assert (outcome.images, outcome.stopped) == (3, "the limit on requests is reached")
        assert len(server.requests) == 3
        assert run(work, server, limits=UsageLimits(requests=3)).images == 0
        assert len(server.requests) == 3
        assert run(work, server, limits=UsageLimits(requests=5)).stopped is None
    assert_complete(work, 5)


@pytest.mark.parametrize("limits", [UsageLimits(tokens=16_000), UsageLimits(money=0.016)])
def test_limits_on_tokens_and_money_are_never_exceeded(toy_work: Works, limits: UsageLimits) -> None:
    work = toy_work(12)
    with serving() as server:
        outcome = run(work, server, limits=limits, prices=TokenPrices(1.0, 1.0))
    assert outcome.stopped is not None and "the limit on" in outcome.stopped
    used = work.requests.usage()
    assert 2 * 1500 <= used.tokens <= 16_000, "some replies fit, at 1,500 tokens each"
    assert used.money == pytest.approx(used.tokens * 1e-6)


def test_missing_usage_is_estimated(toy_work: Works) -> None:
    work = toy_work(1)
    with serving(usage=False) as server:
        run(work, server)
    assert 1_600 < work.requests.usage().tokens < 6_000


def test_open_requests_are_marked_lost_and_sent_again(toy_work: Works) -> None:
    work = toy_work(1)
    execute_sql(work, "INSERT INTO requests (image_id, round, status, sent_at) VALUES (1, 0, 'sent', '')")
    with serving() as server:
        run(work, server)
    assert work.requests.counts() == {"answered": 1, "lost": 1}


def test_one_run_at_a_time(toy_work: Works) -> None:
    work = toy_work(1)
    with (
        FileLock(work.folder / LOCK_FILE),
        serving() as server,
        pytest.raises(InputError, match="expected no other run"),
    ):
        run(work, server)


def test_retry_after_is_respected(toy_work: Works) -> None:
    work = toy_work(4)
    with serving(plan=first_times(["429"])) as server:
        run(work, server, policy=RequestPolicy(1, 3, 0.0))
    first, second = server.requests[:2]
    assert second.time - first.time >= 0.05


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": " "}, "expected the name of a model"),
        ({"base_url": "ftp://x"}, "expected http:// or https://"),
        ({"timeout": 0}, "expected more than 0"),
        ({"prompt": "77"}, "expected a version in amodal/datagen/prompts, got '77'"),
        ({"base_url": None, "key_variable": "NO_SUCH_KEY"}, "expected a key in NO_SUCH_KEY"),
    ],
)
def test_bad_endpoint_settings(settings: dict[str, object], message: str) -> None:
    values = {"model": "toy", "base_url": "http://127.0.0.1:1/v1", **settings}
    with pytest.raises(InputError, match=message):
        OpenAIBackend(Endpoint(**values))


def test_a_missing_package_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(InputError, match=r"expected the package `openai`; pip install amodal\[reasonseg\]"):
        OpenAIBackend(Endpoint("toy", "http://127.0.0.1:1/v1"))


def test_bad_policies_and_limits(toy_work: Works) -> None:
    with pytest.raises(InputError, match="concurrency: expected 1 or more"):
        RequestPolicy(concurrency=0)
    with pytest.raises(InputError, match="retry_wait: expected 0 or more"):
        RequestPolicy(first_wait=-1)
    with pytest.raises(InputError, match="max-total-tokens: expected 0 or more"):
        UsageLimits(tokens=-1)
    with pytest.raises(InputError, match="price: expected 0 or more, got -1 and 2"):
        TokenPrices(-1, 2)
    work = toy_work(1)
    with serving() as server:
        with pytest.raises(InputError, match="expected prices of tokens"):
            run(work, server, limits=UsageLimits(money=1.0))
        with pytest.raises(InputError, match="pairs: expected 1 or more"):
            run(work, server, pairs=0)


def test_waits_double_up_to_a_maximum() -> None:
    policy = RequestPolicy(first_wait=1.0, longest_wait=8.0)
    for attempt, longest in enumerate([1, 2, 4, 8, 8]):
        assert longest / 2 <= policy.wait(attempt, None) <= longest
    assert policy.wait(0, 30.0) == 30.0


def test_concurrency_saves_time(toy_work: Works) -> None:
    """Sixteen requests run eight at a time: the server replies to none before eight have arrived."""
    work = toy_work(16)
    with serving(plan=together(8)) as server:
        outcome = run(work, server, policy=RequestPolicy(8, 2, 0.01), timeout=60.0)
        assert (outcome.images, len(server.requests), server.most_at_once) == (16, 16, 8)


@pytest.mark.slow
def test_throughput(tmp_path: Path) -> None:
    """200 scenes, 16 requests at a time, a server that replies in two seconds: at most 1.3 times the ideal time."""
    scenes = synthesize("scenes", 200, 2, tmp_path / "scenes", progress=False)
    with (
        select([DatasetSource("canonical", scenes)], ImageSelection(), tmp_path / "work") as work,
        serving(delay=2.0) as server,
    ):
        backend = OpenAIBackend(Endpoint("toy", server.url))
        start = time.monotonic()
        outcome = generate(work, backend, policy=RequestPolicy(16), progress=False)
        seconds = time.monotonic() - start
    assert (outcome.images, outcome.stopped) == (200, None)
    ideal = 2.0 * 200 / 16
    print(f"{seconds:.1f} s, ideal {ideal:.1f} s")
    assert seconds < 1.3 * ideal
