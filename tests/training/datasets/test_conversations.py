"""Training sequences of AURA: tokens with their labels and masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from amodal.data.reason_seg import read_reason_seg
from amodal.errors import InputError
from amodal.losses import IGNORE_INDEX
from amodal.models.aura import AuraModel, AuraProcessor
from amodal.training.datasets.conversations import FeatureCache, ImageConversations, collate_conversations, decisions
from amodal.training.datasets.sampling import ReasonSource
from tests.data.toy import write_toy
from tests.models.aura import small_aura, small_mllm

QUESTIONS = [
    {"id": 1, "image_id": 1, "question": "What is red?", "answer": "It is <p>the red one</p> {seg:1}."},
    {"id": 2, "image_id": 1, "question": ["What hides it?", "And what else?"],
     "answer": ["<p>The green one</p> {seg:2}, in front of <p>the red one</p> {seg:1}.", "Nothing else."]},
    {"id": 3, "image_id": 2, "question": "Is there a cat?", "answer": "There is none."},
]  # fmt: skip


def write_questions(folder: Path, questions: list[dict[str, Any]] = QUESTIONS) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "questions.json").write_text(json.dumps(questions))
    return folder / "questions.json"


def source(folder: Path) -> ReasonSource:
    annotations = write_toy(folder / "toy")
    dataset = read_reason_seg(write_questions(folder), annotations)
    return ReasonSource(dataset, classes={key: key for key in dataset.categories})


@pytest.fixture
def processor() -> AuraProcessor:
    loaded = small_mllm()
    loaded.processor.tokenizer.add_tokens(["[SEG]"], special_tokens=True)
    return AuraProcessor(loaded.processor, image_size=64)


def conversations(folder: Path, processor: AuraProcessor, **options: Any) -> ImageConversations:
    return ImageConversations([source(folder)], processor, **({"max_turns": 8, "max_tokens": 400} | options))


def test_a_sequence_contains_all_conversations_about_an_image(tmp_path: Path, processor: AuraProcessor) -> None:
    data = conversations(tmp_path, processor)
    assert data.lengths == [2]
    row = data[(0, 0, (0,))]["row"]
    text = processor.tokenizer.decode(row["input_ids"][0])
    for words in ("What is red?", "What hides it?", "And what else?", "Nothing else."):
        assert text.count(words) == 1
    assert data.describe((0, 0, (0,)))["conversations"] == [1, 2]


def test_labels_are_the_answers_and_their_end_tokens(tmp_path: Path, processor: AuraProcessor) -> None:
    row = conversations(tmp_path, processor)[(0, 0, (0,))]["row"]
    labels, tokens = row["labels"][0], row["input_ids"][0]
    assert torch.equal(labels[labels != IGNORE_INDEX], tokens[labels != IGNORE_INDEX])
    answers = processor.tokenizer.decode(labels[labels != IGNORE_INDEX])
    assert answers.count("</s>") == 3
    assert "What" not in answers
    assert int((labels == processor.seg_token_id).sum()) == 3


def test_masks_follow_the_mask_tokens(tmp_path: Path, processor: AuraProcessor) -> None:
    """Both orders of the conversations occur, and the masks are always in the order of the words."""
    data = conversations(tmp_path, processor)
    red = data.sources[0].dataset.conversations[0].image.objects[0]
    orders = set()
    for seed in range(8):
        item = data[(0, 0, (seed,))]
        text = processor.decode(item["row"]["labels"][0][item["row"]["labels"][0] != IGNORE_INDEX].tolist())
        words = ["red" if "red" in piece else "green" for piece in text.split("[SEG]")[:-1]]
        found = [
            "red" if torch.equal(m, torch.from_numpy(processor.mask_sam(red.amodal_mask()))) else "green"
            for m in item["amodal_masks"]
        ]
        assert found == words
        orders.add(tuple(found))
    assert len(orders) == 2


def test_turns_tokens_and_masks_are_limited(tmp_path: Path, processor: AuraProcessor) -> None:
    full = conversations(tmp_path, processor)[(0, 0, (0,))]["row"]["input_ids"].shape[1]
    one = conversations(tmp_path / "a", processor, max_turns=1)[(0, 0, (0,))]
    assert int((one["row"]["labels"] == processor.end_token_id).sum()) == 1
    short = conversations(tmp_path / "b", processor, max_tokens=full - 1)[(0, 0, (0,))]
    assert int((short["row"]["labels"] == processor.end_token_id).sum()) == 2
    few = conversations(tmp_path / "c", processor, max_masks=1)[(0, 0, (0,))]
    assert (len(few["visible_masks"]), int(few["chosen"].sum()), len(few["chosen"])) == (1, 1, 3)
    with pytest.raises(InputError, match="max_tokens: expected room for an image, a question and an answer"):
        conversations(tmp_path / "d", processor, max_tokens=20)[(0, 0, (0,))]


def test_conversations_are_limited(tmp_path: Path, processor: AuraProcessor) -> None:
    """Each of the two about the image occurs alone, with all of its turns."""
    data = conversations(tmp_path, processor, max_conversations=1)
    texts = {processor.tokenizer.decode(data[(0, 0, (seed,))]["row"]["input_ids"][0]) for seed in range(8)}
    found = {tuple(q in text for q in ("What is red?", "What hides it?", "And what else?")) for text in texts}
    assert found == {(True, False, False), (False, True, True)}


def test_separate_conversations_are_read_as_if_each_were_alone(tmp_path: Path) -> None:
    """The language model predicts the same answers in one sequence as in one sequence per conversation."""
    model = small_aura(tmp_path).double()
    alone = conversations(tmp_path / "a", model.processor, max_conversations=1)
    together = conversations(tmp_path / "b", model.processor, separate=True)
    expected = {}
    for seed in range(8):
        logits, targets = answers(model, alone[(0, 0, (seed,))])
        expected[tuple(targets.tolist())] = logits
    assert len(expected) == 2
    for seed in range(4):
        logits, targets = answers(model, together[(0, 0, (seed,))], together[(0, 1, (0,))])
        assert len(targets) == sum(len(key) for key in expected)
        for key, value in expected.items():
            torch.testing.assert_close(logits[of_answers(key, targets)], value, atol=1e-9, rtol=0)
    mixed = conversations(tmp_path / "c", model.processor)
    logits, targets = answers(model, mixed[(0, 0, (0,))])
    equal = [torch.allclose(logits[of_answers(key, targets)], value, atol=1e-4) for key, value in expected.items()]
    assert sorted(equal) == [False, True], "without it, the second conversation reads the first"


def of_answers(key: tuple[int, ...], targets: torch.Tensor) -> slice:
    """Where the tokens of one conversation's answers are among those of all."""
    tokens = targets.tolist()
    start = next(i for i in range(len(tokens)) if tuple(tokens[i : i + len(key)]) == key)
    return slice(start, start + len(key))


