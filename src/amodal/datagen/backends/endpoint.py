"""Backend for every endpoint with OpenAI's chat completions: hosted models, vLLM, `transformers serve`, ..."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from amodal.datagen.backends.base import BackendError, BackendReply, UsageEstimate, WritingTask
from amodal.datagen.prompt import PROMPT_VERSION, Prompt, describe, image_url, make_prompt, response_format
from amodal.errors import InputError

if TYPE_CHECKING:
    from openai import APIStatusError

Structured = Literal["schema", "json", "none"]

RETRY_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
FATAL_STATUS = frozenset({401, 402, 403, 404, 405})
# Upper estimates for the budget, used where the server reports no usage. English text has about four characters
# per token; an image of 1,024 pixels costs hosted models between 765 and 1,600 tokens.
CHARACTERS_PER_TOKEN = 3
IMAGE_TOKENS = 1_600


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
    temperature: float | None = None
    outlines: bool = True
    max_side: int = 1024
    prompt: str = PROMPT_VERSION


class OpenAIBackend:
    """Asks a vision-language model through the `openai` client.

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
        make_prompt("", 1, version=endpoint.prompt)
        self.name = f"openai/{endpoint.model} prompt {endpoint.prompt}"
        self._endpoint = endpoint
        self._client = openai.AsyncOpenAI(
            base_url=endpoint.base_url, api_key=key or "none", timeout=endpoint.timeout, max_retries=0
        )
        _ = self._client.chat.completions  # its import takes a second, which would delay all requests

    def estimate(self, task: WritingTask) -> UsageEstimate:
        """Upper bounds: three characters per token, and the tokens of a large image."""
        prompt = self.prompt(task)
        text = len(prompt.system) + len(prompt.user) + len(str(response_format()))
        return UsageEstimate(text // CHARACTERS_PER_TOKEN + IMAGE_TOKENS, self._endpoint.max_tokens)

    async def ask(self, task: WritingTask) -> BackendReply:
        """Send one request; the caller decides about retries."""
        import openai

        arguments = await asyncio.to_thread(self._arguments, task)
        headers = {"Idempotency-Key": task.key}
        try:
            awaitable = self._client.chat.completions.create(**arguments, extra_headers=headers)
            # The client's own limit starts again with each byte; this one is for the complete reply.
            completion = await asyncio.wait_for(awaitable, self._endpoint.timeout)
        except openai.APIStatusError as error:
            raise _status_error(error) from error
        except openai.APIResponseValidationError as error:
            raise BackendError(f"unreadable response: {error}", retry=True) from error
        except (openai.APIConnectionError, asyncio.TimeoutError) as error:
            reason = " ".join(str(error.__cause__ or error).split()) or f"none within {self._endpoint.timeout:g} s"
            raise BackendError(f"no answer: {reason}", retry=True) from error
        except ValueError as error:  # a body that is not JSON at all
            raise BackendError(f"unreadable response: {error}", retry=True) from error
        return self._reply(completion, task)

    async def close(self) -> None:
        """Close connections."""
        await self._client.close()

    def prompt(self, task: WritingTask) -> Prompt:
        """The text that is sent with the image."""
        summary = describe(task.image, task.categories)
        version = self._endpoint.prompt
        return make_prompt(summary, task.count, task.rejected, task.kept, task.complaint, version)

    def _arguments(self, task: WritingTask) -> dict[str, Any]:
        prompt, endpoint = self.prompt(task), self._endpoint
        url = image_url(task.image, outlines=endpoint.outlines, max_side=endpoint.max_side)
        content = [{"type": "text", "text": prompt.user}, {"type": "image_url", "image_url": {"url": url}}]
        messages = [{"role": "system", "content": prompt.system}, {"role": "user", "content": content}]
        # OpenAI renamed this limit; other servers still use the old name.
        limit = "max_completion_tokens" if endpoint.base_url is None else "max_tokens"
        arguments: dict[str, Any] = {"model": endpoint.model, "messages": messages, limit: endpoint.max_tokens}
        if endpoint.temperature is not None:
            arguments["temperature"] = endpoint.temperature
        if endpoint.structured == "schema":
            arguments["response_format"] = response_format()
        elif endpoint.structured == "json":
            arguments["response_format"] = {"type": "json_object"}
        return arguments

    def _reply(self, completion: Any, task: WritingTask) -> BackendReply:
        """The text and usage of a completion; nothing about its form is assumed, because a server may send anything."""
        try:
            raw = completion if isinstance(completion, str) else completion.model_dump_json()
            choices = getattr(completion, "choices", None) or []
            text = (choices[0].message.content if choices else None) or ""
        except (AttributeError, TypeError, ValueError) as error:
            raise BackendError(f"unreadable response: {error}", retry=True) from error
        usage = getattr(completion, "usage", None)
        used = (getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None))
        if not all(isinstance(tokens, int) for tokens in used):
            guess = self.estimate(task)
            used = (guess.prompt_tokens, len(text) // CHARACTERS_PER_TOKEN)
        return BackendReply(text, raw, int(used[0] or 0), int(used[1] or 0))


def _status_error(error: APIStatusError) -> BackendError:
    status = error.status_code
    message = str(error.message)
    if message == f"Error code: {status}":  # a body in another form than OpenAI's may still state the reason
        message = error.response.text
    message = f"{status}: {' '.join(message.split())[:300]}"
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
