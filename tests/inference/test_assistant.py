"""Conversations: nothing is encoded twice, markup is never shown, and a batch gives the same replies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from amodal.errors import InputError
from amodal.inference.assistant import AmodalAssistant, Reply
from amodal.inference.scene import Scene
from amodal.inference.scene_object import SceneObject
from amodal.models.aura.generation import AnswerStream
from amodal.models.aura.prompts import TextPart, answer_parts, phrases, turn_template
from tests.models.aura import ANSWER, random_image, small_aura, small_mllm

QUESTION = "What could I drink from?"
SPOKEN = "You could use the mug, behind two books."


@pytest.fixture
def assistant(tmp_path: Path) -> AmodalAssistant:
    return AmodalAssistant(small_aura(tmp_path))


def count_calls(module: torch.nn.Module) -> list[int]:
    """A list to which the batch size of each call of `module` is appended."""
    calls: list[int] = []
    module.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0]) if inputs else 1))
    return calls


def assert_same(a: Reply, b: Reply) -> None:
    assert a.text == b.text
    assert [obj.phrase for obj in a.scene.objects] == [obj.phrase for obj in b.scene.objects]
    for one, other in zip(a.scene.objects, b.scene.objects, strict=True):
        np.testing.assert_array_equal(one.amodal_mask, other.amodal_mask)
        np.testing.assert_array_equal(one.visible_mask, other.visible_mask)


def test_a_reply_has_text_objects_and_phrases(assistant: AmodalAssistant) -> None:
    reply = assistant.ask(random_image(), QUESTION, answer=ANSWER)
    assert reply.text == SPOKEN
    assert [obj.phrase for obj in reply.scene.objects] == ["the mug", "two books", "two books"]
    assert reply.scene.size == (40, 56)
    assert (reply.scene.question, reply.scene.answer) == (QUESTION, SPOKEN)
    assert reply.occlusion_rates is not None and len(reply.occlusion_rates) == 3
    for obj in reply.scene.objects:
        assert not (obj.visible_mask & ~obj.amodal_mask).any()


def test_an_answer_without_objects_has_no_masks(assistant: AmodalAssistant) -> None:
    decoder = count_calls(assistant.model.amodal_decoder)
    reply = assistant.ask(random_image(), QUESTION, answer="There is none.")
    assert (reply.text, reply.scene.objects, reply.occlusion_rates) == ("There is none.", [], ())
    assert decoder == []


def test_later_turns_call_no_vision_encoder_and_process_new_tokens_only(
    assistant: AmodalAssistant, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = assistant.model
    tower, encode = count_calls(model.mllm.model.vision_tower), model.encode_image
    backbone: list[int] = []
    monkeypatch.setattr(model, "encode_image", lambda pixels: (backbone.append(len(pixels)), encode(pixels))[1])
    widths: list[int] = []
    model.mllm.get_input_embeddings().register_forward_hook(lambda _, inputs, __: widths.append(inputs[0].shape[1]))
    chat = assistant.chat(random_image())
    chat.ask(QUESTION, max_new_tokens=6)
    assert (len(tower), len(backbone)) == (1, 1)
    first = widths[0]
    for _ in range(3):
        widths.clear()
        chat.ask("What is behind it?", max_new_tokens=6)
        assert (len(tower), len(backbone)) == (1, 1)
        assert max(widths) < first  # no image tokens among them
        assert len(widths) <= 6
    assert len(chat.replies) == 4


def test_the_kept_cache_gives_the_same_answer_as_the_whole_history(assistant: AmodalAssistant) -> None:
    """Turn 2 of a chat equals one forward pass over the whole history."""
    chat = assistant.chat(random_image())
    chat.ask(QUESTION, answer=ANSWER)
    reply = chat.ask("What is behind it?", max_new_tokens=8)
    dialogue: Any = chat._dialogue
    history = dialogue.tokens
    inputs = assistant.processor([random_image()], [QUESTION]).mllm
    with torch.no_grad():
        logits = assistant.model.mllm(
            input_ids=history, attention_mask=torch.ones_like(history), pixel_values=inputs["pixel_values"]
        ).logits
    said = history[0, -9:].tolist()
    greedy = logits[0, -10:-1].argmax(-1).tolist()
    ends = assistant.processor.end_token_ids
    agree = [a == b for a, b in zip(greedy, said, strict=True) if b not in ends]
    assert agree and all(agree)
    assert reply is chat.replies[1]


def test_a_batch_gives_the_same_replies_as_single_questions(assistant: AmodalAssistant) -> None:
    pairs = [(random_image(0), QUESTION), (random_image(1, 60, 30), "Is there anything to sit on, perhaps a chair?")]
    for alone, together in zip(pairs, assistant.ask_batch(pairs, max_new_tokens=10), strict=True):
        assert_same(assistant.ask(*alone, max_new_tokens=10), together)
    assert assistant.ask_batch([]) == []


def test_conversations_of_different_lengths_in_one_batch(assistant: AmodalAssistant) -> None:
    asked = [
        (random_image(0), [QUESTION, "What is behind it?", "And more?"]),
        (random_image(1), ["What is it, and where?"]),
    ]
    together = assistant.converse(asked, max_new_tokens=7)
    assert [len(replies) for replies in together] == [3, 1]
    for (image, questions), replies in zip(asked, together, strict=True):
        chat = assistant.chat(image)
        for question, reply in zip(questions, replies, strict=True):
            assert_same(chat.ask(question, max_new_tokens=7), reply)


def test_given_answers_in_one_batch(assistant: AmodalAssistant) -> None:
    answers = [[ANSWER, "It is <p>a mug</p> [SEG]."], ["There is none."]]
    asked = [(random_image(0), [QUESTION, "What is behind it?"]), (random_image(1), [QUESTION])]
    together = assistant.converse(asked, answers=answers)
    assert [[len(r.scene.objects) for r in replies] for replies in together] == [[3, 1], [0]]
    chat = assistant.chat(random_image(0))
    for question, answer, reply in zip(asked[0][1], answers[0], together[0], strict=True):
        assert_same(chat.ask(question, answer=answer), reply)
    with pytest.raises(InputError, match=r"answers: expected one per question, got \[1\] for \[2\]"):
        assistant.converse(asked[:1], answers=[[ANSWER]])
    with pytest.raises(InputError, match="question: expected at least one per conversation"):
        assistant.converse([(random_image(), [])])


def test_streamed_parts_make_up_the_reply(assistant: AmodalAssistant) -> None:
    parts: list[TextPart] = []
    reply = assistant.ask(random_image(), QUESTION, answer=ANSWER, on_part=parts.append)
    assert "".join(part.text for part in parts) == reply.text == SPOKEN
    assert [number for part in parts for number in part.objects] == [0, 1, 2]
    named = {part.text: part.objects for part in parts if part.objects}
    assert named["the mug"] == (0,)
    assert not any(mark in part.text for part in parts for mark in ("<", ">", "[SEG]"))
    assert len(parts) > 5


@pytest.mark.parametrize("step", [1, 3])
def test_incomplete_markup_is_held_back(step: int) -> None:
    parts: list[TextPart] = []
    stream = AnswerStream("[SEG]", parts.append)
    for end in range(step, len(ANSWER) + step, step):
        stream.push(ANSWER[:end])
    stream.push(ANSWER, complete=True)
    assert "".join(part.text for part in parts) == SPOKEN
    assert sorted(number for part in parts for number in part.objects) == [0, 1, 2]


@pytest.mark.parametrize(
    ("text", "spoken", "named"),
    [
        (ANSWER, SPOKEN, ["the mug", "two books", "two books"]),
        ("Nothing here.", "Nothing here.", []),
        ("It is the cup [SEG].", "It is the cup.", [None]),
        ("[SEG]", "", [None]),
        ("<p>A cat</p> [SEG] and <p>a dog</p>[SEG]", "A cat and a dog", ["A cat", "a dog"]),
        ("<p>never closed [SEG].", "never closed.", [None]),
        ("<p>a mug</p> alone", "a mug alone", []),
    ],
)
def test_markup_is_never_shown(text: str, spoken: str, named: list[str | None]) -> None:
    parts = answer_parts(text, "[SEG]")
    assert "".join(part.text for part in parts) == spoken
    assert phrases(parts) == named


def test_a_refused_question_does_not_change_the_conversation(assistant: AmodalAssistant) -> None:
    chat, other = assistant.chat(random_image()), assistant.chat(random_image())
    for one in (chat, other):
        one.ask(QUESTION, max_new_tokens=5)
    for bad, message in (
        ("  ", "question: expected words, got an empty one"),
        ("x" * 1001, "question: expected at most 1000 characters, got 1001"),
        ("Is it [SEG]?", "question: expected text without"),
    ):
        with pytest.raises(InputError, match=message):
            chat.ask(bad)
    with pytest.raises(InputError, match="conversation: expected at most 2048 tokens"):
        chat.ask("And more?", max_new_tokens=2040)
    assert_same(chat.ask("What is behind it?", max_new_tokens=5), other.ask("What is behind it?", max_new_tokens=5))


def test_an_interrupted_answer_does_not_change_the_conversation(assistant: AmodalAssistant) -> None:
    chat, other = assistant.chat(random_image()), assistant.chat(random_image())
    for one in (chat, other):
        one.ask(QUESTION, max_new_tokens=5)

    def stop(_: TextPart) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        chat.ask("And more?", answer=ANSWER, on_part=stop)
    assert_same(chat.ask("What is behind it?", max_new_tokens=5), other.ask("What is behind it?", max_new_tokens=5))


def test_unreadable_image_and_missing_processor_are_refused(assistant: AmodalAssistant, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="image: expected a file"):
        assistant.chat(tmp_path / "none.jpg")
    assistant.model.processor = None
    with pytest.raises(InputError, match="expected an AuraModel with its processor"):
        AmodalAssistant(assistant.model)


def test_a_loaded_assistant_gives_the_same_answers(assistant: AmodalAssistant, tmp_path: Path) -> None:
    before = assistant.ask(random_image(), QUESTION, max_new_tokens=8)
    given = assistant.ask(random_image(), QUESTION, answer=ANSWER)
    assistant.model.save_pretrained(tmp_path / "aura")
    again = AmodalAssistant.from_pretrained(tmp_path / "aura", device="cpu", dtype="float32")
    assert again.ask(random_image(), QUESTION, max_new_tokens=8).text == before.text
    assert_same(again.ask(random_image(), QUESTION, answer=ANSWER), given)
    narrow = AmodalAssistant.from_pretrained(tmp_path / "aura", dtype="bfloat16")
    reply = narrow.ask(random_image(), QUESTION, answer=ANSWER)
    assert len(reply.scene.objects) == 3


def test_the_scene_of_an_answer_is_saved_and_loaded(assistant: AmodalAssistant, tmp_path: Path) -> None:
    scene = assistant.ask(random_image(), QUESTION, answer=ANSWER).scene
    again = Scene.load(scene.save(tmp_path / "out"))
    assert (again.question, again.answer) == (QUESTION, SPOKEN)
    assert [obj.phrase for obj in again.objects] == ["the mug", "two books", "two books"]


def test_the_scene_of_an_answer_names_the_file_of_its_image(assistant: AmodalAssistant, tmp_path: Path) -> None:
    file = tmp_path / "kitchen.png"
    Image.fromarray(random_image()).save(file)
    assert assistant.ask(file, QUESTION, answer=ANSWER).scene.image_path == file
    chat = assistant.chat(str(file))
    assert [chat.ask(QUESTION, answer=ANSWER).scene.image_path for _ in range(2)] == [file, file]
    (replies,) = assistant.converse([(file, [QUESTION, QUESTION])], answers=[[ANSWER, ANSWER]])
    assert [reply.scene.image_path for reply in replies] == [file, file]
    assert assistant.ask(random_image(), QUESTION, answer=ANSWER).scene.image_path is None


LLAVA = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for content in message['content'] if content['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] if content['type'] == 'text' %}{{ content['text'] + ' ' }}{% endfor %}"
    "{% endfor %}"
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% for c in m['content'] %}{{ '<image>' if c['type'] == 'image' else c['text'] }}{% endfor %}<|im_end|>\n"
    "{% endfor %}"
)


def test_text_around_questions_follows_the_chat_template() -> None:
    processor = small_mllm().processor
    llava = turn_template(processor, LLAVA)
    assert llava.prompt("Q?", first=True) == "USER: <image>\nQ? ASSISTANT:"
    assert llava.prompt("Q?", first=False) == " USER: Q? ASSISTANT:"
    assert llava.end == "</s>"
    processor.tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    chatml = turn_template(processor, CHATML)
    assert chatml.prompt("Q?", first=True) == "<|im_start|>user\n<image>Q?<|im_end|>\n<|im_start|>assistant\n"
    assert chatml.prompt("Q?", first=False) == "\n<|im_start|>user\nQ?<|im_end|>\n<|im_start|>assistant\n"
    assert chatml.end == "<|im_end|>"
    with pytest.raises(InputError, match="expected a chat template that keeps questions and answers"):
        turn_template(processor, "{{ 'nothing' }}")
    processor.tokenizer.eos_token = None
    with pytest.raises(InputError, match="expected a tokenizer with an end token"):
        turn_template(processor)


def test_a_reply_has_its_confidence_and_the_predicted_rates(assistant: AmodalAssistant, tmp_path: Path) -> None:
    """By hand: the smallest probability of the answer's tokens in one forward pass over question and answer."""
    image = random_image()
    chat = assistant.chat(image)
    reply = chat.ask(QUESTION, answer=ANSWER)
    processor = assistant.processor
    inputs = processor([image], [QUESTION]).mllm
    said = torch.tensor([processor.answer_tokens(ANSWER)])
    tokens = torch.cat([inputs["input_ids"], said], dim=1)
    with torch.no_grad():
        logits = assistant.model.mllm(input_ids=tokens, pixel_values=inputs["pixel_values"]).logits
    chances = logits[:, -said.shape[1] - 1 : -1].log_softmax(-1).gather(-1, said[..., None])
    assert reply.confidence == pytest.approx(float(chances.min().exp()), abs=1e-5)
    assert reply.is_unsure == (reply.confidence < 0.5)
    assert reply.occlusion_rates == tuple(obj.predicted_occlusion_rate for obj in reply.scene)
    reply.scene.save(tmp_path / "out")
    again = Scene.load(tmp_path / "out")
    assert again.confidence == reply.confidence
    assert [obj.predicted_occlusion_rate for obj in again] == [*reply.occlusion_rates]  # type: ignore[misc]


def test_confidences_of_a_batch_equal_single_ones(assistant: AmodalAssistant) -> None:
    pairs: list[Any] = [(random_image(0), QUESTION), (random_image(1), "Is there anything to sit on?")]
    together = assistant.ask_batch(pairs, max_new_tokens=8)
    alone = [assistant.ask(*pair, max_new_tokens=8) for pair in pairs]
    assert [r.confidence for r in together] == pytest.approx([r.confidence for r in alone], abs=1e-4)


def test_masks_without_a_question_have_no_predicted_rate() -> None:
    mask = np.ones((4, 4), bool)
    scene = Scene([SceneObject.from_masks(mask, mask)], (4, 4))
    content = scene.to_json()
    assert "confidence" not in content
    assert "predicted_occlusion_rate" not in content["objects"][0]
