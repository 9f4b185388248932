"""The browser of rows in a real one: hostile texts as text, the controls, both sources of rows."""

import re
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from browser.chromium import PHONE, Visit, visit
from playwright.sync_api import Browser, Route, expect
from runs import make_run, said, viewing

from retell.browse import MARKUP, sampled_rows, scripts, styles
from retell.records import Request
from retell.runfolder import RunFolder
from retell.shell import page
from retell.showing import open_rows

RAN = "window.ran = true"
HOSTILE = (
    f"<script>{RAN}</script>",
    f"</script><script>{RAN}</script>",
    f'<img src="x" onerror="{RAN}">',
    f"<svg onload={RAN}><a href=javascript:{RAN}>x</a></svg>",
    f"[click](javascript:{RAN}) javascript:{RAN}",
    f"$\\href{{javascript:{RAN}}}{{x}}$ $\\url{{javascript:{RAN}}}$",
    "$\\htmlClass{a}{x}$ $\\htmlData{x=1}{x}$ $\\htmlStyle{color: red}{x}$ <b style='all: initial'>",
    "$\\includegraphics{http://127.0.0.1:9/x.png}$ ![](http://127.0.0.1:9/y.png)",
    "$\\def\\a{\\a\\a\\a}\\a$",
    "$\\newcommand{\\x}{\\x\\x}\\x$",
    "${" + "{" * 400 + "x" + "}" * 400 + "}$",
    "$" + "x^{" * 300 + "x" + "}" * 300 + "$",
    "$" + "\\sqrt{" * 200 + "x" + "}" * 200 + "$",
    "$" + "\\frac{1}{" * 150 + "x" + "}" * 150 + "$",
    "$" + "\\left(" * 150 + "x" + "\\right)" * 150 + "$",
    "$\\rule{99999em}{99999em}$ $\\kern-9999em x$ $\\raise9999em{x}$ $\\hspace{99999em}$",
    "$" + "x+" * 1200 + "x$",
    "\u202egnp.exe\u202c \u2066a\u2069 \u200b\u200d\u2060\ufeff \u2028\u2029 \x1b[2J \x07",
    "\u05d0\u05d1\u05d2 (1) \u0627\u0644\u0639",
    "Z" + "\u0301" * 200,
    "<!-- <script> ]]> {{constructor.constructor('x')()}} ${alert(1)} %s",
)
IDS = ("<img src=x onerror=window.ran=true>", "__proto__", "constructor", "\u202eid", "</script>", "toString")
UNSEEN = re.compile("[\u202e\u202c\u2066\u2069\u200b\u200d\u2060\ufeff\u2028\u2029\x1b\x07]")


def problem(n: int) -> dict[str, str]:
    text = HOSTILE[n % len(HOSTILE)]
    name = IDS[n] if n < len(IDS) else f"row-{n}"
    return {"id": name, "problem": f"{n}: {text}", "solution": f"{text} so \\boxed{{{n}}}", "source": text}


PROBLEMS = [problem(n) for n in range(2 * len(HOSTILE))]
NUMBER = {one["id"]: n for n, one in enumerate(PROBLEMS)}


def answer(request: Request) -> Any:
    """By turns right at once, right when it is shown the solution, and never."""
    n = NUMBER[request.problem]
    right = n % 3 == 0 or (n % 3 == 1 and request.rung == "guided")
    return said(f"{HOSTILE[(n + 1) % len(HOSTILE)]} {request.rung} {request.index} \\boxed{{{n if right else -1}}}")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("hostile") / "run", PROBLEMS, answer)


