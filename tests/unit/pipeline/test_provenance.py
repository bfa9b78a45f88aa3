"""Where a run comes from."""

from __future__ import annotations

import os
import re

import pytest

from pipeline.provenance import git_commit, git_tags, node_facts, versions


def test_the_submitter_s_commit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCNET_GIT_COMMIT", "feed-dirty")
    assert git_commit() == "feed-dirty"
    assert git_tags() == {"mlflow.source.git.commit": "feed", "git dirty": "yes"}
    monkeypatch.setenv("ENCNET_GIT_COMMIT", "feed")
    assert git_tags() == {"mlflow.source.git.commit": "feed", "git dirty": "no"}


def test_the_checkout_s_commit_is_told_with_what_differs_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENCNET_GIT_COMMIT", raising=False)
    commit, tags = git_commit(), git_tags()
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", commit)
    assert tags["mlflow.source.git.commit"] == commit.removesuffix("-dirty")
    assert tags["git dirty"] == ("yes" if commit.endswith("-dirty") else "no")
    if tags["git dirty"] == "yes":
        assert re.fullmatch(r"[0-9a-f]{12}", tags["git diff digest"])
        assert tags["git changed files"]


def test_versions_and_nodes_are_described() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", versions()["python"])
    assert versions()["torch"].startswith("2.")
    facts = node_facts()
    assert facts["cores"] == os.cpu_count()
    assert facts["memory GiB"] > 0
    assert facts["cpu"]
