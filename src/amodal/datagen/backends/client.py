"""A client for every endpoint with OpenAI's chat completions: hosted models, vLLM, `transformers serve`, ...

Servers differ in the parameters that they know, and in what they send: the client learns the one from their refusals,
and expects nothing of the other.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from amodal.datagen.backends.base import BackendError
from amodal.datagen.prompt import PROMPT_VERSION
from amodal.errors import InputError

if TYPE_CHECKING:
    from openai import APIStatusError

Structured = Literal["schema", "json", "none"]
TokenLimit = Literal["auto", "max_tokens", "max_completion_tokens"]

RETRY_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
FATAL_STATUS = frozenset({401, 402, 403, 404, 405})
REFUSED_FORM = frozenset({400, 422, 501})
"""Status codes with which servers refuse a parameter that they do not know."""
MAX_FORMS = 6  # forms of one request that are tried after refusals
MAX_REASON = 320  # characters of an error that are kept
MIN_KEY = 8  # characters of a key that is a secret; keys of local servers are words such as "none"
_UNSUPPORTED = ("unsupported", "not supported", "unrecognized", "unknown", "instead", "not permitted", "extra")
_SYSTEM_ROLE = re.compile(r"\bsystem\b.*\b(?:role|message|prompt|support)|roles must alternate|developer instruction")
_JSON_MODE = ("response_format", "json_schema", "json_object", "json mode", "guided", "grammar", "structured output")


@dataclass(frozen=True)
class Endpoint:
    """The server and the settings of its requests.

    Attributes:
        model: name of the model on the server.
        base_url: address of the server, ending in `/v1`; OpenAI's own if None.
        key_variable: environment variable with the key; a local server may not need one.
        timeout: seconds to wait for a reply.
        structured: require replies by JSON `schema`, any `json`, or ask for JSON only in words (`none`).
        max_tokens: maximum length of a reply.
        token_limit: name of the parameter for that; `auto` starts with the usual one and learns from a refusal.
        system_role: send the instructions as a system message instead of at the start of the user message.
        temperature: sampling temperature; the server's default if None.
        outlines: draw outlines and numbers of the objects on the image.
        max_side: maximum side of the image sent, in pixels.
        prompt: version of the prompt file.
    """

    model: str
    base_url: str | None = None
    key_variable: str = "OPENAI_API_KEY"
    timeout: float = 120.0
    structured: Structured = "schema"
    max_tokens: int = 4096
    token_limit: TokenLimit = "auto"
    system_role: bool = True
    temperature: float | None = None
    outlines: bool = True
    max_side: int = 1024
    prompt: str = PROMPT_VERSION


@dataclass
class RequestForm:
    """The form of requests that the server accepts, as far as known: it changes with each refusal.

    Attributes:
        token_limit: name of the parameter for the maximum length of a reply.
        system_role: send the instructions as a system message.
        structured: as in `Endpoint`.
        temperature: sampling temperature, or None.
    """

    token_limit: str
    system_role: bool
    structured: Structured
    temperature: float | None

    def adapt(self, message: str) -> bool:
        """Change what a server's refusal is about; False if it is about nothing that can be changed."""
        text = message.lower()
        limits = ("max_completion_tokens", "max_tokens")
        if self.token_limit in text and any(word in text for word in _UNSUPPORTED):
            (self.token_limit,) = (name for name in limits if name != self.token_limit)
        elif self.structured != "none" and any(word in text for word in _JSON_MODE):
            self.structured = "json" if self.structured == "schema" else "none"
        elif self.temperature is not None and "temperature" in text:
            self.temperature = None
        elif self.system_role and _SYSTEM_ROLE.search(text):
            self.system_role = False
        else:
            return False
        return True


@dataclass(frozen=True)
class Message:
    """What is sent in one request.

    Attributes:
        system: instructions.
        content: parts of the user message in OpenAI's form, the text first.
        schema: JSON schema of the reply, in the form of `response_format`.
        key: the same for the same request in every run.
    """

    system: str
    content: list[dict[str, Any]]
    schema: dict[str, Any]
    key: str


