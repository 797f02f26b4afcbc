"""Any endpoint that speaks OpenAI's chat completions: hosted models, vLLM, `transformers serve`, ..."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from amodal.datagen.backends.base import Answer, BackendError, Estimate, Task
from amodal.datagen.describe import describe, picture_url
from amodal.datagen.prompt import PROMPT_VERSION, Prompt, make_prompt, response_format
from amodal.errors import InputError

if TYPE_CHECKING:
    from openai import APIStatusError

Structured = Literal["schema", "json", "none"]

RETRY_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
FATAL_STATUS = frozenset({401, 402, 403, 404, 405})
# Upper estimates for budgets, used where no usage is reported. English text has about four characters
# a token; a picture of 1,024 pixels costs hosted models between 765 and 1,600 tokens.
CHARACTERS_A_TOKEN = 3
PICTURE_TOKENS = 1_600


@dataclass(frozen=True)
class Endpoint:
    """Where and how to ask.

    Attributes:
        model: name the server knows.
        base_url: of the server, ending in `/v1`; OpenAI's own if None.
        key_variable: environment variable with the key; a local server may need none.
        timeout: seconds to wait for an answer.
        structured: ask for answers by JSON `schema`, for any `json`, or only in words (`none`).
        max_tokens: of an answer.
        temperature: the server's default if None.
        outlines: draw the objects' numbers on the picture.
        max_side: of the picture sent, in pixels.
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
        InputError: the package is not installed, there is no key, or the endpoint's settings
            make no sense.
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
        _ = self._client.chat.completions  # imported on first use: a second that would hold up all requests

    def estimate(self, task: Task) -> Estimate:
        """Upper bounds: three characters a token, and what a large picture costs."""
        prompt = self.prompt(task)
        text = len(prompt.system) + len(prompt.user) + len(str(response_format()))
        return Estimate(text // CHARACTERS_A_TOKEN + PICTURE_TOKENS, self._endpoint.max_tokens)

    async def ask(self, task: Task) -> Answer:
        """Send one request; retries are up to the caller."""
        import openai

        arguments = await asyncio.to_thread(self._arguments, task)
        headers = {"Idempotency-Key": task.key}
        try:
            answering = self._client.chat.completions.create(**arguments, extra_headers=headers)
            # The client's own limit starts anew with each byte; this one is for the whole answer.
            completion = await asyncio.wait_for(answering, self._endpoint.timeout)
        except openai.APIStatusError as error:
            raise _status_error(error) from error
        except openai.APIResponseValidationError as error:
            raise BackendError(f"unreadable response: {error}", retry=True) from error
        except (openai.APIConnectionError, asyncio.TimeoutError) as error:
            reason = " ".join(str(error.__cause__ or error).split()) or f"none within {self._endpoint.timeout:g} s"
            raise BackendError(f"no answer: {reason}", retry=True) from error
        except ValueError as error:  # a body that is not JSON at all
            raise BackendError(f"unreadable response: {error}", retry=True) from error
        return self._answer(completion, task)

    async def close(self) -> None:
        """Close connections."""
        await self._client.close()

    def prompt(self, task: Task) -> Prompt:
        """The text that is sent with the picture."""
        summary = describe(task.image, task.categories)
        version = self._endpoint.prompt
        return make_prompt(summary, task.count, task.rejected, task.kept, task.complaint, version)

    def _arguments(self, task: Task) -> dict[str, Any]:
        prompt, endpoint = self.prompt(task), self._endpoint
        picture = picture_url(task.image, outlines=endpoint.outlines, max_side=endpoint.max_side)
        content = [{"type": "text", "text": prompt.user}, {"type": "image_url", "image_url": {"url": picture}}]
        messages = [{"role": "system", "content": prompt.system}, {"role": "user", "content": content}]
        # OpenAI renamed the limit; other servers still know it by its first name.
        limit = "max_completion_tokens" if endpoint.base_url is None else "max_tokens"
        arguments: dict[str, Any] = {"model": endpoint.model, "messages": messages, limit: endpoint.max_tokens}
        if endpoint.temperature is not None:
            arguments["temperature"] = endpoint.temperature
        if endpoint.structured == "schema":
            arguments["response_format"] = response_format()
        elif endpoint.structured == "json":
            arguments["response_format"] = {"type": "json_object"}
        return arguments

    def _answer(self, completion: Any, task: Task) -> Answer:
        """The text of a completion; a server may send anything, so nothing is taken for granted."""
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
            used = (guess.prompt_tokens, len(text) // CHARACTERS_A_TOKEN)
        return Answer(text, raw, int(used[0] or 0), int(used[1] or 0))


def _status_error(error: APIStatusError) -> BackendError:
    status = error.status_code
    said = str(error.message)
    if said == f"Error code: {status}":  # a body of another form than OpenAI's, with the reason all the same
        said = error.response.text
    message = f"{status}: {' '.join(said.split())[:300]}"
    retry = status in RETRY_STATUS and not _out_of_credit(error)
    return BackendError(message, retry=retry, fatal=status in FATAL_STATUS or _out_of_credit(error), wait=_wait(error))


def _out_of_credit(error: APIStatusError) -> bool:
    """OpenAI answers 429 both to haste and to an account without money; only haste passes."""
    return getattr(error, "code", None) == "insufficient_quota"


def _wait(error: APIStatusError) -> float | None:
    try:
        return max(float(error.response.headers.get("retry-after", "")), 0.0)
    except ValueError:  # none, or a date
        return None
