"""The files under `.github` are valid, and name what the repository has."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
MAKEFILE = (ROOT / "Makefile").read_text()

WORKFLOW_KEYS = {"name", "on", "permissions", "concurrency", "env", "jobs"}
JOB_KEYS = {"name", "runs-on", "timeout-minutes", "strategy", "needs", "steps"}
STEP_KEYS = {"name", "uses", "with", "run", "env", "if"}
TRIGGERS = {"push", "pull_request", "schedule", "workflow_dispatch"}
FORM_KEYS = {"name", "description", "labels", "title", "body"}
FIELD_TYPES = {"markdown", "input", "textarea", "dropdown", "checkboxes"}


class WorkflowLoader(yaml.SafeLoader):
    """YAML as GitHub reads it: `on` is a key, not a truth value."""


WorkflowLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load(path: Path) -> Any:
    return yaml.load(path.read_text(), WorkflowLoader)


def jobs() -> list[dict[str, Any]]:
    return [job for path in WORKFLOWS for job in load(path)["jobs"].values()]


def steps() -> list[dict[str, Any]]:
    return [step for job in jobs() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_has_only_keys_that_github_knows(path: Path) -> None:
    workflow = load(path)
    assert workflow.keys() <= WORKFLOW_KEYS and {"name", "on", "permissions", "jobs"} <= workflow.keys()
    assert workflow["on"].keys() <= TRIGGERS
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert re.fullmatch(r"[a-z][a-z0-9_-]*", name)
        assert job.keys() <= JOB_KEYS and {"runs-on", "timeout-minutes", "steps"} <= job.keys()
        assert set(job.get("needs", [])) <= workflow["jobs"].keys()
        for step in job["steps"]:
            assert step.keys() <= STEP_KEYS and ("uses" in step) != ("run" in step)


def test_actions_have_a_version() -> None:
    used = [step["uses"] for step in steps() if "uses" in step]
    assert used and all(re.fullmatch(r"actions/[a-z-]+@v\d+", name) for name in used)


def test_every_make_target_exists() -> None:
    targets = [target for step in steps() for target in re.findall(r"\bmake (\S+)", step.get("run", ""))]
    assert {"test", "test-tools", "docs"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", MAKEFILE, re.M), target


def test_python_versions_are_those_that_the_package_states() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stated = [c.rsplit(" ", 1)[1] for c in project["classifiers"] if re.search(r":: Python :: 3\.\d+$", c)]
    tested = [job["strategy"]["matrix"]["python-version"] for job in jobs() if "strategy" in job]
    assert tested == [stated]
    assert project["requires-python"] == f">={stated[0]}"
    single = {step["with"]["python-version"] for step in steps() if "python-version" in step.get("with", {})}
    assert single <= {*stated, "${{ matrix.python-version }}"}


def test_every_job_caches_what_pip_downloads() -> None:
    for step in steps():
        if step.get("uses", "").startswith("actions/setup-python"):
            assert step["with"]["cache"] == "pip"
            for name in step["with"]["cache-dependency-path"].split():
                assert (ROOT / name).is_file()


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_issue_form_has_only_fields_that_github_knows(path: Path) -> None:
    form = load(path)
    assert form.keys() <= FORM_KEYS and {"name", "description", "body"} <= form.keys()
    fields = form["body"]
    names = [field["id"] for field in fields if field["type"] != "markdown"]
    assert names and len(names) == len(set(names))
    for field in fields:
        assert field["type"] in FIELD_TYPES
        if field["type"] == "markdown":
            assert field["attributes"].keys() == {"value"}
            continue
        assert field["attributes"]["label"]
        assert field.keys() <= {"type", "id", "attributes", "validations"}
        assert ("options" in field["attributes"]) == (field["type"] in {"dropdown", "checkboxes"})


def test_there_is_a_form_for_each_kind_of_issue() -> None:
    assert [path.stem for path in FORMS] == ["bug", "dataset_format", "wrong_mask"]
    config = load(ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml")
    assert config.keys() == {"blank_issues_enabled", "contact_links"}
    assert all(link.keys() == {"name", "url", "about"} for link in config["contact_links"])
    assert "security/advisories" in (ROOT / "SECURITY.md").read_text()


def test_make_help_lists_every_target() -> None:
    targets = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.M)
    assert targets is not None
    for target in targets[1].split():
        assert re.search(rf"^{target}:.*## \S", MAKEFILE, re.M), target
