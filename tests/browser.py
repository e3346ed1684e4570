"""A headless Chromium for pages, and what it asked the network for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.chrome.webdriver import WebDriver

BROWSERS, DRIVER = ("chromium", "chromium-browser", "google-chrome"), "chromedriver"


def missing() -> str | None:
    """What is not installed for `opened`; None: nothing."""
    if not any(map(shutil.which, BROWSERS)):
        return "no Chromium"
    return None if shutil.which(DRIVER) else "no chromedriver"


@contextmanager
def opened(width: int = 1280, height: int = 900, downloads: str | None = None) -> Iterator[WebDriver]:
    """A browser without a window, of a width in CSS pixels."""
    options = Options()
    options.binary_location = next(found for name in BROWSERS if (found := shutil.which(name)))
    for each in (
        "--headless=new",
        "--no-sandbox",  # root has none in a container
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--hide-scrollbars",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        "--force-prefers-reduced-motion",
    ):
        options.add_argument(each)
    if downloads is not None:
        options.add_experimental_option("prefs", {"download.default_directory": downloads})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options, Service(shutil.which(DRIVER)))
    try:
        resize(driver, width, height)
        yield driver
    finally:
        driver.quit()


def resize(driver: WebDriver, width: int, height: int) -> None:
    """Give the page a size in CSS pixels, which windows do not have below 500."""
    sizes = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sizes)


def asked(driver: WebDriver) -> set[str]:
    """The hosts of all requests since the last call, of pages and of what they opened."""
    found = set()
    for entry in driver.get_log("performance"):
        event = json.loads(entry["message"])["message"]
        if event["method"] == "Network.requestWillBeSent":
            found.add(event["params"]["request"]["url"])
        elif event["method"] == "Network.webSocketCreated":
            found.add(event["params"]["url"])
    return {urlsplit(url).hostname or "" for url in found if not url.startswith(("data:", "blob:"))}


def complaints(driver: WebDriver) -> list[str]:
    """What the console has of errors since the last call."""
    return [each["message"] for each in driver.get_log("browser") if each["level"] == "SEVERE"]
