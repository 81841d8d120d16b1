"""The site of the documents in a real browser, as `make docs` has built it."""

import functools
import http.server
import itertools
import threading
from pathlib import Path

import pytest
from selenium.webdriver.support.ui import WebDriverWait

from tests.browser.conftest import missing

SITE = Path(__file__).parents[2] / "build" / "site"
READ = sorted(path.name for path in SITE.glob("*.html"))
WIDTHS = (390, 1280)
SEARCHED = {
    "install": "install.html",
    "huggingface": "huggingface.html",
    "warmup": "recipes.html",
    "dict batch": "recipes.html",
    "lightning": "lightning.html",
    "lora": "finetuning.html",
}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        """Say nothing."""


@pytest.fixture(scope="module")
def address():
    if not SITE.exists():
        missing("the site (`make docs`)")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=SITE))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def show(driver, url, width=1280, dark=False):
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get(f"{url.rpartition('/')[0]}/site.css")
    driver.execute_script("localStorage.clear()")  # where a page keeps the colours that it was last seen in
    driver.get(url)
    assert driver.execute_script("return document.body.dataset.mdColorScheme") == ("slate" if dark else "default")


EVERYWHERE = ("index.html", "api.html")  # the start, and the page with the most in it
LOOKS = [
    pytest.param(page, width, dark, id=f"{page}-{width}-{'dark' if dark else 'light'}")
    for page in READ
    for width, dark in itertools.product(WIDTHS, (False, True))
    if dark == (width == WIDTHS[-1]) or page in EVERYWHERE  # narrow and light, wide and dark
]


@pytest.mark.parametrize(("page", "width", "dark"), LOOKS)
def test_a_page_fits_and_axe_finds_nothing_serious(driver, address, axe, page, width, dark):
    show(driver, f"{address}/{page}", width, dark)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    driver.execute_script(axe)
    found = driver.execute_async_script("axe.run({resultTypes: ['violations']}).then(arguments[0])")["violations"]
    serious = [fault for fault in found if fault["impact"] in ("serious", "critical")]
    assert not [(fault["id"], [node["html"][:120] for node in fault["nodes"][:3]]) for fault in serious]


RESULTS = """
const host = [...document.querySelectorAll('*')].find((each) => each.shadowRoot?.querySelector('[role=option]'));
return host ? [...host.shadowRoot.querySelectorAll('[role=option]')].map((each) => each.href) : [];
"""


@pytest.mark.parametrize(("words", "page"), SEARCHED.items(), ids=SEARCHED)
def test_a_search_finds_its_page_among_the_first(driver, address, words, page):
    show(driver, f"{address}/index.html")
    driver.execute_script("document.querySelector('.md-search__button').click()")
    wait = WebDriverWait(driver, 30)
    wait.until(lambda driver: driver.execute_script("return document.activeElement.shadowRoot !== null"))
    driver.switch_to.active_element.send_keys(words)
    found = wait.until(lambda driver: driver.execute_script(RESULTS))
    wait.until(lambda driver: any(page in link for link in driver.execute_script(RESULTS)[:3]), str(found[:5]))
