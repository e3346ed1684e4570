"""Draw docs/explore.png, the picture of docs/explore.md: ``python docs/explore.py``.

It needs what the tests of the page need: Chromium, chromedriver and the extra `explore`.
"""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.support.ui import WebDriverWait

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

import browser  # noqa: E402

COMMAND = [sys.executable, "-m", "genflow", "explore", "--no-browser", "--port", "0"]
SECONDS = 120


def waited_for(driver: WebDriver, condition: Callable[[], bool]) -> None:
    """Wait until something is true of the page."""
    WebDriverWait(driver, SECONDS).until(lambda _: condition())


def main() -> None:
    """Start the page, wait for its first policy, and keep what the browser shows."""
    with (
        subprocess.Popen(COMMAND, stdout=subprocess.PIPE, text=True) as server,
        browser.opened(1280, 900) as driver,
    ):
        assert server.stdout is not None
        driver.get(server.stdout.readline().split()[2])
        body = driver.find_element("css selector", "body")
        waited_for(driver, lambda: "JS" in body.text)
        shown = body.text
        # once more, when everything is loaded, for the time that it takes then
        driver.find_element("xpath", "//button[contains(., 'Another policy')]").click()
        waited_for(driver, lambda: "JS" in body.text and body.text != shown)
        time.sleep(1)  # until the pictures are painted
        picture = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
        picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
            HERE / "explore.png", optimize=True
        )
        server.send_signal(signal.SIGINT)


if __name__ == "__main__":
    main()
