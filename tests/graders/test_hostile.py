"""What a model may write to hang, swell, fool or take over a grader."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from retell.graders.base import Case
from retell.graders.math import MathGrader
from retell.graders.pool import GraderPool
from retell.records import Verdict


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    with GraderPool(MathGrader(), 2) as found:
        yield found


def graded(pool: GraderPool, cases: dict[str, tuple[str, str]]) -> dict[str, Verdict]:
    """The verdict on each (response, gold); afterwards the pool still tells right from wrong."""
    for ticket, (response, gold) in cases.items():
        pool.submit(ticket, Case("", response, gold))
    for number in range(20):
        pool.submit(f"after {number}", Case("", f"\\boxed{{\\frac{{{number}}}{{7}}x}}", f"{number + number % 2}x/7"))
    found: dict[str, Verdict] = {}
    while pool.pending:
        found |= pool.collect(wait=True)
    for number in range(20):
        assert found.pop(f"after {number}").outcome == ("wrong" if number % 2 else "correct")
    assert found.keys() == cases.keys()
    return found


def none_correct(pool: GraderPool, cases: dict[str, tuple[str, str]]) -> dict[str, Verdict]:
    found = graded(pool, cases)
    assert {ticket: verdict for ticket, verdict in found.items() if verdict.outcome == "correct"} == {}
    assert all("failed" not in verdict.reason for verdict in found.values()), found
    return found


def boxed(*answers: str, gold: str = "7") -> dict[str, tuple[str, str]]:
    return {f"{number}: {answer[:40]}": (f"\\boxed{{{answer}}}", gold) for number, answer in enumerate(answers)}


def test_numbers_too_large_to_work_out(pool: GraderPool) -> None:
    answers = [
        "9^{9^{9^{9}}}",
        "10^{10^{10}}",
        "2^{2^{2^{2^{2^{2^{2}}}}}}",
        "(10^9)!",
        "(((9!)!)!)!",
        "9!!!!!!!",
        "\\binom{10^{12}}{10^{11}}",
        "\\binom{10^{100}}{7}",
        "\\frac{10^{10^9}}{10^{10^9}-1}",
        "\\sqrt[10^9]{2}",
        "2^{-10^{12}}",
        "(1+10^{-12})^{10^{12}}",
        "\\exp(\\exp(\\exp(\\exp(9))))",
        "\\sin(10^{10^{10}})",
        "\\tan(10^{20})",
        "\\ln(9^{9^{9^9}})",
        "\\log_{10^{10^{10}}} 2",
        "\\lfloor 10^{10^{10}} \\pi \\rfloor",
        "\\gcd(10^{10^9}, 6^{10^9})",
        "x^{10^{12}}",
        "(x+1)^{10^{12}}",
        "(a+b+c+d)^{80}",
        "(a+b+c+d)^{80000000}",
        "1e9999",
        "1e99999",
        "1" + "0" * 3000 + "!",
        "i^{10^{10^{10}}}",
        "0.5^{10^{10}}",
        "\\pi^{\\pi^{\\pi^{\\pi}}}",
        "(-1)^{10^{10^{10}}} \\cdot 10^{10^{10}}",
    ]
    none_correct(pool, boxed(*answers) | {f"x {k}": v for k, v in boxed(*answers[:8], gold="x+1").items()})


def test_huge_near_misses(pool: GraderPool) -> None:
    pairs = {
        "power": ("2^{10000000}+1", "2^{10000000}"),
        "tower": ("9^{9^{9^9}}+1", "9^{9^{9^9}}"),
        "factorial": ("(10^7)!+1", "(10^7)!"),
        "expansion": ("(a+b+c+d)^{80}", "(a+b+c+d)^{79}"),
        "root": ("\\sqrt{10^{60}+1}", "10^{30}"),
        "Ramanujan": ("e^{\\pi\\sqrt{163}}", "262537412640768744"),
        "tiny": ("\\pi+10^{-600}", "\\pi"),
        "interval": ("[0, 10^{50}+1]", "[0, 10^{50}]"),
        "degree 50": ("y=(x+1)^{50}+1", "y=(x+1)^{50}"),
        "10,000 digits": ("7" * 9999 + "8", "7" * 10_000),
        "1,000 digits": ("7" * 999 + "8", "7" * 1000),
        "decimals": ("0." + "7" * 9999 + "8", "0." + "7" * 10_000),
        "nan": ("\\infty-\\infty", "nan"),
        "roots": ("+".join(f"\\sqrt{{{n}}}" for n in range(2, 40)), "+".join(f"\\sqrt{{{n}}}" for n in range(2, 41))),
        "terms": ("+".join(f"{n}x^{{{n}}}" for n in range(1, 300)), "+".join(f"{n}x^{{{n}}}" for n in range(2, 301))),
        "factors": ("".join(f"(x+{n})" for n in range(1, 60)), "".join(f"(x+{n})" for n in range(2, 61))),
    }
    none_correct(pool, {name: (f"\\boxed{{{answer}}}", gold) for name, (answer, gold) in pairs.items()})


def test_what_only_the_algebra_can_read(pool: GraderPool) -> None:
    """Each may cost its two deadlines of processor time."""
    none_correct(
        pool,
        boxed(
            "\\prod_{k=1}^{10000000}(k^2+1)",
            "\\int_0^1 x^x \\sin(x^{x^x})dx",
        ),
    )


NESTS = {
    "parentheses": ("(", "8", ")"),
    "braces": ("{", "8", "}"),
    "sets": ("\\{", "8", "\\}"),
    "fractions": ("\\frac{1}{", "8", "}"),
    "continued": ("1+\\frac{1}{", "8", "}"),
    "plain fractions": ("1/(1+", "8", ")"),
    "roots": ("\\sqrt{", "8", "}"),
    "powers": ("2^{", "8", "}"),
    "bare powers": ("2^", "8", ""),
    "subscripts": ("x_{", "8", "}"),
    "sines": ("\\sin(", "8", ")"),
    "texts": ("\\text{", "8", "}"),
    "boxes": ("\\boxed{", "8", "}"),
    "tuples": ("(1,", "8", ")"),
    "bars": ("|", "8", "|"),
    "minus signs": ("-", "8", ""),
    "factorials": ("", "8", "!"),
    "primes": ("", "x", "'"),
    "intervals": ("[0,", "8", ")"),
    "matrices": ("\\begin{pmatrix}", "8", "\\end{pmatrix}"),
    "left right": ("\\left(", "8", "\\right)"),
    "functions": ("f(", "8", ")"),
    "equations": ("x=", "8", ""),
    "sums": ("\\sum_{k=1}^{", "8", "}"),
    "integrals": ("\\int_{", "8", "}"),
    "angles": ("\\langle ", "8", "\\rangle"),
    "accents": ("\\overline{", "8", "}"),
    "floors": ("\\lfloor ", "8", "\\rfloor"),
    "fonts": ("\\mathbf{", "8", "}"),
    "unclosed": ("(", "8", ""),
    "unopened": ("", "8", ")"),
    "fractions of digits": ("\\frac", "88", ""),
    "dollars": ("$", "8", "$"),
    "relations": ("8<", "x", ""),
    "unions": ("(0,1)\\cup", "\\{8\\}", ""),
    "choices": ("A. ", "8", ""),
    "lists": ("8,", "8", ""),
    "ors": ("8 \\text{ or } ", "8", ""),
}


@pytest.mark.parametrize("depth", [100, 10_000])
def test_deep_nesting(pool: GraderPool, depth: int) -> None:
    none_correct(
        pool, boxed(*(opening * depth + inner + closing * depth for opening, inner, closing in NESTS.values()))
    )


def test_deep_nesting_as_gold(pool: GraderPool) -> None:
    golds = [opening * 1000 + inner + closing * 1000 for opening, inner, closing in list(NESTS.values())[::3]]
    none_correct(pool, {str(number): ("\\boxed{x+1}", gold) for number, gold in enumerate(golds)})


def test_megabytes(pool: GraderPool) -> None:
    million = 1_000_000
    responses = {
        "digits": "\\boxed{" + "8" * million + "}",
        "letters": "\\boxed{" + "x" * million + "}",
        "sum": "\\boxed{" + "1+" * (million // 2) + "1}",
        "spaces": "\\boxed{" + " " * million + "8}",
        "text": "\\boxed{\\text{" + "seven " * (million // 6) + "}}",
        "99,000 letters": "\\boxed{" + "x" * 99_000 + "}",
        "9,000 numbers": "\\boxed{" + "8," * 9000 + "8}",
        "9,000 commas": "\\boxed{" + "," * 9000 + "}",
        "9,000 backslashes": "\\boxed{" + "\\\\" * 9000 + "}",
        "9,000 terms": "\\boxed{" + "1+" * 9000 + "1}",
        "99,000 spaces": "\\boxed{8" + " " * 99_000 + "8}",
        "100,000 boxes": "\\boxed{7} " * 99_999 + "\\boxed{8}",
        "100,000 open boxes": "\\boxed{" * 100_000 + "7",
        "open boxes after it": "\\boxed{8}" + "\\boxed{" * 100_000 + "7",
        "boxes in boxes": "\\boxed{" * 20_000 + "8" + "}" * 20_000,
        "answers": "The answer is 7, no. " * 50_000 + "The answer is 8",
        "braces": "}" * (million // 2) + "{" * (million // 2) + "\\boxed{8}",
        "marks": "#### " * (million // 5) + "8",
        "thoughts": "<think>" * (million // 7) + "\\boxed{7}",
        "no answer": "7 " * (million // 2),
    }
    none_correct(pool, {name: (response, "7") for name, response in responses.items()})


@pytest.mark.parametrize(
    "text",
    [
        "\x007", "7\x00", "\x00 8", "7\u202e", "\u202e7", "\u2066 7 \u2069", "\u200f7", "٧", "７８", "७", "Ⅶ", "⑦",
        "𝟟𝟠", "7\u0301", "7\ud800", "\ud8007",
        "7\x1b[2K", "\x7f7", "7\u2028@", "8\b7", "7\r8", "<b>7</b>", "7;DROP TABLE", "7 # 8", "7 % 8", "7 or 8", "7?",
        "not 7", "7 = 8", "7 < 8",
        "nan", "inf", "-inf", "\\text{nan}", "\\infty", "\\frac{0}{0}", "\\frac{7}{0}", "0/0",
        "7 + \\infty - \\infty", "7^{\\infty}", "None", "True", "null", "[]", "{}",
        "x", "x=x", "7=x=8", "\\{7, 8\\}", "1,2,3,4,5,6,7,8,9", "\\mathbb{R}", "(-\\infty,\\infty)", "7 \\pm 1", "A",
        "\\ldots", "?", "*", ".", "_", "7_8", "0x7", "7e", "7i",
        "\\text{answer}", "\\text{the correct answer}", "\\text{same as gold}", "correct", "\\boxed{}",
        "\\phantom{8}7", "\\color{red}8", "7\\tag{8}", "\\href{x}{7}", "\\input{7}",
        "7\\newcommand{\\x}{8}", "\\def\\x{8}7", "%7", "7&8", "7\\\\8", "\\frac{7}", "7 7", "77", "7.7.7", "--7 -14",
        "+-7", "7-", "7!", "7'", "7°C8", "\\sqrt{7", "7 \\text{ not}",
    ],
)  # fmt: skip
def test_strange_texts_are_not_seven(pool: GraderPool, text: str) -> None:
    pool.submit("it", Case("", f"\\boxed{{{text}}}", "7"))
    pool.submit("after", Case("", "\\boxed{\\frac{14}{2}}", "7"))
    pool.submit("before", Case("", "\\boxed{7 + 0}", "7"))
    found: dict[str, Verdict] = {}
    while pool.pending:
        found |= pool.collect(wait=True)
    assert found["it"].outcome != "correct"
    assert "failed" not in found["it"].reason
    assert found["before"].outcome == found["after"].outcome == "correct"


def codes(marker: Path) -> list[str]:
    touch, write = f"touch {marker}", f"open('{marker}','w')"
    system = f"__import__('os').system('{touch}')"
    return [
        system,
        system.replace("'", '"'),
        f"${system}$",
        f"1+{system}",
        f"7 if {system} else 7",
        f"eval(\"{system}\")",
        f"exec(\"{system}\")",
        f"exec(bytes([{','.join(str(code) for code in system.encode())}]))",
        write,
        f"(lambda: {write})()",
        f"[c for c in ().__class__.__base__.__subclasses__()] or {write}",
        f"type('X',(),{{'__eq__':lambda s,o:{write}}})()",
        f"x={system}",
        f"\\frac{{{system}}}{{1}}",
        f"\\sqrt{{{system}}}",
        f"\\sum_{{k=1}}^{{{system}}} k",
        f"\\int_0^1 {system} dx",
        f"\\operatorname{{{system}}}",
        f"\\text{{{system}}}",
        f"\\mathrm{{{write}}}",
        f"\\begin{{pmatrix}}{system}\\end{{pmatrix}}",
        f"\\{{{system}\\}}",
        f"({system}, 7)",
        f"{system} \\le x",
        f"\\immediate\\write18{{{touch}}}",
        f"\\input{{|{touch}}}",
        f"\\directlua{{os.execute('{touch}')}}",
        f"\\text{{`{touch}`}}",
        f"`{touch}`",
        f"$({touch})",
        f"${{IFS}};{touch}",
        f"'; {touch}; '",
        f"\"; {touch}; \"",
        f"7; {touch}",
        f"7 && {touch}",
        f"| {touch}",
        f"> {marker}",
        f"\\n{touch}\\n",
        f"{{{{{system}}}}}",
        f"{{% {system} %}}",
        f"${{jndi:{system}}}",
        f"<script>{write}</script>",
        f"!!python/object/apply:os.system ['{touch}']",
        f"cos\nsystem\n(S'{touch}'\ntR.",
        f"sympify('{system}')",
        f"Symbol('x').__class__.__init__.__globals__['os'].system('{touch}')",
        f"lambdify(x, {system})()",
        f"S({system!r})",
        f"N({system})",
        f"f({system})",
        f"parse_expr({system!r})",
        f"print({write})",
        f"np.load('{marker}')",
        f"@{system}",
        f"7 # {system}",
    ]  # fmt: skip


@pytest.mark.parametrize("as_gold", [False, True])
def test_code_is_not_run(pool: GraderPool, tmp_path: Path, as_gold: bool) -> None:
    marker = tmp_path / "marker"
    cases = {}
    for number, code in enumerate(codes(marker)):
        cases[f"box {number}"] = ("\\boxed{2y}", code) if as_gold else (f"\\boxed{{{code}}}", "2y")
        cases[f"line {number}"] = ("A: 2y", code) if as_gold else (f"It is so.\nAnswer: {code}", "2y")
    none_correct(pool, cases)
    assert not marker.exists()


def test_code_that_is_the_gold_is_not_run_either(pool: GraderPool, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    graded(pool, {str(number): (f"\\boxed{{ {code} + 0}}", code) for number, code in enumerate(codes(marker))})
    assert not marker.exists()


def matrix(rows: list[list[str]]) -> str:
    return "\\begin{pmatrix}" + "\\\\".join("&".join(row) for row in rows) + "\\end{pmatrix}"


def test_many_entries(pool: GraderPool) -> None:
    numbers = [str(n * n + n // 7) for n in range(5000)]
    changed = [*numbers[:2500], "-1", *numbers[2501:]]
    rows = [[str(i * j + 1) for j in range(100)] for i in range(100)]
    other = [list(row) for row in rows]
    other[50][50] = "-1"
    roots, more = ([f"\\sqrt{{{n}}}" for n in range(start, start + 300)] for start in (2, 3))
    fractions = [f"\\frac{{{n}}}{{{n + 1}}}" for n in range(1, 500)]
    same = {
        "set": ("\\{" + ",".join(numbers) + "\\}", "\\{" + ", ".join(reversed(numbers)) + "\\}"),
        "list": (",".join(numbers), ", ".join(reversed(numbers))),
        "tuple": ("(" + ",".join(numbers) + ")", "(" + ", ".join(numbers) + ")"),
        "fractions": ("\\{" + ",".join(fractions) + "\\}", "\\{" + ",".join(reversed(fractions)) + "\\}"),
        "matrix": (matrix(rows), matrix(rows).replace("pmatrix", "bmatrix")),
    }
    differ = {
        "set": ("\\{" + ",".join(changed) + "\\}", same["set"][1]),
        "list": (",".join(changed), same["list"][1]),
        "tuple": ("(" + ",".join(changed) + ")", same["tuple"][1]),
        "one missing": ("\\{" + ",".join(numbers[1:]) + "\\}", same["set"][1]),
        "matrix": (matrix(other), matrix(rows)),
        "turned matrix": (matrix([list(column) for column in zip(*other, strict=True)]), matrix(rows)),
        "roots": ("\\{" + ",".join(roots) + "\\}", "\\{" + ",".join(reversed(more)) + "\\}"),
        "intervals": (
            "\\cup".join(f"({2 * n},{2 * n + 1})" for n in range(300)),
            "\\cup".join(f"({2 * n},{2 * n + 1}]" for n in range(300)),
        ),
    }
    right = graded(pool, {name: (f"\\boxed{{{one}}}", two) for name, (one, two) in same.items()})
    assert {name: verdict.outcome for name, verdict in right.items()} == dict.fromkeys(same, "correct")
    none_correct(pool, {name: (f"\\boxed{{{one}}}", two) for name, (one, two) in differ.items()})


def test_thousands_in_a_row(pool: GraderPool) -> None:
    """Among them one at whose judging two workers die."""
    shapes = [
        "9^{{9^{{9^{0}}}}}",
        "{0}/0",
        "\x00{0}",
        "({0}!)!",
        "\\text{{{0} or 8}}",
        "x^{{{0}",
        "{0} 7",
        "(((({0}",
        "\\frac{{{0}}}",
        "\\sqrt{{-{0}}}x",
        "{0}^{{-10^{{9}}}}",
        "{0}+\\infty",
    ]
    cases = {str(n): (f"\\boxed{{{shapes[n % len(shapes)].format(n)}}}", "3.5") for n in range(2000)}
    cases["slow"] = ("\\boxed{\\prod_{k=1}^{10000000}(k^2+1)}", "3.5")
    cases |= {f"right {n}": (f"\\boxed{{\\frac{{{2 * n + 7}}}{{2}} - {n}}}", "3.5") for n in range(500)}
    found = graded(pool, cases)
    assert {ticket for ticket, verdict in found.items() if verdict.outcome == "correct"} == {
        f"right {n}" for n in range(500)
    }
