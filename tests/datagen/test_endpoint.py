"""The endpoint backend with servers as people meet them: words around JSON, errors inside a 200, refused parameters."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing

import pytest

from amodal.datagen.backends.client import Endpoint, RequestForm
from amodal.datagen.backends.endpoint import OpenAIBackend
from amodal.datagen.generate import GenerationOutcome, RequestPolicy, generate
from amodal.datagen.store.work_folder import STATE_FILE, WorkFolder
from amodal.errors import InputError
from tests.datagen.endpoint import AROUND, REFUSALS, FakeServer, first_times, random_faults, serving

Works = Callable[..., WorkFolder]
FAST = RequestPolicy(concurrency=4, attempts=6, first_wait=0.01, longest_wait=0.05)


def run(
    work: WorkFolder,
    server: FakeServer,
    policy: RequestPolicy = FAST,
    pairs: int | None = None,
    rounds: int | None = None,
    **settings: object,
) -> GenerationOutcome:
    endpoint = Endpoint("toy", server.url, **{"max_side": 64, "timeout": 5.0, **settings})
    return generate(work, OpenAIBackend(endpoint), pairs=pairs, rounds=rounds, policy=policy, progress=False)


def logged(work: WorkFolder) -> list[str]:
    """Messages of the requests that failed."""
    with closing(sqlite3.connect(work.folder / STATE_FILE)) as connection:
        rows = connection.execute("SELECT detail FROM requests WHERE status = 'error' ORDER BY id").fetchall()
    return [detail for (detail,) in rows]


def num_pairs(work: WorkFolder) -> tuple[int, int]:
    """Number of pairs, and of different (image, question)."""
    pairs = list(work.pairs.find())
    return len(pairs), len({(pair.image_id, pair.question) for pair in pairs})


@pytest.mark.parametrize("fault", [*AROUND, "parts"])
def test_json_is_found_wherever_it_stands(toy_work: Works, fault: str) -> None:
    work = toy_work(1)
    with serving(plan=first_times([fault])) as server:
        outcome = run(work, server)
    assert (outcome.images, outcome.unreadable, len(server.requests)) == (1, 0, 1)
    assert num_pairs(work) == (10, 10)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("error200", "error 502 in the response: Provider returned error"),
        ("html", "no completion in the response: <html><body>502 Bad Gateway</body></html>"),
        ("empty", "no choices in the response: "),
        ("nonsense", "unreadable response: "),
    ],
)
def test_an_error_inside_a_200_is_retried_as_a_server_error(toy_work: Works, fault: str, message: str) -> None:
    work = toy_work(1)
    with serving(plan=first_times([fault, fault])) as server:
        outcome = run(work, server)
    assert (outcome.images, outcome.unreadable, len(server.requests)) == (1, 0, 3)
    assert work.image(1).tries == 1, "it is not one of the model's rounds"
    found = logged(work)
    assert len(found) == 2 and all(one.startswith(message) for one in found), found
    assert num_pairs(work) == (10, 10)


def test_an_error_inside_a_200_that_no_retry_helps(toy_work: Works) -> None:
    work = toy_work(2)
    with serving(plan=lambda request: "forbidden200") as server, pytest.raises(InputError, match="error 401 in the"):
        run(work, server)
    assert len(server.requests) <= 2


@pytest.mark.parametrize(
    "refuses",
    [
        {"max_tokens"}, {"system"}, {"response_format"}, {"response_format", "json_object"}, {"temperature"},
        {"max_tokens", "system", "response_format", "json_object", "temperature"},
    ],
)  # fmt: skip
def test_the_form_of_requests_is_learned_from_refusals(toy_work: Works, refuses: set[str]) -> None:
    work = toy_work(6)
    with serving(refuses=frozenset(refuses)) as server:
        outcome = run(work, server, RequestPolicy(1, 2, 0.01), temperature=0.2)
    assert (outcome.images, outcome.refused, outcome.given_up) == (6, 0, 0)
    assert num_pairs(work) == (60, 60)
    assert logged(work) == []
    assert len(server.requests) == 6 + len(refuses), "each refusal is met once"
    last = server.requests[-1].body
    assert ("max_completion_tokens" in last) == ("max_tokens" in refuses)
    assert (last["messages"][0]["role"] == "user") == ("system" in refuses)
    if "system" in refuses:
        assert "Rules for questions" in last["messages"][0]["content"][0]["text"], "the instructions are still sent"


def test_several_requests_at_a_time_learn_one_form(toy_work: Works) -> None:
    work = toy_work(12)
    with serving(refuses=frozenset({"max_tokens", "system", "response_format"}), delay=0.02) as server:
        outcome = run(work, server)
    assert (outcome.images, outcome.refused) == (12, 0)
    assert num_pairs(work) == (120, 120)


def test_the_form_can_be_set(toy_work: Works) -> None:
    work = toy_work(1)
    with serving() as server:
        run(work, server, token_limit="max_completion_tokens", system_role=False, structured="none")
    (request,) = server.requests
    assert {"max_completion_tokens", "messages", "model"} == request.body.keys()
    assert [message["role"] for message in request.body["messages"]] == ["user"]


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_are_understood(name: str) -> None:
    limit = "max_completion_tokens" if name == "max_completion_tokens" else "max_tokens"
    form = RequestForm(limit, True, "json" if name == "json_object" else "schema", 0.2)
    before = vars(form).copy()
    assert form.adapt(REFUSALS[name])
    assert sum(before[field] != value for field, value in vars(form).items()) == 1


@pytest.mark.parametrize(
    "message",
    ["no toy here", "image too large", "internal system error", "this model's maximum context length is 4096 tokens"],
)
def test_other_refusals_change_nothing(message: str) -> None:
    form = RequestForm("max_tokens", True, "schema", None)
    assert not form.adapt(message)


def test_an_adversarial_endpoint(toy_work: Works) -> None:
    """Every fault, mixed with correct replies: the pairs expected, none lost, none twice."""
    images = 40
    work = toy_work(images)
    faults = (*AROUND, "parts", "error200", "html", "empty", "nonsense", "broken", "cut", "429", "500", "malformed")
    refuses = frozenset({"max_tokens", "system", "response_format", "json_object"})
    policy = RequestPolicy(concurrency=4, attempts=12, first_wait=0.005, longest_wait=0.02)
    with serving(plan=random_faults(5, 0.6, faults), refuses=refuses) as server:
        outcome = run(work, server, policy, rounds=9)
    assert (outcome.given_up, outcome.refused, outcome.stopped) == (0, 0, None)
    assert num_pairs(work) == (10 * images, 10 * images)
    assert {image.state for image in work.images()} == {"answered"}
    assert all(len(work.pairs.history(pair.id)) == 1 for pair in work.pairs.find()), "written once"
    per_image = Counter(pair.image_id for pair in work.pairs.find())
    assert set(per_image.values()) == {10}
    assert len(logged(work)) > 10 and all(logged(work))


def test_outlines_with_numbers_are_sent_by_default() -> None:
    assert Endpoint("toy").outlines
