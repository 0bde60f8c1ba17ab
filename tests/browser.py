"""A headless Chromium for tests of pages: what it logs and what it would fetch is recorded."""

import json
import shutil
import time
from pathlib import Path

import pytest

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1000,900",
)


class Browser:
    """One browser; `open` a file, then look at it with `run` (JavaScript) and `keys`."""

    def __init__(self, folder: Path) -> None:
        webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
        programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
        absent = [name for name, path in programs.items() if path is None]
        if absent:
            pytest.skip(f"no {' and no '.join(absent)} on this machine")
        options = webdriver.ChromeOptions()
        options.binary_location = programs["chromium"]
        for flag in (*FLAGS, f"--user-data-dir={folder}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        service = webdriver.ChromeService(executable_path=programs["chromedriver"])
        self.driver = webdriver.Chrome(options=options, service=service)

    def open(self, path: Path, *, width=1000, height=900, dark=False, phone=False) -> None:
        """Show a file; logs of earlier pages are forgotten."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)
        self.driver.get(path.as_uri())

    def run(self, script: str, *arguments):
        """The value of a JavaScript function body."""
        return self.driver.execute_script(script, *arguments)

    def keys(self, selector: str, *keys: str) -> None:
        """Type keys at the first element that a CSS selector finds."""
        self.run("document.querySelector(arguments[0]).focus()", selector)
        actions = self.driver.switch_to.active_element
        actions.send_keys(*keys)

    def wait(self, script: str, seconds: float = 5) -> None:
        """Until the script returns something true; fails after that many seconds."""
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.02)

    def complaints(self) -> list[str]:
        """What the page wrote to the console, errors and warnings among it, since it was opened."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses that the page asked for since it was opened, itself and inline data left out."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [
            params["request"]["url"]
            for params in asked
            if params["type"] != "Document" and not params["request"]["url"].startswith("data:")
        ]

    def close(self) -> None:
        self.driver.quit()
