"""Headless Chromium for tests of the report."""

import contextlib
import json
import shutil

from tests.requirements import missing

OPTIONS = (
    "headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "no-first-run", "disable-background-networking",
    "disable-component-update", "disable-default-apps", "disable-sync", "disable-extensions", "hide-scrollbars",
)  # fmt: skip


def programs() -> tuple[str, str]:
    """Returns the paths of the browser and of its driver; skips the test if one is missing."""
    browser, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if browser is None or driver is None:
        missing("browser", "install chromium and chromium-driver")
    return browser, driver


@contextlib.contextmanager
def open_browser(profile):
    """Opens a new browser and yields its driver; `profile` is an empty folder for its files."""
    from selenium import webdriver

    browser, driver = programs()
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for option in (*OPTIONS, f"user-data-dir={profile}"):
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield opened
    finally:
        opened.quit()


def requests(driver) -> list[str]:
    """Returns the URLs that the current page requested since the last call, its own first."""
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return [request["request"]["url"] for request in asked if request["documentURL"] == driver.current_url]


def look(driver, width: int, scheme: str, media: str = "screen") -> None:
    """Sets the width of the window, light or dark, and screen or print."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
