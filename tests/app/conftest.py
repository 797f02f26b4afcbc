"""The web page in headless Chromium, for the tests of this folder; needs Chromium on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.app import browser as web
from tests.app.test_demo import Assistant


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with web.serving(Assistant()) as place:
        yield place


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with web.chromium() as browser:
        yield browser


@pytest.fixture(params=list(web.SIZES))
def page(request: pytest.FixtureRequest, browser: Any, address: str) -> Iterator[Any]:
    with web.opened(browser, address, web.SIZES[request.param], request.param == "phone") as page:
        yield page


@pytest.fixture
def desktop(browser: Any, address: str) -> Iterator[Any]:
    with web.opened(browser, address, web.SIZES["desktop"]) as page:
        yield page
