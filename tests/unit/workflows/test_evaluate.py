"""What `encnet evaluate` prints of a result."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, replace

from rich.console import Console

from pipeline.bootstrap import Difference
from pipeline.evaluation_log import Evaluation
from workflows.evaluate import as_plain, tell

RESULT = Evaluation(
    model_uri="models:/encnet-street/3",
    miou=0.5,
    pix_acc=0.75,
    iou={"road[red]": 0.5, "sky": float("nan")},
    boundary_f={"road[red]": 0.25, "sky": float("nan")},
    mean_boundary_f=0.25,
    ece=0.125,
    overconfidence=0.1,
    latency_ms=None,
    memory_bytes=None,
    parameters=12,
    checks={"each sample once": "", "probabilities are numbers": "not so in 1 of 9 images, e.g. 'a'"},
    num_images=9,
    run_id="77",
    run_url="http://127.0.0.1:5000/#/runs/77",
)
OTHER = replace(RESULT, model_uri="models:/encnet-street/2", miou=0.4, run_id="66")
DIFFERENCE = Difference(value=0.1, low=-0.01, high=0.2, level=0.95, better_share=0.96, num_images=9)


def shown(other: Evaluation | None = None, difference: Difference | None = None, result: Evaluation = RESULT) -> str:
    console = Console(file=io.StringIO(), width=100)
    with console.capture() as capture:
        tell(result, other, difference, "s3://encnet/street (val)", console)
    return capture.get()


def test_people_see_scores_faults_and_the_run() -> None:
    text = shown()
    assert text.startswith("models:/encnet-street/3 on s3://encnet/street (val)\n")
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if line.startswith("│")]
    assert rows == [["road[red]", "50.00", "25.00"], ["sky", "–", "–"]]
    assert text.splitlines()[-4:] == [
        "mIoU 50.00 %  pixAcc 75.00 %  9 images",
        "boundary F-score 25.00 %  calibration error 12.50 %",
        "warning: probabilities are numbers: not so in 1 of 9 images, e.g. 'a'",
        "run  http://127.0.0.1:5000/#/runs/77",
    ]
    assert "%  41 ms an image\n" in shown(result=replace(RESULT, latency_ms=41.2))


def test_people_see_the_difference_to_another_model() -> None:
    text = shown(OTHER, DIFFERENCE)
    assert "difference  +10.00 points of mIoU (95 %: -1.00 to +20.00) over models:/encnet-street/2\n" in text
    assert "│ road[red] │ 50.00 │        25.00 │             50.00 │" in text


def test_scripts_get_json_without_nan() -> None:
    told = json.loads(json.dumps(as_plain(RESULT, None, None), allow_nan=False))
    assert told == {
        **asdict(RESULT),
        "iou": {"road[red]": 0.5, "sky": None},
        "boundary_f": {"road[red]": 0.25, "sky": None},
    }
    assert as_plain(RESULT, OTHER, DIFFERENCE)["against"] == {
        "model_uri": "models:/encnet-street/2",
        "miou": 0.4,
        "run_id": "66",
        "run_url": RESULT.run_url,
        "difference": asdict(DIFFERENCE),
    }
