from collections.abc import Iterator

import pytest
from browser.chromium import BINARY, launched
from playwright.sync_api import Browser


@pytest.fixture(scope="module")  # while it is open a loop runs in this thread, which other tests could not bear
def chromium() -> Iterator[Browser]:
    if BINARY is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    with launched() as browser:
        yield browser
