"""What a person sees in the MLflow UI: the run with its curves and pictures, and the registered model, in a browser."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page, expect

from tests.integration.browser import shoot
from tests.integration.command import json_result, run_encnet
from tests.integration.conftest import STEPS, Trained
from tests.running_stack import RunningStack


def test_the_run_is_in_the_list(page: Page, trained: Trained, stack: RunningStack, shots: Path) -> None:
    page.goto(trained.result["run_url"].partition("/runs/")[0] + "/runs")
    link = page.get_by_role("link", name="tiny", exact=True)
    expect(link.first).to_be_visible()
    shoot(page, shots / "1-runs.png")


def test_the_run_s_page_tells_what_it_was(page: Page, trained: Trained, shots: Path) -> None:
    page.goto(trained.result["run_url"])
    expect(page.get_by_text("Finished").first).to_be_visible()
    expect(page.get_by_text("val/miou", exact=True).first).to_be_visible()
    expect(page.get_by_text("optim.max_steps", exact=True).first).to_be_attached()
    shoot(page, shots / "2-run.png")


def test_the_run_has_curves_and_pictures(page: Page, trained: Trained, shots: Path) -> None:
    page.goto(trained.result["run_url"] + "/model-metrics")
    find = page.get_by_placeholder("Search metric charts")
    for metric in ("train/loss", "val/miou"):
        find.fill(f"^{metric}$")
        expect(page.get_by_text(f"tiny ({metric})", exact=True)).to_be_visible()
        expect(page.locator(".js-plotly-plot .scatterlayer .point").first).to_be_attached()
        shoot(page, shots / f"3-{metric.replace('/', '-')}.png")
    page.goto(trained.result["run_url"] + "/artifacts")
    for name in ("images", f"step_{STEPS:07d}", "val_00.png"):
        page.get_by_text(name, exact=True).first.click()
    picture = page.locator("img[src^='blob:'], .image-outer-container img, .ant-image-img")
    expect(picture.first).to_be_visible()
    width, height = picture.first.evaluate("image => [image.naturalWidth, image.naturalHeight]")
    assert width > 250, (width, height)  # four panels two by two, large enough to be read
    assert height > 250, (width, height)
    shoot(page, shots / "4-pictures.png")


def test_the_report_of_an_evaluation_opens_among_its_artifacts(
    page: Page, trained: Trained, scenes: str, shots: Path
) -> None:
    evaluated = json_result(run_encnet("evaluate", trained.result["model_uri"], f"--data={scenes}", "--json"))
    page.goto(evaluated["run_url"] + "/artifacts")
    for name in ("report", "index.html"):
        page.get_by_text(name, exact=True).first.click()
    report = page.frame_locator("iframe").first
    expect(report.get_by_role("heading", name="encnet-tiny v1 on context-scenes/val")).to_be_visible()
    expect(report.get_by_text(f"{100 * evaluated['miou']:.2f} %", exact=True).first).to_be_visible()
    picture = report.locator("figure img").first
    assert picture.evaluate("image => image.naturalWidth") > 250
    shoot(page, shots / "5-report.png")
    page.goto(evaluated["run_url"])
    expect(page.get_by_text("boundary F-score").first).to_be_visible()
    shoot(page, shots / "5-evaluation.png")


def test_the_registered_model_has_its_alias(page: Page, trained: Trained, stack: RunningStack, shots: Path) -> None:
    page.goto(f"{stack.environment['MLFLOW_TRACKING_URI']}/#/models/encnet-tiny")
    expect(page.get_by_text("candidate").first).to_be_visible()
    expect(page.get_by_text("Version 1").first).to_be_visible()
    shoot(page, shots / "5-model.png")
    page.goto(f"{stack.environment['MLFLOW_TRACKING_URI']}/#/models/encnet-tiny/versions/1")
    expect(page.get_by_text(f"mIoU {100 * trained.result['miou']:.2f} %").first).to_be_visible()
    shoot(page, shots / "6-version.png")
