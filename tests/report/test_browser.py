"""The page and the app in a real browser: headless Chromium, driven by selenium.

    apt-get install chromium chromium-driver
    pip install -e .[app,browser]

VIDEOVIT_SCREENSHOTS names a folder for pictures to look at.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.project import ROOT
from tests.helpers.run_folders import HOSTILE, moving_square, write_hostile_run
from tests.helpers.runs import Make
from videovit.engine import launch
from videovit.engine.tasks.explain import Explanation
from videovit.report.blocks import Clip, Clips, Section
from videovit.report.clips import draw_clip
from videovit.report.page import render
from videovit.report.run_files import read_run

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install -e .[browser]")
CHROMIUM, DRIVER = (
    next(filter(None, map(shutil.which, names)), None)
    for names in (("chromium", "chromium-browser", "google-chrome"), ("chromedriver",))
)
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no Chromium: apt-get install chromium chromium-driver"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def wait(condition: Callable[[], object], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)
    return found


def keep(browser: Any, name: str) -> bytes:
    """A screenshot, also for people if they ask for it."""
    picture: bytes = browser.get_screenshot_as_png()
    if folder := os.environ.get("VIDEOVIT_SCREENSHOTS"):
        Path(folder, f"{name}.png").write_bytes(picture)
    return picture


def errors_in(browser: Any) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("browser")
    run = read_run(write_hostile_run(home / "run"))
    frames, heat = moving_square()
    still, moving = draw_clip([Explanation("v", "a", 0.5, "gradient", [i / 8 for i in range(8)], frames, heat, 1.0)])
    clip = Clip("a.mp4", [("true", HOSTILE[0])], still, moving, ["seen", "heat"])
    file = home / "page.html"
    file.write_text(render(run, [Section("mistakes", "Worst mistakes", [Clips([clip])])]), encoding="utf-8")
    return file


def test_page_sorts_shows_and_plays(browser: Any, page: Path) -> None:
    browser.get(page.as_uri())
    find = browser.find_element

    def css(selector: str) -> Any:
        return find("css selector", selector)

    def column(section: str, number: int) -> list[str]:
        cells = browser.find_elements("css selector", f"#{section} tbody td:nth-child({number})")
        return [cell.text for cell in cells]

    # Sorting: numbers from the highest, then from the lowest; rows stay together.
    before = dict(zip(column("classes", 1), column("classes", 4), strict=True))
    css("#classes th:nth-child(4) button").click()
    accuracies = [float(text) for text in column("classes", 4)]
    assert accuracies == sorted(accuracies, reverse=True) and len(set(accuracies)) > 1
    css("#classes th:nth-child(4) button").send_keys("\ue007")  # Enter
    assert [float(text) for text in column("classes", 4)] == accuracies[::-1]
    assert dict(zip(column("classes", 1), column("classes", 4), strict=True)) == before
    assert css("#classes th:nth-child(4)").get_attribute("aria-sort") == "ascending"

    # Drawn when it is seen, part by part, filtered.
    assert not column("videos", 1)
    browser.execute_script("document.getElementById('videos').scrollIntoView()")
    wait(lambda: column("videos", 1))
    assert len(column("videos", 1)) == 25
    css("#videos .more button").click()
    assert len(column("videos", 1)) == 60
    css("#videos input").send_keys("wrong")
    assert set(column("videos", 2)) == {"wrong"}

    # The matrix: a mouse and arrow keys show the numbers of a cell.
    canvas, readout = css("canvas"), css(".readout")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    wait(lambda: canvas.size["height"] > 200)
    webdriver.ActionChains(browser).move_to_element_with_offset(canvas, canvas.size["width"] // 2 - 8, 0).perform()
    shown = wait(lambda: readout.text if readout.text.startswith("true ") else "")
    assert re.search(r"predicted plain: [\d,]+ of 12 videos \([\d.]+ %\)", shown)
    keep(browser, "matrix")
    canvas.send_keys("\ue013" * 9 + "\ue012" * 9)  # up, left: to the first cell
    assert readout.text.startswith(f"true {HOSTILE[0]}, predicted {HOSTILE[0]}: ")
    first = keep(browser, "light")
    css(".matrix select").send_keys("by accuracy")
    css(".matrix input").click()
    assert keep(browser, "matrix_ordered") != first

    # Playing: the picture changes by itself, and stops.
    button, image = css(".clip"), css(".clip img")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    still = image.get_attribute("src")
    button.send_keys(" ")
    assert button.get_attribute("aria-pressed") == "true" and image.get_attribute("src") != still
    pictures = {image.screenshot_as_png for _ in range(10) if not time.sleep(0.1)}
    assert len(pictures) > 1
    button.click()
    assert image.get_attribute("src") == still

    assert errors_in(browser) == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


def test_page_in_the_dark_and_on_a_phone(browser: Any, page: Path) -> None:
    dark = {"name": "prefers-color-scheme", "value": "dark"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [dark]})
    size = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        browser.get(page.as_uri())
        color = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert max(map(int, re.findall(r"\d+", color))) < 60
        # Nothing is wider than the screen but what scrolls by itself.
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
        keep(browser, "phone_dark")
        assert errors_in(browser) == []
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_app_predicts_a_dropped_video(browser: Any, make: Make, tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed: pip install -e .[app]")
    names = tmp_path / "classes.json"
    names.write_text(json.dumps({name: k for k, name in enumerate([*HOSTILE[:2], "plain"])}))
    opts = f"SOLVER.MAX_EPOCH 1 TRAIN.EVAL_PERIOD 0 TEST.ENABLE False DATA.CLASS_NAMES_FILE {names}"
    cfg = make(tmp_path / "<i>run", opts)
    broken = tmp_path / "<img src=x onerror=alert(4)>.mp4"
    broken.write_bytes(b"not a video" * 99)
    launch.run(cfg)
    command = [sys.executable, "-m", "videovit", "app", "--model", cfg.OUTPUT_DIR, "--port", "0"]
    with open(tmp_path / "log", "w+") as log:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        app = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env=environment)
        try:
            said = wait(lambda: re.search(r"http://127.0.0.1:\d+", (tmp_path / "log").read_text()), 300)
            browser.get(said[0])
            upload = wait(lambda: browser.find_elements("css selector", "input[type=file]"))[0]
            upload.send_keys(str(sorted(Path(cfg.DATA.PATH_TO_DATA_DIR).glob("test*.mp4"))[0]))
            wait(lambda: browser.find_elements("css selector", "video"))
            browser.find_element("id", "predict").click()
            wait(lambda: browser.find_elements("css selector", "#heat video"), 120)
            top = browser.find_element("id", "top").text
            assert all(name in top for name in HOSTILE[:2]) and "%" in top
            assert browser.find_elements("css selector", "#curves img")
            assert browser.find_element("css selector", "h1").text == "<i>run"
            keep(browser, "app")
            # A file that is no video ends in a message, and the page goes on.
            browser.refresh()
            wait(lambda: browser.find_elements("css selector", "input[type=file]"))[0].send_keys(str(broken))
            wait(lambda: browser.find_elements("css selector", "video"))
            browser.find_element("id", "predict").click()
            wait(lambda: "cannot read video" in browser.find_element("tag name", "body").text)
            assert not browser.find_elements("css selector", "#heat video, img[src=x]")
            keep(browser, "app_error")
            assert errors_in(browser) == []
            assert "Traceback" not in (tmp_path / "log").read_text()
            script = "return performance.getEntriesByType('resource').map((entry) => entry.name)"
            own = ("http://127.0.0.1", "blob:", "data:")
            assert all(name.startswith(own) for name in browser.execute_script(script))
        finally:
            app.terminate()
            assert app.wait(60) is not None
