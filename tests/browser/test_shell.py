from pathlib import Path

import pytest
from browser.chromium import visit
from playwright.sync_api import Browser

from retell.shell import escaped, page

HOSTILE = (
    "<script>document.title = 'run'</script>",
    "</script><script>document.title = 'run'</script>",
    "<img src=x onerror=\"document.title = 'run'\">",
    "<!-- <script>",
    "a\u2028b\u2029c\ud800",
    "\u202eright to left",
    '" onclick="document.title = 1',
)
READ = """
const given = JSON.parse(document.getElementById("given").textContent);
document.getElementById("found").textContent = JSON.stringify(given.texts.map(text => text.length));
"""


def test_hostile_text_arrives_as_text_and_nothing_runs(chromium: Browser, tmp_path: Path) -> None:
    shown = "".join(f'<p title="{escaped(text)}">{escaped(text)}</p>' for text in HOSTILE)
    path = tmp_path / "page.html"
    text = page(HOSTILE[1], shown + '<p id="found"></p>', scripts=[READ], data={"given": {"texts": HOSTILE}})
    path.write_text(text, encoding="utf-8")
    with visit(chromium, path.as_uri()) as here:
        assert here.page.title() == HOSTILE[1]
        assert here.page.locator("#found").text_content() == f"[{','.join(str(len(text)) for text in HOSTILE)}]"
        assert here.page.locator("p[onclick]").count() == 0
        assert here.page.locator("p").nth(4).text_content() == "a�b�c�"
        assert here.page.locator("p").nth(5).text_content() == "�right to left"
        assert (here.said, here.errors, here.asked) == ([], [], [])


@pytest.mark.parametrize(
    "injected",
    [
        "<script>document.title = 'run'</script>",
        "<img src=x onerror=\"document.title = 'run'\">",
        "<img src=data:,x onerror=\"document.title = 'run'\">",
        "<iframe srcdoc=\"<script>parent.document.title = 'run'</script>\"></iframe>",
        "<img src=http://127.0.0.1:9/x>",
        "<link rel=stylesheet href=http://127.0.0.1:9/x.css>",
        "<base href=http://127.0.0.1:9/>",
        "<object data=http://127.0.0.1:9/></object>",
    ],
)
def test_the_policy_stops_what_escaping_would_have_missed(chromium: Browser, tmp_path: Path, injected: str) -> None:
    path = tmp_path / "page.html"
    path.write_text(page("still", injected), encoding="utf-8")
    with visit(chromium, path.as_uri()) as here:
        assert here.page.title() == "still"
        assert here.page.evaluate("document.baseURI") == path.as_uri()
        assert here.refused == here.asked


def test_numbers_that_json_does_not_know_are_null(chromium: Browser, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    data = {"n": {"a": [float("nan"), float("inf"), 1.5, (2, None)]}}
    path.write_text(page("numbers", "", data=data), encoding="utf-8")
    with visit(chromium, path.as_uri()) as here:
        read = "JSON.parse(document.getElementById('n').textContent).a"
        assert here.page.evaluate(read) == [None, None, 1.5, [2, None]]