@dataclass(frozen=True)
class Completion:
    """The text of a reply, the whole reply as JSON, and the tokens used (None where the server does not say)."""

    text: str
    raw: str
    prompt_tokens: int | None
    completion_tokens: int | None


class ChatClient:
    """Sends requests through the `openai` client.

    Where the server refuses a parameter, the request is sent again at once in another form, and all later requests
    have that form.

    Raises:
        InputError: the package is not installed, there is no key, or a setting of the endpoint is invalid.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        try:
            import openai
        except ImportError as error:
            raise InputError("backend openai: expected the package `openai`; pip install amodal[reasonseg]") from error
        if not endpoint.model.strip():
            raise InputError("model: expected the name of a model that the endpoint serves, got none")
        if endpoint.base_url is not None and not endpoint.base_url.startswith(("http://", "https://")):
            raise InputError(f"base_url: expected http:// or https://, got {endpoint.base_url!r}")
        for name in ("timeout", "max_tokens"):
            if not getattr(endpoint, name) > 0:
                raise InputError(f"{name}: expected more than 0, got {getattr(endpoint, name):g}")
        key = os.environ.get(endpoint.key_variable)
        if not key and endpoint.base_url is None:
            raise InputError(f"backend openai: expected a key in {endpoint.key_variable}, got none")
        self._endpoint, self._key = endpoint, key or "none"
        # OpenAI renamed this limit; most other servers still use the old name.
        usual = "max_completion_tokens" if endpoint.base_url is None else "max_tokens"
        limit = usual if endpoint.token_limit == "auto" else endpoint.token_limit
        self._form = RequestForm(limit, endpoint.system_role, endpoint.structured, endpoint.temperature)
        self._client = openai.AsyncOpenAI(
            base_url=endpoint.base_url, api_key=self._key, timeout=endpoint.timeout, max_retries=0
        )
        _ = self._client.chat.completions  # its import takes a second, which would delay all requests

    async def complete(self, make_message: Callable[[], Message]) -> Completion:
        """Send one request; the caller decides about retries.

        Where the server repeats the key, it is replaced by `***`: replies and errors are stored and printed.

        Args:
            make_message: makes what is sent; it runs in another thread, because images take time to encode.

        Raises:
            BackendError: no completion was received.
        """
        try:
            found = await self._answer(make_message)
        except BackendError as error:
            error.args = (_shortened(self._without_key(str(error))),)
            raise
        return replace(found, text=self._without_key(found.text), raw=self._without_key(found.raw))

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if len(self._key) >= MIN_KEY else text

    async def _answer(self, make_message: Callable[[], Message]) -> Completion:
        import openai

        message = await asyncio.to_thread(make_message)
        for _ in range(MAX_FORMS):
            form = replace(self._form)
            try:
                return _read(await self._send(message, form))
            except openai.APIStatusError as error:
                if error.status_code in REFUSED_FORM and (form != self._form or self._form.adapt(_message(error))):
                    continue  # another request may have learned the form meanwhile
                raise _status_error(error) from error
            except openai.APIResponseValidationError as error:
                raise BackendError(f"unreadable response: {error}", retry=True) from error
            except (openai.APIConnectionError, asyncio.TimeoutError) as error:
                reason = " ".join(str(error.__cause__ or error).split()) or f"none within {self._endpoint.timeout:g} s"
                raise BackendError(f"no answer: {reason}", retry=True) from error
            except ValueError as error:  # a body that is not JSON at all
                raise BackendError(f"unreadable response: {error}", retry=True) from error
        raise BackendError(f"no form of the request was accepted in {MAX_FORMS} attempts", retry=False)

    async def close(self) -> None:
        """Close connections."""
        await self._client.close()

    async def _send(self, message: Message, form: RequestForm) -> Any:
        arguments = _arguments(message, form, self._endpoint)
        awaitable = self._client.chat.completions.create(**arguments, extra_headers={"Idempotency-Key": message.key})
        # The client's own limit starts again with each byte; this one is for the complete reply.
        return await asyncio.wait_for(awaitable, self._endpoint.timeout)


def _arguments(message: Message, form: RequestForm, endpoint: Endpoint) -> dict[str, Any]:
    first, *others = message.content
    text = first["text"] if form.system_role else f"{message.system}\n\n{first['text']}"
    messages: list[dict[str, Any]] = [{"role": "user", "content": [first | {"text": text}, *others]}]
    if form.system_role:
        messages.insert(0, {"role": "system", "content": message.system})
    arguments: dict[str, Any] = {
        "model": endpoint.model, "messages": messages, form.token_limit: endpoint.max_tokens,
    }  # fmt: skip
    if form.temperature is not None:
        arguments["temperature"] = form.temperature
    if form.structured == "schema":
        arguments["response_format"] = message.schema
    elif form.structured == "json":
        arguments["response_format"] = {"type": "json_object"}
    return arguments


def _read(completion: Any) -> Completion:
    """The text and usage of a completion; nothing about its form is assumed, because a server may send anything."""
    if isinstance(completion, str):
        raise BackendError(f"no completion in the response: {completion}", retry=True)
    try:
        raw = completion.model_dump_json(warnings=False)
        choices = getattr(completion, "choices", None)
        if not choices:
            raise _error_inside(completion, raw)
        text = _text_of(choices[0].message)
        usage = getattr(completion, "usage", None)
        used = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
    except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise BackendError(f"unreadable response: {error}", retry=True) from error
    prompt_tokens, completion_tokens = (tokens if isinstance(tokens, int) else None for tokens in used)
    return Completion(text, raw, prompt_tokens, completion_tokens)


def _text_of(message: Any) -> str:
    """The text of a message, whose content is a string or a list of parts; some servers put it beside the content."""
    for content in (message.content, *(getattr(message, name, None) for name in ("reasoning_content", "reasoning"))):
        parts = content if isinstance(content, list) else [content]
        texts = [part.get("text") if isinstance(part, dict) else getattr(part, "text", part) for part in parts]
        text = "".join(one for one in texts if isinstance(one, str))
        if text:
            return text
    return ""


def _error_inside(completion: Any, raw: str) -> BackendError:
    """The error of a response that says 200 but holds no choices: gateways wrap the failures of their servers so."""
    error = getattr(completion, "error", None)
    if not isinstance(error, dict):
        return BackendError(f"no choices in the response: {raw}", retry=True)
    code = str(error.get("code") or "")
    status = int(code) if code.isdecimal() else 500
    message = str(error.get("message") or error)
    return BackendError(
        f"error {code} in the response: {message}",
        retry=status in RETRY_STATUS or status >= 500,
        fatal=status in FATAL_STATUS,
    )


def _shortened(text: str) -> str:
    return " ".join(text.split())[:MAX_REASON]


def _message(error: APIStatusError) -> str:
    """The server's reason, also from a body in another form than OpenAI's."""
    message = str(error.message)
    return error.response.text if message == f"Error code: {error.status_code}" else message


def _status_error(error: APIStatusError) -> BackendError:
    status = error.status_code
    message = f"{status}: {_message(error)}"
    retry = status in RETRY_STATUS and not _out_of_credit(error)
    return BackendError(message, retry=retry, fatal=status in FATAL_STATUS or _out_of_credit(error), wait=_wait(error))


def _out_of_credit(error: APIStatusError) -> bool:
    """Whether the account has no credit: OpenAI returns 429 both for that and for too many requests."""
    return getattr(error, "code", None) == "insufficient_quota"


def _wait(error: APIStatusError) -> float | None:
    try:
        return max(float(error.response.headers.get("retry-after", "")), 0.0)
    except ValueError:  # none, or a date
        return None
