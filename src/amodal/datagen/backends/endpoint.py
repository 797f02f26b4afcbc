"""The backend that asks a vision-language model about each image."""

from __future__ import annotations

from typing import Any

from amodal.datagen.backends.base import BackendReply, UsageEstimate, WritingTask
from amodal.datagen.backends.client import ChatClient, Endpoint, Message
from amodal.datagen.prompt import Prompt, describe, image_url, make_prompt, response_format

# Upper estimates for the budget, used where the server reports no usage. English text has about four characters
# per token; an image of 1,024 pixels costs hosted models between 765 and 1,600 tokens.
CHARACTERS_PER_TOKEN = 3
IMAGE_TOKENS = 1_600


class OpenAIBackend:
    """Asks a vision-language model at an endpoint with OpenAI's chat completions.

    Raises:
        InputError: as for `ChatClient`, or there is no prompt file of this version.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._client = ChatClient(endpoint)
        make_prompt("", 1, version=endpoint.prompt)
        self.name = f"openai/{endpoint.model} prompt {endpoint.prompt}"
        self._endpoint = endpoint

    def estimate(self, task: WritingTask) -> UsageEstimate:
        """Upper bounds: three characters per token, and the tokens of a large image."""
        prompt = self.prompt(task)
        text = len(prompt.system) + len(prompt.user) + len(str(response_format()))
        return UsageEstimate(text // CHARACTERS_PER_TOKEN + IMAGE_TOKENS, self._endpoint.max_tokens)

    async def ask(self, task: WritingTask) -> BackendReply:
        """Send one request; the caller decides about retries."""
        found = await self._client.complete(lambda: self._message(task))
        prompt_tokens, completion_tokens = found.prompt_tokens, found.completion_tokens
        if prompt_tokens is None or completion_tokens is None:
            prompt_tokens = self.estimate(task).prompt_tokens
            completion_tokens = len(found.text) // CHARACTERS_PER_TOKEN
        return BackendReply(found.text, found.raw, prompt_tokens, completion_tokens)

    async def close(self) -> None:
        """Close connections."""
        await self._client.close()

    def prompt(self, task: WritingTask) -> Prompt:
        """The text that is sent with the image."""
        summary = describe(task.image, task.categories)
        version, kept = self._endpoint.prompt, [draft.question for draft in task.kept]
        return make_prompt(summary, task.count, task.rejected, kept, task.complaint, version)

    def _message(self, task: WritingTask) -> Message:
        prompt, endpoint = self.prompt(task), self._endpoint
        url = image_url(task.image, outlines=endpoint.outlines, max_side=endpoint.max_side)
        content: list[dict[str, Any]] = [
            {"type": "text", "text": prompt.user},
            {"type": "image_url", "image_url": {"url": url}},
        ]
        return Message(prompt.system, content, response_format(), task.key)
