"""What a person reads on the page of a chain's run."""

from __future__ import annotations

from pipeline.chain_plan import Record
from pipeline.chain_trail import note


def test_a_chain_s_page_is_a_table_with_links() -> None:
    done = {
        "prepare": Record(inputs={}, result={"text": "scenes | a [set]"}, at="today"),
        "train": Record(inputs={}, result={"text": "run-1: 8 steps", "run_url": "http://m/#/runs/1"}, at="today"),
    }
    lines = note(done, "after train").splitlines()
    assert lines == [
        "**after train**",
        "",
        "| step | done | what it gave |",
        "|---|---|---|",
        r"| prepare | today | scenes \| a \[set\] |",
        "| train | today | [run-1: 8 steps](http://m/#/runs/1) |",
        "| evaluate | | |",
        "| gate | | |",
        "| promote | | |",
    ]
