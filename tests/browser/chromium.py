"""A page in the system's Chromium, with everything that it said and asked for."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

BINARY = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PHONE, DESKTOP = (390, 844), (1280, 900)


@dataclass
class Visit:
    """An open page and what happened on it since it was opened.

    ``said`` has console messages as "type: text", ``errors`` what was thrown and not caught, ``asked`` the address of
    every request but the page's own, and ``refused`` those of them that the page's own policy stopped; what a page
    holds in itself (data:, blob:) is no request.
    """

    page: Page
    said: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


@contextmanager
def launched() -> Iterator[Browser]:
    """A headless Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BINARY, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visit(browser: Browser, address: str, size: tuple[int, int] = DESKTOP, **options: Any) -> Iterator[Visit]:
    """Opens ``address`` (file: or loopback) in a window of its own; ``options`` as of `Browser.new_context`, such as
    ``color_scheme="dark"`` or ``reduced_motion="reduce"``.
    """
    width, height = size
    with browser.new_context(viewport={"width": width, "height": height}, **options) as context:
        page = context.new_page()
        here = Visit(page)
        page.on("console", lambda message: here.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: here.errors.append(str(error)))
        page.on("request", lambda request: _note(here.asked, request.url, address))
        page.on("requestfailed", lambda one: _note(here.refused, one.url, address) if one.failure == "csp" else None)
        page.goto(address)
        yield here


def _note(where: list[str], url: str, address: str) -> None:
    if url.split("#")[0] != address.split("#")[0] and not url.startswith(("data:", "blob:")):
        where.append(url)
