"""A real Chromium. Where there is none the tests are skipped; with FINDLR_NEED_BROWSER=1, as in CI, they fail."""

import json
import os
import shutil
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from findlr.views.report import write_report

AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
NEEDED = os.environ.get("FINDLR_NEED_BROWSER") == "1"
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip


def missing(what):
    message = f"{what} is not installed; scripts/install_browser.sh installs it"
    if NEEDED:
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def axe():
    return AXE.read_text() if AXE.exists() else missing("axe-core")


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """A browser for each module: what one's pages ask for and complain of late, another never hears."""
    program, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or chromedriver is None:
        missing("chromium or chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


class Opened:
    """A page in the browser, and what tests ask of it."""

    def __init__(self, driver, path):
        self.driver, self.path = driver, path
        self.requests, self.errors = [], []

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def texts(self, selector):
        found = "[...document.querySelectorAll(arguments[0])].map((e) => e.textContent.toWellFormed())"
        return self.run(f"return {found}", selector)

    def keys(self, selector, *keys):
        self.run("document.querySelector(arguments[0]).focus()", selector)
        for key in keys:
            for kind in ("keyDown", "keyUp"):
                self.driver.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": kind, **key})

    def mouse(self, kind, x, y, **more):
        event = {"type": kind, "x": x, "y": y, "button": "none", **more}
        self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", event)

    def plot_area(self):
        """Left, top, width and height, in pixels of the window."""
        return self.run(
            "const {left, top, width, height} = document.querySelector('.u-over').getBoundingClientRect();"
            "return [left, top, width, height]"
        )

    def settled(self):
        """Waits for two frames: uPlot draws in the next one."""
        self.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")

    def listen(self):
        """What the browser has asked for and complained of since the last look."""
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
        self.errors += [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture
def opened(driver, tmp_path):
    """Opens the page of some runs, as a file from disk; at the end it has asked for nothing else, and all went well."""
    pages = []

    def show(findings, labels=None, width=1200, height=900, dark=False):
        path = write_report(findings, tmp_path / f"page{len(pages)}.html", labels=labels)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get("about:blank")
        page = Opened(driver, path)
        page.listen()
        page.requests.clear()
        page.errors.clear()
        driver.get(path.as_uri())
        page.settled()
        pages.append(page)
        return page

    yield show
    for page in pages:
        page.listen()
        # Icons and the page are the file itself; anything else would be a request.
        assert {url for url in page.requests if not url.startswith("data:")} <= {each.path.as_uri() for each in pages}
        assert page.errors == []
