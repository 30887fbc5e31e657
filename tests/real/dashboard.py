"""The dashboard in a headless Chromium, driven over WebDriver (W3C) with the standard library alone.

    dashboard.py URL [--token TOKEN | --cancel] [--expect TEXT [--within SECONDS]]
                     [--do SCRIPT] [--shot FILE] [--size WIDTHxHEIGHT] [--dark]

Opens the page, says LOADED once it is live (with --cancel: once it has asked for the token, was given
none, and has left it at that for two seconds), and waits for a line on standard input. With --expect it
then waits for the text to stand on the page and says SHOWN and the milliseconds. In the end it says
what the console holds; anything there, or a text that does not come, is exit code 1.
"""

import argparse
import base64
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

# Started thus, Chromium talks to nobody but the page.
ALONE = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--force-color-profile=srgb", "--hide-scrollbars",
]


class Browser:
    def __init__(self, size):
        self.profile = tempfile.mkdtemp(prefix="tidegate-browser-")
        self.driver = subprocess.Popen(
            [shutil.which("chromedriver"), "--port=0"], stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True)
        for line in self.driver.stdout:
            found = re.search(r"started successfully on port (\d+)", line)
            if found:
                self.base = f"http://127.0.0.1:{found.group(1)}"
                break
        else:
            raise SystemExit("chromedriver did not start")
        options = {
            "args": ALONE + [f"--user-data-dir={self.profile}", f"--window-size={size[0]},{size[1]}"],
            "binary": shutil.which("chromium"),
        }
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        answer = self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.base += "/session/" + answer["sessionId"]

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def run(self, script, *arguments):
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def devtools(self, command, **params):
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    def until(self, script, seconds, *arguments):
        """Milliseconds until the script says true, or None."""
        start = time.monotonic()
        while time.monotonic() - start < seconds:
            if self.run(script, *arguments):
                return round(1000 * (time.monotonic() - start))
            time.sleep(0.02)
        return None

    def end(self):
        try:
            self.call("DELETE", "")
        except OSError:
            pass
        self.driver.terminate()
        self.driver.wait(10)
        shutil.rmtree(self.profile, ignore_errors=True)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("url")
    arguments.add_argument("--token")
    arguments.add_argument("--cancel", action="store_true")
    arguments.add_argument("--expect")
    arguments.add_argument("--within", type=float, default=2)
    arguments.add_argument("--do", dest="script")
    arguments.add_argument("--shot")
    arguments.add_argument("--size", default="1440x1000")
    arguments.add_argument("--settle", type=float, default=0)
    arguments.add_argument("--dark", action="store_true")
    given = arguments.parse_args()
    width, height = map(int, given.size.split("x"))
    browser = Browser((max(width, 500), height))
    failed = False
    try:
        browser.devtools("Emulation.setDeviceMetricsOverride", width=width, height=height,
                         deviceScaleFactor=1, mobile=width < 600)
        scheme = "dark" if given.dark else "light"
        browser.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        browser.call("POST", "/url", {"url": given.url})
        if given.token:
            asked = browser.until("return document.getElementById('token').open", 20)
            if asked is None:
                raise SystemExit("the page does not ask for the token")
            # Refused until now: the one thing the console may hold.
            browser.call("POST", "/se/log", {"type": "browser"})
            browser.run("document.getElementById('token-value').value = arguments[0];"
                        "document.querySelector('#token .primary').click()", given.token)
        if given.cancel:
            if browser.until("return document.getElementById('token').open", 20) is None:
                raise SystemExit("the page does not ask for the token")
            browser.run("document.querySelector('#token button[value=no]').click()")
            browser.call("POST", "/se/log", {"type": "browser"})
            if browser.until("return document.getElementById('token').open", 2) is not None:
                raise SystemExit("the page asks for the token again")
            wanted = "token needed"
        else:
            wanted = "live"
        if browser.until("return document.getElementById('link').textContent === arguments[0]", 30, wanted) is None:
            raise SystemExit("the page is not live: " + browser.run("return document.body.innerText"))
        print("LOADED", flush=True)
        sys.stdin.readline()
        if given.expect:
            took = browser.until("return document.body.innerText.includes(arguments[0])", given.within, given.expect)
            if took is None:
                failed = True
                print(f"MISSING {given.expect!r} after {given.within} s; the page says:\n"
                      + browser.run("return document.body.innerText"))
            else:
                print(f"SHOWN {took}", flush=True)
        time.sleep(given.settle)
        if given.script:
            print("DID", json.dumps(browser.run(given.script)), flush=True)
            time.sleep(0.3)
        if given.shot:
            picture = browser.call("GET", "/screenshot")
            with open(given.shot, "wb") as file:
                file.write(base64.b64decode(picture))
        log = browser.call("POST", "/se/log", {"type": "browser"})
        for entry in log:
            failed = True
            print("CONSOLE", entry["level"], entry["message"])
    finally:
        browser.end()
    sys.exit(1 if failed else 0)


main()