@pytest.fixture(scope="module")
def embedded(run: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a page like a report's."""
    folder = RunFolder(run)
    recipe = folder.recipe()
    assert recipe
    return written(tmp_path_factory.mktemp("page"), asdict(sampled_rows(folder, open_rows(recipe, folder))))


@pytest.fixture(scope="module")
def served(run: Path) -> Iterator[str]:
    """The address of `retell view`."""
    with viewing(run) as (_, said):
        yield said["url"]


@pytest.fixture(params=["embedded", "served"])
def address(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def written(folder: Path, data: object) -> str:
    whole = page("rows", f"<main>{MARKUP}</main>", styles=styles(), scripts=scripts(), data={"browse": data})
    (folder / "page.html").write_text(whole, encoding="utf-8")
    return (folder / "page.html").as_uri()


def wait_for_rows(here: Visit, says: str | re.Pattern[str] = re.compile("^Rows")) -> None:
    expect(here.page.get_by_role("status").first).to_have_text(says)


def as_shown(text: str) -> str:
    """What stands on the page for a text, formulas aside."""
    return UNSEEN.sub(lambda found: f"U+{ord(found[0]):04X}", text)


def ids(here: Visit) -> list[str]:
    return here.page.locator(".browse-row h3").all_text_contents()


def assert_that_nothing_ran(here: Visit, address: str) -> None:
    assert here.page.evaluate("window.ran") is None
    assert (here.said, here.errors, here.refused) == ([], [], [])
    assert all(asked.startswith(f"{address}rows?") for asked in here.asked)
    assert (
        here.page.locator(".browse :is(a, img, script, iframe, object, embed, link, style, base, form form)").count()
        == 0
    )
    handlers = (
        "[...document.querySelectorAll('*')].flatMap(one => [...one.attributes]).filter(one => /^on/i.test(one.name))"
    )
    assert here.page.evaluate(f"{handlers}.length") == 0


def test_hostile_texts_are_shown_to_the_letter_and_nothing_runs(chromium: Browser, address: str) -> None:
    found: dict[str, list[str]] = {}
    with visit(chromium, address) as here:
        wait_for_rows(here)
        here.page.get_by_label("Typeset mathematics").uncheck()
        while True:
            for row in here.page.locator(".browse-row").all():
                name = row.locator("h3").text_content() or ""
                found[name] = row.locator(".text").all_text_contents()
            forth = here.page.get_by_role("button", name="Next").first
            if forth.is_disabled():
                break
            before = ids(here)
            forth.click()
            expect(here.page.locator(".browse-row h3").first).not_to_have_text(before[0])
            wait_for_rows(here)
        assert_that_nothing_ran(here, address)
    assert found.keys() == {as_shown(one["id"]) for one in PROBLEMS}
    for n, one in enumerate(PROBLEMS):
        shown = found[as_shown(one["id"])]
        drawn = f"{HOSTILE[(n + 1) % len(HOSTILE)]} self 0 \\boxed{{{n if n % 3 == 0 else -1}}}"
        assert shown[0] == as_shown(one["problem"])
        assert shown[1] == as_shown(one["solution"]) + ("" if n == 1 else "■")  # the second row has no log-probs
        assert shown[2] == as_shown(drawn) + "■"


def test_hostile_texts_run_nothing_when_they_are_typeset(chromium: Browser, address: str) -> None:
    with visit(chromium, address, PHONE) as here:
        wait_for_rows(here)
        for _ in range(3):
            for details in here.page.locator(".browse-row summary").all():
                details.click()
            assert here.page.evaluate("document.documentElement.scrollWidth") == PHONE[0]
            here.page.get_by_role("button", name="Next").first.click()
            wait_for_rows(here)
        assert_that_nothing_ran(here, address)
        bombs = here.page.locator(".browse .katex-html").evaluate_all(
            "all => Math.max(0, ...all.map(one => one.querySelectorAll('*').length))"
        )
        assert bombs < 6000


def test_no_text_reaches_out_of_its_box(chromium: Browser, embedded: str) -> None:
    with visit(chromium, embedded) as here:
        wait_for_rows(here)
        for text in here.page.locator(".browse .text").all():
            style = text.evaluate("one => [getComputedStyle(one).contain, getComputedStyle(one).unicodeBidi]")
            assert style == ["content", "isolate"]
            assert text.get_attribute("dir") == "auto"


def test_codes_are_shown_for_what_cannot_be_seen(chromium: Browser, embedded: str) -> None:
    with visit(chromium, embedded) as here:
        wait_for_rows(here)
        here.page.get_by_label("Search").fill("gnp.exe")
        wait_for_rows(here, re.compile("that are like that"))
        codes = here.page.locator(".problem", has_text="gnp.exe").first.locator(".unseen").all_text_contents()
        assert codes == [f"U+{ord(found):04X}" for found in UNSEEN.findall(HOSTILE[17])]
        name = here.page.locator(".browse-row h3 bdi").first
        assert name.get_attribute("dir") == "auto"


def test_mathematics_is_typeset_and_prices_are_not(chromium: Browser, tmp_path: Path) -> None:
    texts = {
        "$x^2$ and \\(y\\) and \\[z\\] and $$w$$": 4,
        "\\boxed{\\frac{1}{2}} and \\begin{align*} a &= b \\\\ c &= d \\end{align*}": 2,
        "It costs $5 and $10, or $3-$4, or \\$7": 0,
        "$ x $ and $x and \n\n y$": 0,
        "$\\nosuchthing$ and $\\frac{1$ and \\boxed{2": 0,
        "\\text{a} \\unknown{b}": 0,
        "日本 $\\text{日本}$": 1,
    }
    with visit(chromium, written(tmp_path, plain_rows(list(texts)))) as here:
        wait_for_rows(here)
        for place, (text, formulas) in enumerate(texts.items()):
            problem = here.page.locator(".problem").nth(place)
            assert problem.locator(".katex-html").count() == formulas, text
            if not formulas:
                assert problem.text_content() == text
        here.page.get_by_label("Typeset mathematics").uncheck()
        assert here.page.locator(".problem").all_text_contents() == list(texts)
        assert (here.said, here.errors, here.asked) == ([], [], [])


def plain_rows(problems: list[str], responses: dict[str, Any] | None = None) -> dict[str, Any]:
    """A data object of rows that have little but a problem."""
    rows = [
        {"row": n, "id": f"r{n}", "source": "", "problem": problem, "answer": "1", "rung": "expert", "self": None}
        | {"expert": {"text": "", "kept": True, **(responses or {})}, "guided": None, "attempts": None}
        | {"counts": {"self": [0, 0], "guided": [0, 0]}, "verdicts": []}
        for n, problem in enumerate(problems)
    ]
    return {"rows": rows, "shown": len(rows), "total": len(rows), "notes": ["A note of `retell gap x`."]}


def test_tokens_are_shaded_and_told(chromium: Browser, tmp_path: Path) -> None:
    response = {
        "text": "one é two$x^2$ three",
        "lengths": [3, 1, 0, 1, 4, 2, 3, 6, 0],
        "logprobs": [10, 100, 300, 301, 700, 20, 30, 9999, 1],
        "ends": True,
        "scored": 9,
        "logprob": -114.61,
    }
    with visit(chromium, written(tmp_path, plain_rows(["?"], response))) as here:
        wait_for_rows(here)
        here.page.get_by_label("Typeset mathematics").uncheck()
        text = here.page.locator(".response.expert .text")
        tokens = text.locator(".token")
        assert tokens.all_text_contents() == ["one", " ", "é", " two", "$x", "^2$", " three", "■"]
        levels = [re.search(r"p(\d)", name)[1] for name in tokens.evaluate_all("all => all.map(one => one.className)")]  # type: ignore[index]
        assert levels == ["0", "1", "2", "4", "0", "0", "4", "0"]
        tokens.nth(2).hover()
        tip = here.page.locator(".browse-tip")
        expect(tip).to_have_text("“é” (2 tokens): log-prob −6.01, a token −3.00, probability 0.25 %")
        here.page.mouse.move(0, 0)
        expect(tip).to_be_hidden()
        text.focus()
        for expected in ("“one”: log-prob −0.10, probability 90.5 %", "“ ”: log-prob −1.00, probability 36.8 %"):
            here.page.keyboard.press("ArrowRight")
            expect(tip).to_have_text(expected)
        here.page.keyboard.press("ArrowLeft")
        expect(tip).to_have_text("“one”: log-prob −0.10, probability 90.5 %")
        here.page.keyboard.press("Escape")
        expect(tip).to_be_hidden()
        here.page.get_by_label("Typeset mathematics").check()
        text.locator(".formula .mathnormal").hover()
        expect(tip).to_have_text("Formula of 2 tokens: log-prob −0.50, a token −0.25, probability 60.7 %")
        here.page.get_by_label("Shade tokens").uncheck()
        assert tokens.count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_on_every_shade_can_be_read(chromium: Browser, embedded: str, scheme: str) -> None:
    luminance = """one => {
      const light = text => text.match(/[\\d.]+/g).slice(0, 3).map(c => c / 255)
        .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, place) => sum + c * [0.2126, 0.7152, 0.0722][place], 0);
      const style = getComputedStyle(one);
      return [light(style.color), light(style.backgroundColor)];
    }"""
    with visit(chromium, embedded, color_scheme=scheme) as here:
        wait_for_rows(here)
        shades = here.page.locator(".browse-legend .token:not(.p0)")
        assert shades.count() == 4
        backgrounds = []
        for shade in shades.all():
            low, high = sorted(shade.evaluate(luminance))
            assert (high + 0.05) / (low + 0.05) >= 4.5
            backgrounds.append(shade.evaluate(luminance)[1])
        assert backgrounds == sorted(backgrounds, reverse=scheme == "light"), "the scale is no sequence"


def test_rows_are_searched_filtered_and_turned(chromium: Browser, address: str) -> None:
    with visit(chromium, address) as here:
        wait_for_rows(here)
        assert len(ids(here)) == 10
        assert here.page.get_by_role("button", name="Previous").first.is_disabled()
        here.page.get_by_label("Rung").select_option("guided")
        guided = [one["id"] for n, one in enumerate(PROBLEMS) if n % 3 == 1]
        wait_for_rows(here, f"Rows 1–10 of {len(guided)} that are like that, of {len(PROBLEMS)}.")
        here.page.get_by_role("button", name="Next").first.click()
        wait_for_rows(here, re.compile(f"^Rows 11–{len(guided)} of {len(guided)} "))
        assert ids(here) == [as_shown(one) for one in guided[10:]]
        assert here.page.get_by_role("button", name="Next").first.is_disabled()
        here.page.get_by_role("button", name="Previous").first.click()
        wait_for_rows(here, re.compile("^Rows 1–10 "))
        here.page.get_by_label("Has an attempt that is").select_option("undecided")
        wait_for_rows(here, re.compile("^None of the"))
        here.page.get_by_label("Has an attempt that is").select_option("correct")
        wait_for_rows(here, re.compile(f"of {len(guided)} "))
        here.page.get_by_label("Rung").select_option("any")
        here.page.get_by_label("Has an attempt that is").select_option("any")
        here.page.get_by_label("Search").fill("<SCRIPT>WINDOW")
        expect(here.page.locator(".browse-row")).to_have_count(
            sum("<script>window" in str(texts(n)) for n in range(len(PROBLEMS)))
        )
        here.page.get_by_label("Search").fill("")
        here.page.get_by_label("From row").fill("row-30")
        expect(here.page.locator(".browse-row h3").first).to_have_text("row-30")
        here.page.get_by_label("From row").fill("9")
        expect(here.page.locator(".browse-row h3").first).to_have_text("row-8")
        here.page.get_by_label("From row").fill("no such row")
        wait_for_rows(here, re.compile("no such row"))
        assert here.errors == []


def texts(n: int) -> list[str]:
    """What is searched of a row: the responses that were not kept are none of it in `retell view`."""
    kept = f"{HOSTILE[(n + 1) % len(HOSTILE)]}" if n % 3 < 2 else ""
    return [PROBLEMS[n]["problem"], PROBLEMS[n]["solution"], kept]


def test_an_attempt_is_shown_in_its_column(chromium: Browser, served: str) -> None:
    with visit(chromium, served) as here:
        wait_for_rows(here)
        here.page.get_by_label("From row").fill("row-8")  # its samples are all wrong
        expect(here.page.locator(".browse-row h3").first).to_have_text("row-8")
        row = here.page.locator(".browse-row").first
        row.locator("summary").click()
        lines = row.locator(".attempts tbody tr")
        assert [line.split("✗")[0] for line in lines.all_text_contents()] == ["self1", "self2", "guided1", "guided2"]
        here.page.get_by_label("Typeset mathematics").uncheck()
        assert "guided 0 " in (row.locator(".response.guided .text").text_content() or "")
        lines.nth(3).get_by_role("button", name="Show").click()
        expect(row.locator(".response.guided .text")).to_contain_text("guided 1 ")
        expect(row.locator(".response.guided .text")).to_be_focused()
        assert "self 0 " in (row.locator(".response.self .text").text_content() or "")


def answers(*bodies: dict[str, Any]) -> Callable[[Route], None]:
    """What a server says to one question after the other; the last answer is repeated."""
    left = list(bodies)

    def answer(route: Route) -> None:
        route.fulfill(json=left.pop(0) if len(left) > 1 else left[0])

    return answer


def test_a_long_search_goes_on_by_itself_and_can_be_stopped(chromium: Browser, served: str) -> None:
    rows = plain_rows([f"hit {n}" for n in range(12)])["rows"]
    with visit(chromium, served) as here:
        wait_for_rows(here)
        part = {"total": None, "before": None}
        first = {"rows": rows[:3], "next": 4000, **part}
        here.page.route(
            "**/rows?*", answers(first, {"rows": [], "next": 8000, **part}, {"rows": rows[3:], "next": 9000, **part})
        )
        here.page.get_by_label("Search").fill("hit")
        wait_for_rows(here, "Page 1.")
        assert ids(here) == [f"r{n}" for n in range(10)]
        with here.page.expect_request(re.compile("start=10$")):  # the first of the rows that the page has no room for
            here.page.get_by_role("button", name="Next").first.click()
        wait_for_rows(here, "Page 2.")
        here.page.unroute("**/rows?*")
        here.page.route("**/rows?*", answers(first, {"rows": [], "next": 8000, **part}))
        here.page.get_by_label("Search").fill("for ever")
        wait_for_rows(here, re.compile(r"^Looking: 3 rows found, up to row 8,000 of 42\.$"))
        assert len(ids(here)) == 3
        here.page.get_by_role("button", name="Stop").click()
        wait_for_rows(here, "Stopped; Next looks on from there.")
        with here.page.expect_request(re.compile("start=8000$")):
            here.page.get_by_role("button", name="Next").first.click()
        here.page.get_by_role("button", name="Stop").click()
        wait_for_rows(here, re.compile("^Stopped"))
        assert here.page.get_by_role("button", name="Stop").is_hidden()
        here.page.unroute("**/rows?*")
        here.page.get_by_label("Search").fill("")
        wait_for_rows(here, "Rows 1–10 of 42.")
        assert here.errors == []


def test_a_server_that_is_gone_is_named(chromium: Browser, served: str) -> None:
    with visit(chromium, served) as here:
        wait_for_rows(here)
        here.page.route("**/rows?*", lambda route: route.abort())
        here.page.get_by_role("button", name="Next").first.click()
        wait_for_rows(here, "The server does not answer: is `retell view` still running?")
        here.page.unroute("**/rows?*")
        here.page.route("**/rows?*", lambda route: route.fulfill(status=500, json={"error": "the disk is gone"}))
        here.page.get_by_label("Rung").select_option("self")
        wait_for_rows(here, "the disk is gone")
        assert here.errors == []


def test_a_long_text_is_shown_in_part_until_one_asks(chromium: Browser, tmp_path: Path) -> None:
    with visit(chromium, written(tmp_path, plain_rows(["x" * 30_000]))) as here:
        wait_for_rows(here)
        problem = here.page.locator(".problem")
        assert (problem.text_content() or "").count("x") == 20_000
        problem.get_by_role("button", name="Show 10,000 characters more").click()
        assert problem.text_content() == "x" * 30_000


def test_a_page_without_rows_says_so(chromium: Browser, tmp_path: Path) -> None:
    with visit(chromium, written(tmp_path, plain_rows([]) | {"total": 9})) as here:
        wait_for_rows(here, "There are no rows.")
        assert here.page.locator(".browse-note code").text_content() == "retell gap x"
