"""Ask `aura-small` twelve questions about six photographs, and talk to it: python docs/make_answers.py.

The questions were written before any answer was seen. Prints the transcripts and draws the answers that have masks.
"""

from __future__ import annotations

from pathlib import Path

from make_photographs import ROOT, WIDTH, photographs
from PIL import Image

from amodal import AmodalAssistant

QUESTIONS = {
    "cat": ("Where is the cat?", "Is there a dog in this image?"),
    "coffee": ("What could I drink from?", "Show me the whole spoon."),
    "astronaut": ("Where is the person?", "Hello!"),
    "officer": ("Can you see any person?", "Is anything in front of the person?"),
    "pagoda": ("Where is the boat?", "What is in this image?"),
    "photographer": ("Show me the person.", "What covers the person?"),
}

SMALL_TALK = (
    "Hello!", "Hi there", "Good morning", "Hey, how are you?",
    "Thank you!", "Thanks a lot, that helped.", "Great, thanks",
    "Goodbye", "See you later", "Bye, have a nice day",
    "Who are you?", "What is your name?", "Are you a human?", "What can you do?", "How can you help me?",
    "What is in this image?", "Please describe it.", "What do you see?", "How many objects are there?",
    "Tell me about this photograph.",
)  # fmt: skip
"""To be answered without a mask, each in a conversation of its own about one of the photographs in turn."""


def main(model: str = "aura-small", folder: Path = ROOT / "docs/images/answers") -> None:
    """Write one image per answer with masks, and print questions, answers, occlusion rates and confidences."""
    folder.mkdir(parents=True, exist_ok=True)
    assistant = AmodalAssistant.from_pretrained(model, device="cpu")
    for name, (pixels, _) in photographs().items():
        chat = assistant.chat(pixels) if name in QUESTIONS else None
        for number, question in enumerate(QUESTIONS.get(name, ()), 1):
            assert chat is not None
            reply = chat.ask(question)
            rates = ", ".join(f"{obj.occlusion_rate:.0%}" for obj in reply.scene.objects)
            print(f"{name}: {question} — {reply.text} ({rates or 'no mask'}; confidence {reply.confidence:.2f})")
            if reply.scene.objects:
                drawn = Image.fromarray(reply.scene.draw())
                drawn.thumbnail((WIDTH, WIDTH))
                drawn.save(folder / f"{name}_{number}.jpg", quality=85)
    asked = [pixels for name, (pixels, _) in photographs().items() if name in QUESTIONS]
    for number, question in enumerate(SMALL_TALK):
        reply = assistant.chat(asked[number % len(asked)]).ask(question)
        print(f"{question} — {reply.text} ({len(reply.scene.objects)} masks; confidence {reply.confidence:.2f})")


if __name__ == "__main__":
    main()
