"""People on the review page, each in a separate browser."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def launched() -> Iterator[Any]:
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@contextmanager
def served(work: Path, *options: str) -> Iterator[str]:
    """Run the command that serves the page on a free port; yields its link, and stops it by Ctrl+C."""
    command = [sys.executable, "-u", "-m", "amodal", "reasonseg", "review", "serve", str(work), "--port", "0", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout and process.stderr
    try:
        line = process.stdout.readline()
        assert line.startswith("Review: http://"), process.stderr.read()
        yield line.split()[1]
    finally:
        process.send_signal(signal.SIGINT)
        rest, stderr = process.communicate(timeout=20)
    assert rest.splitlines()[-1:] == ["Stopped."]
    assert (stderr, process.returncode) == ("", 0)


class Person:
    """A person on the page, in a separate browser."""

    def __init__(self, browser: Any, link: str, name: str, **options: Any) -> None:
        self.errors: list[str] = []
        self.hosts: set[str] = set()
        self.page = browser.new_context(viewport={"width": 1280, "height": 800}, **options).new_page()
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: self.errors.append(dialog.message))
        self.page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))
        self.page.goto(link)
        self.page.fill("#name", name)
        self.page.keyboard.press("Enter")

    def _note(self, message: Any) -> None:
        if message.type in ("error", "warning") and "getImageData" not in message.text:  # caused by tests
            self.errors.append(message.text)

    def sees(self, pair: int) -> Person:
        """Wait until a pair is shown."""
        self.page.wait_for_selector(f'#canvas[data-drawn^="{pair} "]')
        return self

    def press(self, *keys: str) -> Person:
        for key in keys:
            self.page.wait_for_selector("body:not(.busy)")
            self.page.keyboard.press(key)
        return self

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector))

    def is_done(self) -> bool:
        self.page.wait_for_selector("#done:not([hidden])")
        return True
