"""The Chromium of this machine, without a window and without a profile of its own."""

import contextlib
import json
import shutil

from tests.requirements import missing

OPTIONS = (
    "headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "no-first-run", "disable-background-networking",
    "disable-component-update", "disable-default-apps", "disable-sync", "disable-extensions", "hide-scrollbars",
)  # fmt: skip


def programs() -> tuple[str, str]:
    """The paths of the browser and of its driver; skips the test where one is missing."""
    found = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    return found if all(found) else missing("browser", "install chromium and chromium-driver")


@contextlib.contextmanager
def open_browser(profile):
    """A driver of a new browser, which ends with the block; `profile` is an empty folder for it to write to."""
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
    """The addresses that the page which is shown asked for since the last call, its own first."""
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    return [request["request"]["url"] for request in asked if request["documentURL"] == driver.current_url]


def look(driver, width: int, scheme: str, media: str = "screen") -> None:
    """Sets the width of the window, light or dark, and screen or print."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
