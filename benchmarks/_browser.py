"""A headless Chromium or Chrome that opens pages from disk."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--disable-default-apps", "--hide-scrollbars"),
)
PATIENCE_S = 120
"""A busy machine is slow; nothing here is timed by waiting."""


class Browser:
    """A context manager; the browser ends with it."""

    def __init__(self, driver: webdriver.Chrome, profile: tempfile.TemporaryDirectory[str]) -> None:
        self.driver, self.profile = driver, profile

    @classmethod
    def start(cls) -> Browser | None:
        """None where no browser with its driver is installed."""
        binary = next((found for name in BROWSERS if (found := shutil.which(name))), None)
        chromedriver = shutil.which("chromedriver")
        if binary is None or chromedriver is None:
            return None
        profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        options = Options()
        options.binary_location = binary
        for flag in (*FLAGS, f"--user-data-dir={profile.name}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service(chromedriver))
        driver.set_page_load_timeout(PATIENCE_S)
        # What the browser's own first page asks for is none of ours.
        driver.get("about:blank")
        driver.get_log("performance")
        driver.get_log("browser")
        return cls(driver, profile)

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.driver.quit()
        self.profile.cleanup()

    def open(self, file: Path, anchor: str = "", *, width_px: int = 1280) -> None:
        """Load a page afresh."""
        metrics = {"width": width_px, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.get("about:blank")
        self.driver.get(file.absolute().as_uri() + anchor)
        self.wait_for("return location.protocol === 'file:' && document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of a script in the page."""
        return self.driver.execute_script(script)

    def texts(self, selector: str) -> list[str]:
        """The text of each element."""
        found = self.driver.find_elements(By.CSS_SELECTOR, selector)
        return [one.get_attribute("textContent") or "" for one in found]

    def wait(self, selector: str) -> None:
        """Until there is such an element."""
        WebDriverWait(self.driver, PATIENCE_S, poll_frequency=0.02).until(
            lambda driver: driver.find_elements(By.CSS_SELECTOR, selector)
        )

    def wait_for(self, script: str) -> Any:
        """Until the script gives a true value; that value."""
        return WebDriverWait(self.driver, PATIENCE_S, poll_frequency=0.05).until(
            lambda driver: driver.execute_script(script)
        )

    def console(self) -> list[str]:
        """What the console said since the last call."""
        return [f"{line['level']}: {line['message']}" for line in self.driver.get_log("browser")]

    def first_paint_ms(self) -> float:
        """First contentful paint of the page at hand."""
        script = (
            "return performance.getEntriesByName('first-contentful-paint').map(e => e.startTime)[0]"
        )
        return float(self.wait_for(script))

    def heap_mib(self) -> float:
        """Memory that the page's script holds."""
        return float(self.run("return performance.memory.usedJSHeapSize")) / 2**20
