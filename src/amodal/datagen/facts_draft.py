"""Facts about categories that nobody has facts about: a language model drafts them, and a person confirms each."""

from __future__ import annotations

import asyncio
import json
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from amodal.datagen.backends.base import BackendError
from amodal.datagen.backends.client import ChatClient, Endpoint, Message
from amodal.datagen.generate import RequestPolicy
from amodal.datagen.prompt import json_bodies
from amodal.errors import InputError
from amodal.io.files import one_writer, write_atomic
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
    """Ask a language model once about each category, and add its facts to a file as not confirmed, one by one.

    Args:
        names: categories, from `categories_without_facts`.
        path: file to extend, or to make.
        endpoint: the server and its settings.
        policy: attempts and waits per category.

    Raises:
        InputError: the file cannot be written, another run writes it, or a setting of the endpoint is invalid.
    """
    outcome = DraftOutcome()
    with one_writer(path, "facts"):
        asyncio.run(_ask_all(names, path, endpoint, policy, outcome))
    return outcome


def add_facts(path: Path, name: str, facts: CategoryFacts) -> None:
    """Add facts that nobody has confirmed to a file of facts, whose text stays as it is, also in YAML's flow style.

    Args:
        path: file to extend, or to make.
        name: a category that it does not have.
        facts: facts about the category.

    Raises:
        InputError: the file has another form, or cannot be written.
    """
    text = ""
    if path.exists():
        read_facts(path)
        text = path.read_text(encoding="utf-8")
    entry = {name: {**json.loads(facts.model_dump_json(include=set(FIELDS))), "confirmed": False}}
    longer = _with_entry(text, entry)
    before = yaml.safe_load(text) or {}
    if name in before or yaml.safe_load(longer) != before | entry:
        raise InputError(f"facts {path}: expected a plain YAML mapping without {name!r}, got another file")
    write_atomic(path, longer, "facts")


def _with_entry(text: str, entry: dict[str, Any]) -> str:
    """The text of a YAML mapping with another entry at its end."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        return text + yaml.safe_dump(entry, sort_keys=False, allow_unicode=True, width=120)
    start, end = root.start_mark, root.end_mark.index
    if root.flow_style:
        last = root.value[-1][1].end_mark.index if root.value else start.index + 1
        has_comma = not root.value or "," in re.sub(r"#.*", "", text[last : end - 1])
        flow = yaml.safe_dump(entry, sort_keys=False, allow_unicode=True, width=120, default_flow_style=True).strip()
        return f"{text[: end - 1]}{'' if has_comma else ', '}{flow[1:-1]}{text[end - 1 :]}"
    block = yaml.safe_dump(entry, sort_keys=False, allow_unicode=True, width=120)
    before = text[:end] if text[:end].endswith("\n") else f"{text[:end]}\n"
    return before + textwrap.indent(block, " " * start.column) + text[end:]


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
    names: Sequence[str], path: Path, endpoint: Endpoint, policy: RequestPolicy, outcome: DraftOutcome
) -> None:
    client, free = ChatClient(endpoint), asyncio.Semaphore(policy.concurrency)

    async def ask(name: str) -> None:
        async with free:
            try:
                facts = await _ask(client, name, policy)
            except (BackendError, InputError) as error:
                outcome.failed[name] = str(error)
                return
        add_facts(path, name, facts)  # at once, so that an interrupted run keeps what it has paid for
        outcome.drafted.append(name)

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