def answers(model: AuraModel, *items: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and tokens of the answers of the first sequence of a batch."""
    batch = collate_conversations(list(items))
    names = {"visible_masks", "amodal_masks", "has_amodal"}
    batch = {k: v.double() if v.is_floating_point() else v for k, v in batch.items() if k not in names}
    with torch.no_grad():
        output = model(**batch)
    is_answer = output.targets[0] != IGNORE_INDEX
    return output.logits[0][is_answer], output.targets[0][is_answer]


def test_a_batch_is_padded_and_concatenated(tmp_path: Path, processor: AuraProcessor) -> None:
    data = conversations(tmp_path, processor)
    batch = collate_conversations([data[(0, 0, (0,))], data[(0, 1, (0,))]])
    assert batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape
    ends = batch["attention_mask"].sum(1)
    assert ends[1] < ends[0] == batch["input_ids"].shape[1]
    assert (batch["labels"][1, ends[1] :] == IGNORE_INDEX).all()
    assert batch["visible_masks"].shape == (3, 64, 64)
    assert batch["pixel_values_sam"].shape == (2, 3, 64, 64)
    assert batch["pixel_values"].shape == (2, 3, 32, 32)


def test_boxes_are_those_of_the_masks_and_some_are_hints(tmp_path: Path, processor: AuraProcessor) -> None:
    data = conversations(tmp_path, processor, hint_share=0.5)
    errors, hinted = [], []
    for seed in range(30):
        item = data[(0, 0, (seed,))]
        for mask, box, hint in zip(
            item["visible_masks"], item["visible_boxes_xyxy_sam"], item["box_hints_xyxy_sam"], strict=True
        ):
            rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
            edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert (box * 64).tolist() == [float(edge) for edge in edges]
            hinted.append(not hint.isnan().any())
            errors += [(hint - box).abs().max()] if hinted[-1] else []
    assert 0.3 < np.mean(hinted) < 0.7
    assert 0 < np.mean(errors) < 0.1
    never = conversations(tmp_path / "never", processor, hint_share=0.0)[(0, 0, (1,))]["box_hints_xyxy_sam"]
    assert never.isnan().all()
    few = conversations(tmp_path / "few", processor, hint_share=0.5, max_masks=1)[(0, 0, (0,))]
    lengths = [len(few[name]) for name in ("visible_boxes_xyxy_sam", "chosen", "box_hints_xyxy_sam", "visible_masks")]
    assert lengths == [3, 3, 1, 1]


def test_a_sample_depends_only_on_its_key(tmp_path: Path, processor: AuraProcessor) -> None:
    data = conversations(tmp_path, processor, max_masks=2)
    a, b = data[(0, 0, (4, 2))], data[(0, 0, (4, 2))]
    assert torch.equal(a["row"]["input_ids"], b["row"]["input_ids"])
    assert torch.equal(a["chosen"], b["chosen"])


def test_features_are_computed_once(tmp_path: Path, processor: AuraProcessor) -> None:
    cache = FeatureCache(tmp_path / "features", "backbone")
    data = conversations(tmp_path, processor, features=cache)
    calls = []

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        calls.append(pixels)
        return pixels[:, :2, ::8, ::8]

    def prepare(image: Any) -> torch.Tensor:
        return processor.pixels_sam(image.load())

    assert cache.fill(data.images(), prepare, encode) == 2
    assert cache.fill(data.images(), prepare, encode) == 0
    assert len(calls) == 2
    item = data[(0, 0, (0,))]
    assert "pixel_values_sam" not in item
    expected = processor.pixels_sam(data.images()[0].load())[:, :2, ::8, ::8]
    torch.testing.assert_close(item["image_embeddings"], expected, atol=2e-3, rtol=2e-3)
    assert FeatureCache(tmp_path / "features", "another").fill(data.images(), prepare, encode) == 2
    assert not list((tmp_path / "features").rglob("*.writing*"))


def test_sources_without_questions_are_rejected(processor: AuraProcessor) -> None:
    with pytest.raises(InputError, match="expected sources with at least one question"):
        ImageConversations([], processor, max_turns=1, max_tokens=100)


def test_families_number_the_labelled_tokens(tmp_path: Path, processor: AuraProcessor) -> None:
    folder = tmp_path / "named"
    records = [record | {"kind": kind} for record, kind in zip(QUESTIONS, ("use", ["hides", "use"], None), strict=True)]
    del records[2]["kind"]
    folder.mkdir()
    (folder / "questions.json").write_text(json.dumps(records))
    dataset = read_reason_seg(folder / "questions.json", write_toy(tmp_path / "toy"))
    data = ImageConversations([ReasonSource(dataset)], processor, max_turns=8, max_tokens=400, with_families=True)
    assert data.families == ["hides", "other", "use"]
    batch = data.collate([data[(0, 0, (0,))], data[(0, 1, (0,))]])
    families, labels = batch["families"], batch["labels"]
    assert torch.equal(families > 0, labels != IGNORE_INDEX)
    for row, texts in ((0, {1: "The green one", 3: "It is"}), (1, {2: "There is none."})):
        for number, text in texts.items():
            assert text in processor.tokenizer.decode(labels[row][families[row] == number])
    assert "families" not in conversations(tmp_path / "unnamed", processor)[(0, 0, (0,))]["row"]


def test_decisions_are_where_answers_to_the_same_question_differ() -> None:
    answers = [
        ("cat?", [1, 2, 9]),
        ("cat?", [1, 3, 4, 9]),
        ("cat?", [1, 3, 5, 9]),
        ("dog?", [1, 2, 9]),
        ("dog?", [1, 2, 9]),
    ]
    assert decisions(answers) == {"cat?": {(1,), (1, 3)}}


def test_deciding_tokens_are_marked(tmp_path: Path, processor: AuraProcessor) -> None:
    """Only the answers to "Is there a cat?" differ, from their first word on."""
    questions = [
        {"id": 1, "image_id": 1, "question": "What is red?", "answer": "It is <p>the red one</p> {seg:1}."},
        {"id": 2, "image_id": 1, "question": "Is there a cat?", "answer": "<p>The cat</p> {seg:2}."},
        {"id": 3, "image_id": 2, "question": "Is there a cat?", "answer": "There is none."},
    ]
    dataset = read_reason_seg(write_questions(tmp_path, questions), write_toy(tmp_path / "toy"))
    data = ImageConversations([ReasonSource(dataset)], processor, max_turns=8, max_tokens=400, with_decisions=True)
    batch = collate_conversations([data[(0, 0, (0,))], data[(0, 1, (0,))]])
    marked = [batch["labels"][i][batch["deciding"][i]].tolist() for i in range(2)]
    assert marked == [[processor.answer_tokens(words)[0]] for words in ("<p>The cat</p>", "There is none.")]
    assert batch["deciding"].shape == batch["labels"].shape
    assert "deciding" not in conversations(tmp_path / "other", processor)[(0, 0, (0,))]["row"]
