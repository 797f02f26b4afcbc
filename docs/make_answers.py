"""Ask `aura-small` twelve questions about six photographs: python docs/make_answers.py.

The questions were written before any answer was seen. Prints the transcript and draws the answers that have masks.
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


if __name__ == "__main__":
    main()
