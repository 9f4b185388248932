import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest
from browser.chromium import DESKTOP, PHONE, Visit, visit
from madeup import evaluation, gap, rewriting, training
from playwright.sync_api import Browser, expect
from scripts import climb_all, problems, says

from retell.browse import sampled_rows
from retell.recipe import Policy, Recipe, Report
from retell.records import Problem
from retell.report import write_report
from retell.rows import Opened
from retell.runfolder import RunFolder

RUN = "document.title = 'run'; window.ran = true"
HOSTILE = (
    f"<script>{RUN}</script>",
    f"</script><script>{RUN}</script>",
    f'<img src=x onerror="{RUN}">',
    f'[a](javascript:{RUN}) <a href="javascript:{RUN}">b</a>',
    "$\\href{javascript:alert(1)}{x}$ $\\htmlData{a=b}{x}$",
    "$" + "\\def\\a{\\a\\a}\\a" + "{" * 200 + "}" * 200 + "$",
    "\u202etxet \u2066hidden\u2069 \x1b[2J \x00",
    "<!-- <script> -->",
    "`</code>` **bold** | cell |",
)
ROWS = 24
TITLE = f"<b>Title</b> {HOSTILE[0]} \u202e"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run whose texts and names are hostile."""
    place = tmp_path_factory.mktemp("run")
    given = [
        Problem(one.id, f"{one.problem} {HOSTILE[i % len(HOSTILE)]}", one.answer, one.solution, HOSTILE[0])
        for i, one in enumerate(problems(ROWS))
    ]

    def answer(request: object) -> str:
        number = int(request.problem[1:])  # type: ignore[attr-defined]
        return f"{HOSTILE[number % len(HOSTILE)]} so that $x^2 = {number}$ and \\boxed{{{number + 100 + number % 2}}}"

    summary = climb_all(place, given, says(answer), k=2)
    with RunFolder(place) as folder:
        folder.finished("rewrite", 1, ["rewrite.json", "rewritten.parquet"])
        folder.write_json("rewrite.json", summary | {"rejected": {HOSTILE[0]: 3}})
        rungs = ["self", "guided", "expert"] * 8
        expert = [[-1.0 - i / 9, -2.0, -0.1] for i in range(ROWS)]
        own = [scored if i % 3 == 2 else [-0.5, -0.25 - i / 9] for i, scored in enumerate(expert)]
        gap(folder, rungs, expert, own)
        for strength, name in enumerate(("base", "sft", "dr-dft", HOSTILE[2].replace("/", "")), start=1):
            training(folder, name, [1 / (i + strength) for i in range(40)])
            evaluation(
                folder, name, [1] * (5 * strength) + [0] * 20, (HOSTILE[0], "a benchmark with a very long name" * 3)
            )
        recipe = Recipe(policy=Policy(model=f"`{HOSTILE[1]}"), report=Report(title=TITLE))
        write_report(recipe, folder, asdict(sampled_rows(folder, Opened(None, HOSTILE[0]))))
    return place / "report.html"


@pytest.fixture
def desktop(chromium: Browser, page: Path) -> Iterator[Visit]:
    with opened(chromium, page) as here:
        yield here


@contextmanager
def opened(browser: Browser, page: Path, size: tuple[int, int] = DESKTOP, **options: object) -> Iterator[Visit]:
    """A visit that begins when the charts are drawn, and in which nothing is said, thrown, asked for or run."""
    with visit(browser, page.as_uri(), size, **options) as here:
        here.page.wait_for_selector("html[data-drawn]")
        yield here
        assert not here.page.evaluate("window.ran === true")
        assert (here.said, here.errors, here.asked) == ([], [], [])


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_opens_at_every_width_and_draws_its_charts(
    chromium: Browser, page: Path, tmp_path: Path, size: tuple[int, int], theme: str
) -> None:
    with opened(chromium, page, size, color_scheme=theme) as here:
        width = here.page.evaluate("document.documentElement.scrollWidth")
        assert width == size[0], "nothing is wider than the window"
        plots = here.page.locator(".plot")
        assert plots.count() == 13  # three by rung, thrice; two curves; accuracies; differences
        for number in range(plots.count()):
            box = plots.nth(number).bounding_box()
            assert box and box["width"] <= size[0] and box["height"] > 100
            drawing = plots.nth(number).locator("svg.main-svg").first
            assert drawing.bounding_box() == pytest.approx(box, abs=1), "a chart fills its place, and no more"
            assert plots.nth(number).locator(".trace").count() > 0
            assert plots.nth(number).locator(".g-xtitle text").text_content()
            assert plots.nth(number).get_attribute("aria-label")
        shot = tmp_path / "page.png"
        here.page.screenshot(path=shot, full_page=True)
        assert shot.stat().st_size > 50_000


def test_hostile_text_is_shown_as_text(desktop: Visit) -> None:
    page = desktop.page
    assert page.title() == TITLE.replace("\u202e", "\ufffd")
    assert page.locator("h1").text_content() == TITLE.replace("\u202e", "\ufffd")
    heads = page.locator("#accuracy table").first.locator("thead th").all_text_contents()
    assert HOSTILE[0] in heads
    assert page.locator("#accuracy tbody th").all_text_contents().count(HOSTILE[2].replace("/", "")) == 1
    assert any(HOSTILE[0] in text for text in page.locator("#accuracy .annotation-text").all_text_contents())
    assert f"3 {HOSTILE[0]}" in (page.locator("#rungs").text_content() or "")
    assert page.locator("main :is(img, iframe, object, embed, form[action])").count() == 0
    assert page.locator("main a[href^='javascript']").count() == 0
    page.evaluate("for (const one of document.querySelectorAll('main *:not(.modebar *)')) one.click?.()")


def test_rows_are_found_by_text_and_by_rung_and_mathematics_is_typeset(desktop: Visit) -> None:
    page = desktop.page
    page.locator("#rows").scroll_into_view_if_needed()
    rows = page.locator(".browse-row")
    expect(rows).to_have_count(10)
    expect(rows.first.locator(".katex").first).to_be_attached()
    search = page.locator("#rows").get_by_label("Search")
    search.fill("What is 7 + 100")
    expect(rows).to_have_count(1)
    search.fill("")
    expect(rows).to_have_count(10)
    page.locator("#rows select").first.select_option("expert")
    expect(rows.first).to_contain_text("expert")
    expect(page.locator("#rows")).to_contain_text("12")
    for text in ("javascript:", "<script>"):
        search.fill(text)
        expect(rows.first).to_contain_text(text)


def test_the_pointer_says_what_it_points_at_and_a_drag_zooms(desktop: Visit) -> None:
    page = desktop.page
    plot = page.locator("#training .plot").first
    plot.scroll_into_view_if_needed()
    area = plot.locator(".nsewdrag").first.bounding_box()
    assert area
    middle = area["x"] + area["width"] / 2, area["y"] + area["height"] / 2
    page.mouse.move(*middle, steps=4)
    expect(plot.locator(".hoverlayer .legend, .hoverlayer .hovertext").first).to_contain_text("DR + DFT")
    reach = "plot => plot._fullLayout.xaxis.range[1] - plot._fullLayout.xaxis.range[0]"
    before = plot.evaluate(reach)
    page.mouse.down()
    page.mouse.move(middle[0] + area["width"] / 5, middle[1], steps=6)
    page.mouse.up()
    page.wait_for_function(f"before => ({reach})(document.querySelector('#training .plot')) < before / 2", arg=before)
    with page.expect_download() as picture:
        plot.locator("[data-title^='Download']").click()
    assert picture.value.path().stat().st_size > 5_000
    plot.locator("[data-title='Reset axes']").click()
    page.wait_for_function(f"before => ({reach})(document.querySelector('#training .plot')) === before", arg=before)


def test_a_finger_scrolls_the_page_and_buttons_zoom(chromium: Browser, page: Path) -> None:
    with opened(chromium, page, PHONE, has_touch=True, is_mobile=True) as here:
        plot = here.page.locator("#training .plot").first
        assert plot.evaluate("plot => plot._fullLayout.dragmode") is False
        plot.scroll_into_view_if_needed()
        before = plot.evaluate("plot => plot._fullLayout.xaxis.range[1]")
        plot.locator("[data-title='Zoom in']").tap()
        changed = "before => document.querySelector('#training .plot')._fullLayout.xaxis.range[1] < before"
        here.page.wait_for_function(changed, arg=before)


def test_the_charts_follow_the_theme_and_paper(desktop: Visit, tmp_path: Path) -> None:
    page = desktop.page
    fill = "getComputedStyle(document.querySelector('.plot .xtick text')).fill"
    ink = "getComputedStyle(document.body).color"
    assert page.evaluate(fill) == page.evaluate(ink) == "rgb(27, 31, 36)"
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"() => {fill} === 'rgb(232, 234, 237)'")
    page.evaluate(
        "addEventListener('beforeprint', () => { window.printed = [document.documentElement.dataset.printing, "
        f"{fill}, document.querySelector('.plot').offsetWidth] }})"
    )
    page.pdf(path=tmp_path / "page.pdf", format="A4")
    assert (tmp_path / "page.pdf").stat().st_size > 20_000
    assert page.evaluate("window.printed.slice(0, 2)") == ["", "rgb(27, 31, 36)"], "paper is light"
    page.wait_for_function(
        f"() => document.documentElement.dataset.printing === undefined && {fill} === 'rgb(232, 234, 237)'"
    )


def test_without_scripts_everything_but_charts_and_search_is_there(chromium: Browser, page: Path) -> None:
    with visit(chromium, page.as_uri(), java_script_enabled=False) as here:
        expect(here.page.locator("#accuracy table").first).to_be_visible()
        expect(here.page.locator("#rungs svg")).to_be_visible()
        expect(here.page.locator("#histograms noscript p").first).to_contain_text("The charts need scripts")
        here.page.locator("#histograms summary").first.click()
        expect(here.page.locator("#histograms table").first).to_be_visible()
        expect(here.page.locator("#rows pre").first).to_be_visible()


def test_the_page_can_be_read_and_used_by_keyboard(desktop: Visit) -> None:
    page = desktop.page
    assert page.locator("html").get_attribute("lang") == "en"
    headings = page.locator("main h2").all_text_contents()
    assert len(headings) == page.locator("nav.sections a").count()
    for link in page.locator("nav.sections a").all():
        target = link.get_attribute("href") or ""
        assert re.fullmatch(r"#[a-z-]+", target) and page.locator(target).count() == 1
    assert page.locator("table:not(:has(th[scope=col]))").count() == 0
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.matches('nav a')")


def test_a_run_of_which_only_a_part_is_there_has_a_page(chromium: Browser, tmp_path: Path) -> None:
    with RunFolder(tmp_path) as folder:
        evaluation(folder, "base", [1, 0], tuple(f"benchmark {number}" for number in range(20)))
        write_report(Recipe(), folder)
        with opened(chromium, tmp_path / "report.html", PHONE) as here:
            assert here.page.locator(".plot").count() == 1
        folder.begin("evaluate/base")
        rewriting(folder, 0, 0, 1)
        climb_all(tmp_path / "other", problems(1), says(lambda request: "nothing"), k=1)
        (tmp_path / "other/rewritten.parquet").rename(tmp_path / "rewritten.parquet")
        write_report(Recipe(), folder)
        with visit(chromium, (tmp_path / "report.html").as_uri()) as here:
            assert here.page.locator("h2").first.text_content() == "What was run"
            assert (here.said, here.errors, here.asked) == ([], [], [])
