from __future__ import annotations

import pytest
from hypothesis import settings

# The cores may be shared, so the duration of one example says nothing.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tool", help="run only the tests that need this tool")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that need another tool, unless `--tool` names it or `-m` asks for the marker.

    `@pytest.mark.tools("labelme")` marks a test that needs LabelMe. The marker without a name is for the tests that
    install a tool and then start pytest with `--tool`.
    """
    wanted = config.getoption("--tool")
    installs = "tools" in config.getoption("markexpr")
    kept, left_out = [], []
    for item in items:
        mark = item.get_closest_marker("tools")
        names = mark.args if mark else None
        fits = names == (wanted,) if wanted else names is None or (installs and names == ())
        (kept if fits else left_out).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept
