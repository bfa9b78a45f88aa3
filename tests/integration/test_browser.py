"""What a person sees in the MLflow UI: the run with its curves and pictures, and the registered model, in a browser."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.integration.command import json_result, run_encnet
from tests.integration.conftest import STEPS, Trained
from tests.running_stack import RunningStack

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
TIMEOUT_MS = 60_000

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not there: apt-get install chromium")


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A page that reaches this machine only."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        context = browser.new_context(viewport={"width": 1500, "height": 1000})
        context.route(re.compile(r"^https?://(?!127\.0\.0\.1[:/])"), lambda route: route.abort())
        page = context.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        expect.set_options(timeout=TIMEOUT_MS)
        yield page
        browser.close()


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    """Where screenshots go: $ENCNET_SCREENSHOTS, or a temporary folder."""
    folder = Path(os.environ.get("ENCNET_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _shoot(page: Page, path: Path) -> None:
    page.wait_for_timeout(1500)  # charts and pictures fade in
    assert len(page.screenshot(path=path)) > 10_000


def test_the_run_is_in_the_list(page: Page, trained: Trained, stack: RunningStack, shots: Path) -> None:
    page.goto(trained.result["run_url"].partition("/runs/")[0] + "/runs")
    link = page.get_by_role("link", name="tiny", exact=True)
    expect(link.first).to_be_visible()
    _shoot(page, shots / "1-runs.png")


def test_the_run_s_page_tells_what_it_was(page: Page, trained: Trained, shots: Path) -> None:
    page.goto(trained.result["run_url"])
    expect(page.get_by_text("Finished").first).to_be_visible()
    expect(page.get_by_text("val/miou", exact=True).first).to_be_visible()
    expect(page.get_by_text("optim.max_steps", exact=True).first).to_be_attached()
    _shoot(page, shots / "2-run.png")


def test_the_run_has_curves_and_pictures(page: Page, trained: Trained, shots: Path) -> None:
    page.goto(trained.result["run_url"] + "/model-metrics")
    find = page.get_by_placeholder("Search metric charts")
    for metric in ("train/loss", "val/miou"):
        find.fill(f"^{metric}$")
        expect(page.get_by_text(f"tiny ({metric})", exact=True)).to_be_visible()
        expect(page.locator(".js-plotly-plot .scatterlayer .point").first).to_be_attached()
        _shoot(page, shots / f"3-{metric.replace('/', '-')}.png")
    page.goto(trained.result["run_url"] + "/artifacts")
    for name in ("images", f"step_{STEPS:07d}", "val_00.png"):
        page.get_by_text(name, exact=True).first.click()
    picture = page.locator("img[src^='blob:'], .image-outer-container img, .ant-image-img")
    expect(picture.first).to_be_visible()
    width, height = picture.first.evaluate("image => [image.naturalWidth, image.naturalHeight]")
    assert width > 250, (width, height)  # four panels two by two, large enough to be read
    assert height > 250, (width, height)
    _shoot(page, shots / "4-pictures.png")


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
    _shoot(page, shots / "5-report.png")
    page.goto(evaluated["run_url"])
    expect(page.get_by_text("boundary F-score").first).to_be_visible()
    _shoot(page, shots / "5-evaluation.png")


def test_the_registered_model_has_its_alias(page: Page, trained: Trained, stack: RunningStack, shots: Path) -> None:
    page.goto(f"{stack.environment['MLFLOW_TRACKING_URI']}/#/models/encnet-tiny")
    expect(page.get_by_text("candidate").first).to_be_visible()
    expect(page.get_by_text("Version 1").first).to_be_visible()
    _shoot(page, shots / "5-model.png")
    page.goto(f"{stack.environment['MLFLOW_TRACKING_URI']}/#/models/encnet-tiny/versions/1")
    expect(page.get_by_text(f"mIoU {100 * trained.result['miou']:.2f} %").first).to_be_visible()
    _shoot(page, shots / "6-version.png")
