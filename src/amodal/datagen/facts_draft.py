"""Facts about categories that nobody has facts about: a language model drafts them, and a person confirms each."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from pydantic import ValidationError

from amodal.datagen.backends.base import BackendError
from amodal.datagen.backends.client import ChatClient, Endpoint, Message
from amodal.datagen.generate import RequestPolicy
from amodal.datagen.prompt import json_bodies
from amodal.errors import InputError
from amodal.io.files import write_atomic
from amodal.questions.knowledge import CategoryFacts, built_in_facts, category_key, read_facts

FIELDS = ("purposes", "parts", "materials", "found", "looks", "plural")

SYSTEM = """You collect facts about kinds of objects, from which other people make questions.

Answer with JSON only, of this form:
{"purposes": ["...", "..."], "parts": ["..."], "materials": ["..."], "found": ["..."], "looks": ["..."], "plural": false}

- purposes: two phrases that complete "I want to ...": what somebody needs such an object for. Do not name or define it, and do not use "I", "me" or "my".
- parts: noun phrases that complete "because it has ...", that make the purposes possible.
- materials: nouns that complete "it is made of ...".
- found: nouns that complete "one usually finds it in a ...".
- looks: adjectives that are true of almost every such object.
- plural: true if its name is grammatically plural, such as "scissors"."""  # noqa: E501


@dataclass
class DraftOutcome:
    """The result of one run.

    Attributes:
        drafted: categories whose facts were added to the file.
        failed: reasons by category.
    """

    drafted: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def categories_without_facts(names: Iterable[str], path: Path) -> list[str]:
    """The categories that neither the package nor the file has facts about, each once.

    Raises:
        InputError: the file exists and has another form.
    """
    known = {**built_in_facts(), **(read_facts(path) if path.exists() else {})}
    return [name for name in dict.fromkeys(map(category_key, names)) if name not in known]


def draft_facts(names: Sequence[str], path: Path, endpoint: Endpoint, policy: RequestPolicy) -> DraftOutcome:
    """Ask a language model once about each category, and add its facts to a file as not confirmed.

    Args:
        names: categories, from `categories_without_facts`.
        path: file to extend, or to make.
        endpoint: the server and its settings.
        policy: attempts and waits per category.

    Raises:
        InputError: the file cannot be written, or a setting of the endpoint is invalid.
    """
    outcome, found = DraftOutcome(), dict[str, CategoryFacts]()
    asyncio.run(_ask_all(names, endpoint, policy, found, outcome))
    if found:
        entries = {name: {**facts.model_dump(include=set(FIELDS)), "confirmed": False} for name, facts in found.items()}
        entries = json.loads(json.dumps(entries))  # lists instead of tuples
        text = path.read_text(encoding="utf-8").rstrip() + "\n" if path.exists() else ""
        write_atomic(path, text + yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=120), "facts")
    return outcome


def confirm_facts(path: Path, name: str) -> None:
    """Mark the facts about one category as read by a person; everything else in the file stays as it is.

    Raises:
        InputError: the file cannot be read, or has no unconfirmed facts about the category.
    """
    read_facts(path)
    text = path.read_text(encoding="utf-8")
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)  # `read_facts` has checked it
    for key, entry in root.value:
        if category_key(str(key.value)) != category_key(name):
            continue
        for field_name, value in entry.value:
            if field_name.value == "confirmed":
                start, end = value.start_mark.index, value.end_mark.index
                write_atomic(path, f"{text[:start]}true{text[end:]}", "facts")
                return
    raise InputError(f"facts {path}: expected unconfirmed facts about {name!r}, got none")


async def _ask_all(
    names: Sequence[str],
    endpoint: Endpoint,
    policy: RequestPolicy,
    found: dict[str, CategoryFacts],
    outcome: DraftOutcome,
) -> None:
    client, free = ChatClient(endpoint), asyncio.Semaphore(policy.concurrency)

    async def ask(name: str) -> None:
        async with free:
            try:
                found[name] = await _ask(client, name, policy)
                outcome.drafted.append(name)
            except (BackendError, InputError) as error:
                outcome.failed[name] = str(error)

    try:
        await asyncio.gather(*map(ask, names))
    finally:
        await client.close()


async def _ask(client: ChatClient, name: str, policy: RequestPolicy) -> CategoryFacts:
    schema = CategoryFacts.model_json_schema()
    schema["properties"].pop("confirmed")
    schema["required"] = list(FIELDS)
    form = {"type": "json_schema", "json_schema": {"name": "facts", "strict": True, "schema": schema}}
    content = [{"type": "text", "text": f"The kind of object: {name}"}]
    last: Exception = InputError("no attempt was made")
    for attempt in range(policy.attempts):
        message = Message(SYSTEM, content, form, f"facts-{name}-{attempt}")
        try:
            return _parse((await client.complete(lambda message=message: message)).text)  # type: ignore[misc]
        except BackendError as error:
            if not error.retry:
                raise
            last = error
            await asyncio.sleep(policy.wait(attempt, error.wait))
        except InputError as error:
            last = error
    raise last


def _parse(text: str) -> CategoryFacts:
    reason = "no JSON object"
    for body in json_bodies(text):
        try:
            facts = CategoryFacts.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            reason = f"{'.'.join(map(str, first['loc'])) or 'answer'}: {first['msg']}"
            continue
        if facts.purposes and facts.reason(plural=False):
            return facts
        reason = "facts without purposes, or without parts and materials"
    raise InputError(f"format: expected facts as JSON, got {reason}")
