"""Makes, from the golds of the benchmarks, answers that are right in another form and answers that are nearly right.

    python bench/perturb.py [--data DIR] [--show N]

prints how many of each kind there are, and N examples of each. Everything is chosen by the content, so that two runs
yield the same pairs.
"""

import argparse
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from random import Random

from golds import ARBITRARY, BENCHMARKS, THOUSANDS, Row, data_folder, is_list, is_scalar, plain, rows
from scalars import Variant, decimal, forms, misses, number
from structures import structure_forms, structure_misses

_GSM8K_FORMS, _GSM8K_MISSES = 0.40, 0.50
"""The shares of GSM8K's pairs that are kept: about a third of all pairs then stem from it."""


@dataclass(frozen=True, slots=True)
class Pair:
    """An answer to be judged against a gold, and the verdict it deserves."""

    benchmark: str
    problem: str
    gold: str
    answer: str
    equal: bool
    kind: str


def pairs(data: Path) -> Iterator[Pair]:
    """Every pair, each (gold, answer) once; an answer that one rule calls right and another wrong is left out."""
    seen: set[tuple[str, str]] = set()
    for row in rows(data):
        right = dict(_clean(row, equal_forms(row)))
        wrong = dict(_clean(row, near_misses(row)))
        for variants, other, equal in ((right, wrong, True), (wrong, right, False)):
            keep = 1.0 if row.benchmark != "gsm8k_test" else _GSM8K_FORMS if equal else _GSM8K_MISSES
            for answer, kind in variants.items():
                if answer in other or (row.gold, answer) in seen or Random(f"{row.gold}={answer}").random() > keep:
                    continue
                seen.add((row.gold, answer))
                yield Pair(row.benchmark, row.problem, row.gold, answer, equal, kind)


def _clean(row: Row, variants: Iterator[Variant]) -> Iterator[Variant]:
    return ((answer, kind) for answer, kind in variants if answer and answer.strip() != row.gold)


# ------------------------------------------------------------------------------------------------------ equal forms


def equal_forms(row: Row) -> Iterator[Variant]:
    """Right answers in another form than the gold's."""
    text = plain(row.gold)
    yield from _wrapped(row, text)
    for make in (_special_forms, structure_forms):
        found = list(make(row, text))
        if found:
            yield from found
            return
    if not is_list(text):
        yield from forms(text, row.gold)


def _wrapped(row: Row, text: str) -> Iterator[Variant]:
    if "$" not in text:
        yield f"${text}$", "dollars"
        yield f"\\( {text} \\)", "dollars"
    if text[-1] not in ".\\":
        yield f"{text}.", "period"
    yield f"\\, {text} \\,", "spacing"
    if not text.startswith("\\text"):
        yield f"\\displaystyle {text}", "displaystyle"
    if "\\frac" in text:
        yield text.replace("\\frac", "\\dfrac"), "dfrac"
        yield text.replace("\\frac", "\\tfrac"), "tfrac"
    if "\\dfrac" in text:
        yield text.replace("\\dfrac", "\\frac"), "dfrac"
    if "\\left" in text and not re.search(r"\\left[^(\[]", text):
        yield re.sub(r"\\(left|right)\b\s*", "", text), "left_right"
    elif re.search(r"[(\[]", text) and "\\begin" not in text and "\\text" not in text and ".arcsin" not in text:
        sized = re.sub(r"(?<!\\sqrt)([(\[])", r"\\left\1", text)
        sized = sized.replace(")", "\\right)").replace("]", "\\right]")
        if "\\sqrt[" not in text and not re.match(r"[a-z]\(.*\]$", text):
            yield sized, "left_right"
    if "+" in text and "{+" not in text and not text.startswith("+") and "\\text" not in text:
        yield text.replace("+", " \\, + \\; "), "spacing"
    if re.match(r"^[^a-z]*-", text) and re.fullmatch(r"[-\d.,()\[\] /]+|-?\d+[\d.]*", text):
        yield text.replace("-", "−"), "unicode_minus"
    if " " in text and "\\" not in text and not _is_word(text):
        yield text.replace(" ", ""), "spacing"
    if number(text) is not None or ("sqrt" in text and is_scalar(text)):
        letter = next((name for name in "xSANk" if name not in text), "")
        yield f"{letter} = {text}", "named"
        yield f"\\boxed{{{text}}}", "boxed_twice"
        yield f"{{{text}}}", "braced"
    if number(text) is not None:
        yield from _from_problem(row, text)


def _is_word(text: str) -> bool:
    return bool(re.search(r"\\(text|mbox)|[A-Za-z]{2}", text))


def _from_problem(row: Row, text: str) -> Iterator[Variant]:
    """A number with the unit that the question asks for."""
    question = re.split(r"(?<=[.!?])\s+", row.problem.strip())[-1]
    if match := re.search(r"[Hh]ow many (?!does|is|was|has)([a-z]+s)\b(?! of\b)", question):
        yield f"{text}\\text{{ {match[1]}}}", "unit"
        yield f"{text} {match[1]}", "unit_bare"
        yield f"\\text{{{text} {match[1]}}}", "unit_inside_text"
    asks_money = re.search(r"dollars|[Hh]ow much (money|did .* (cost|pay|spend|earn))|\bcosts?\b", question)
    if asks_money and "$" in row.problem and row.benchmark == "gsm8k_test" and "percent" not in question:
        yield f"\\${text}", "money"
        yield f"\\${text}.00" if re.fullmatch(r"-?\d+", text) else "", "money"
        yield f"{text}\\text{{ dollars}}", "money"
    if re.search(r"what percent|what percentage|how many percent", question.lower()):
        yield f"{text}\\%", "percent_sign_added"
    if re.search(r"\bdegrees?\b|degree measure", question) and "how many" not in question.lower():
        yield f"{text}^\\circ", "degrees_added"
    if match := re.search(r"\(in (?:\$\\mathrm\{~?([A-Za-z]+)\}\$|([A-Za-z]+))\)", row.problem):
        yield f"{text} \\mathrm{{~{match[1]}}}" if match[1] else f"{text}\\text{{ {match[2]}}}", "unit"


_NUMBER = r"-?(?:\d+\.?\d*|\.\d+|\\[dt]?frac\s*(?:\{\d+\}|\d)\s*(?:\{\d+\}|\d))"
_E_NOTATION = re.compile(r"(-?\d+(?:\.\d+)?)e(-?\d+)")
_DEGREES = re.compile(rf"({_NUMBER})\s*(?:\^\{{?\\circ\}}?|\\text\{{ degrees\}})")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*\\?%")
_MONEY = re.compile(r"\\\$(\d[\d,\\!]*(?:\.\d+)?)")
_UNIT = re.compile(rf"({_NUMBER})\s*\\(?:text|mbox)\{{\s*([a-z]+)\s*\}}(\^\d)?")
_BASED = re.compile(r"(\d+)_\{?(\d)\}?")
_TEXT = re.compile(r"\\text\{\s*([A-Za-z]+)\s*\}")
_CHOICE = re.compile(r"\\text\{\(([A-E])\)\}")


def _bare_thousands(row: Row, text: str) -> str | None:
    """The digits of a numeral that groups them by thousands."""
    if THOUSANDS.fullmatch(text) and row.benchmark != "olympiadbench":
        return re.sub(r"\D", "", text)
    return None


def _special_forms(row: Row, text: str) -> Iterator[Variant]:
    """Forms of numerals with signs, of units, bases, words and choices."""
    if match := _E_NOTATION.fullmatch(text):
        yield from _e_forms(match[1], int(match[2]))
    elif match := _DEGREES.fullmatch(text):
        for other in ("", "^{\\circ}", "^\\circ", "°", "\\text{ degrees}", " \\mathrm{~degrees}", " \\text{°}"):
            yield match[1] + other, "degrees"
        for answer, kind in forms(match[1], row.gold):
            if kind in ("trailing_zero", "mixed_number", "inline_fraction"):
                yield answer if kind == "inline_fraction" else f"{answer}^\\circ", f"degrees_{kind}"
    elif match := _PERCENT.fullmatch(text):
        exact = Fraction(match[1]) / 100
        for sign in ("%", "\\%", " \\%", "\\text{ percent}", "\\text{\\%}"):
            yield match[1] + sign, "percent"
        yield decimal(exact) or "", "percent_as_decimal"
        yield f"\\frac{{{exact.numerator}}}{{{exact.denominator}}}", "percent_as_fraction"
    elif match := _MONEY.fullmatch(text):
        yield from _money_forms(match[1])
    elif (bare := _bare_thousands(row, text)) is not None:
        yield bare, "thousands_dropped"
        yield from ((answer, kind) for answer, kind in forms(bare, row.gold) if kind != "parenthesised")
        yield from _from_problem(row, bare)
    elif match := _UNIT.fullmatch(text):
        amount, unit, power = match[1], match[2], match[3] or ""
        yield amount, "unit_dropped"
        for font in ("text", "mathrm", "mbox", "textrm"):
            yield f"{amount} \\{font}{{{'~' if font == 'mathrm' else ' '}{unit}}}{power}", "unit_font"
    elif match := _BASED.fullmatch(text):
        yield f"{match[1]}_{match[2]}", "base_braces"
        yield f"{match[1]}_{{{match[2]}}}", "base_braces"
        yield f"({match[1]})_{{{match[2]}}}", "base_parenthesised"
    elif match := _CHOICE.fullmatch(text):
        for choice in ("{0}", "({0})", "\\text{{{0}}}", "\\textbf{{({0})}}", "\\mathrm{{{0}}}", "\\textbf{{{0}}}"):
            yield choice.format(match[1]), "choice"
    elif match := _TEXT.fullmatch(text):
        word = match[1]
        for form in (word, word.lower(), word.capitalize(), f"\\text{{{word}}}", f"\\textbf{{{word}}}"):
            yield form, "text"
        yield f"\\mathrm{{{word}}}", "text"
        yield f"\\text{{{word}.}}", "text"
    elif text == "np.arcsin(10/13)":
        for form in (
            "\\arcsin(10/13)",
            "\\arcsin\\frac{10}{13}",
            "\\sin^{-1}(10/13)",
            "\\sin^{-1}\\left(\\frac{10}{13}\\right)",
        ):
            yield form, "function_name"


def _e_forms(mantissa: str, k: int) -> Iterator[Variant]:
    exact = Fraction(mantissa) * Fraction(10) ** k
    for times, kind in (("\\times", "e_times"), ("\\cdot", "e_cdot"), ("*", "e_star")):
        yield f"{mantissa} {times} 10^{{{k}}}", kind
    if 0 <= k < 10:
        yield f"{mantissa} \\times 10^{k}", "e_times"
    yield f"{mantissa}E{k}", "e_capital"
    if k > 0:
        yield f"{mantissa}e+{k}", "e_plus"
    if abs(k) < 10:
        yield f"{mantissa}e{'-' * (k < 0)}{abs(k):02d}", "e_padded"
    if abs(k) <= 9 and (text := decimal(exact, 15)):
        yield text, "e_plain"
    yield f"{decimal(Fraction(mantissa) * 10)} \\times 10^{{{k - 1}}}", "e_shifted"
    yield f"{decimal(Fraction(mantissa) / 10)} \\times 10^{{{k + 1}}}", "e_shifted"
    yield (
        f"{mantissa}0 \\times 10^{{{k}}}" if "." in mantissa else f"{mantissa}.0 \\times 10^{{{k}}}",
        "e_trailing_zero",
    )
    if Fraction(mantissa) == 1:
        yield f"10^{{{k}}}", "e_power"
    if k < 0:
        yield f"\\frac{{{mantissa}}}{{10^{{{-k}}}}}", "e_fraction"


def _money_forms(amount: str) -> Iterator[Variant]:
    bare = re.sub(r"[,\\!]", "", amount)
    yield bare, "money"
    yield f"\\${bare}", "money"
    yield f"${bare}", "money"
    yield f"{bare}\\text{{ dollars}}", "money"
    yield f"\\text{{\\${bare}}}", "money"
    if "." not in bare:
        yield f"\\${bare}.00", "money"
        if int(bare) >= 1000:
            yield f"\\${int(bare):,}", "money"
    else:
        yield bare.removesuffix("0"), "money"


# ------------------------------------------------------------------------------------------------------ near misses


def near_misses(row: Row) -> Iterator[Variant]:
    """Wrong answers that look like the gold."""
    text = plain(row.gold)
    for make in (_special_misses, structure_misses):
        found = list(make(row, text))
        if found:
            yield from found
            return
    if not is_list(text) and not ARBITRARY.search(text):
        measured = row.benchmark in ("minerva_math", "amc23")  # what rounds to such a gold might be right
        yield from misses(text, row.gold, near=not measured)


def _special_misses(row: Row, text: str) -> Iterator[Variant]:
    rng = Random(f"special {row.gold}")
    if match := _E_NOTATION.fullmatch(text):
        yield from _e_misses(match[1], int(match[2]))
    elif match := _DEGREES.fullmatch(text):
        for answer, kind in misses(match[1], row.gold, near=True):
            if kind in ("last_digit", "factor_10", "digits_swapped", "numerator_changed", "near_relative", "sign"):
                yield f"{answer}^\\circ", f"degrees_{kind}"
                yield answer, f"degrees_{kind}"
        yield f"{match[1]}\\pi", "degrees_pi"
    elif match := _PERCENT.fullmatch(text):
        for answer, kind in misses(match[1], row.gold, near=False):
            if kind in ("last_digit", "factor_10", "digits_swapped"):
                yield f"{answer}\\%", f"percent_{kind}"
        yield decimal(Fraction(match[1]) / 10) or "", "percent_factor_10"
    elif match := _MONEY.fullmatch(text):
        amount = re.sub(r"[,\\!]", "", match[1])
        for answer, kind in misses(amount, row.gold, near=True):
            if kind in ("last_digit", "factor_10", "factor_100", "digits_swapped", "near_relative"):
                yield f"\\${answer}", f"money_{kind}"
    elif (bare := _bare_thousands(row, text)) is not None:
        yield from misses(bare, row.gold, near=True)
        if text.count(",") == 1:
            yield re.sub(r",(\\!)?\s*", ".", text), "point_for_comma"
    elif match := _UNIT.fullmatch(text):
        unit = f"\\text{{ {match[2]}}}{match[3] or ''}"
        for answer, kind in misses(match[1], row.gold, near=False):
            if kind in ("last_digit", "factor_10", "sign", "numerator_changed", "digits_swapped"):
                yield answer + unit, f"unit_{kind}"
    elif match := _BASED.fullmatch(text):
        digits, base = match[1], int(match[2])
        yield f"{digits}_{{{base + 1}}}", "base_changed"
        yield f"{digits}_{{{base + 2}}}", "base_changed"
        i = rng.randrange(len(digits))
        yield f"{digits[:i]}{(int(digits[i]) + 1) % base}{digits[i + 1 :]}_{{{base}}}", "base_digit"
        yield f"{digits[::-1]}_{{{base}}}" if digits != digits[::-1] else "", "base_reversed"
        yield f"{digits}0_{{{base}}}", "base_digit_added"
    elif match := _CHOICE.fullmatch(text):
        for letter in sorted(set("ABCDE") - {match[1]}):
            yield f"\\text{{({letter})}}", "choice_changed"
        yield f"\\text{{({match[1]}) or ({'A' if match[1] != 'A' else 'B'})}}", "choice_hedged"
        yield letter, "choice_changed"
    elif match := _TEXT.fullmatch(text):
        others = {"east": "west", "even": "odd", "ellipse": "parabola", "Evelyn": "Navin", "Navin": "Evelyn"}
        if match[1] in others:
            other = others[match[1]]
            yield f"\\text{{{other}}}", "text_changed"
            yield f"\\text{{not {match[1]}}}", "text_negated"
            yield f"\\text{{{match[1]} or {other}}}", "text_hedged"
    elif text == "np.arcsin(10/13)":
        for form in ("\\arccos(10/13)", "\\arcsin(13/10)", "\\arcsin(10/12)", "\\frac{10}{13}", "\\sin(10/13)"):
            yield form, "function_changed"


def one_percent(mantissa: str) -> str:
    """The mantissa and one hundredth of it."""
    return decimal(Fraction(mantissa) * Fraction(101, 100), 12) or ""


def rounds_to(answer: str, gold: str) -> bool:
    """Whether one numeral rounds to another at that one's digits."""
    return abs(Fraction(answer) - Fraction(gold)) <= Fraction(1, 2 * 10 ** len(gold.partition(".")[2]))


def _e_misses(mantissa: str, k: int) -> Iterator[Variant]:
    exact = Fraction(mantissa)
    if not rounds_to(changed := one_percent(mantissa), mantissa):
        yield f"{changed} \\times 10^{{{k}}}", "e_mantissa_1_percent"
        yield f"{changed}e{k}", "e_mantissa_1_percent"
    unit = Fraction(1, 10 ** len(mantissa.partition(".")[2]))
    for step in (1, -1):
        if exact + step * unit > 0:
            yield f"{decimal(exact + step * unit)} \\times 10^{{{k}}}", "e_last_digit"
            yield f"{mantissa} \\times 10^{{{k + step}}}", "e_exponent"
            yield f"{mantissa}e{k + step}", "e_exponent"
    yield f"{mantissa} \\times 10^{{{-k}}}", "e_exponent_sign"
    yield f"-{mantissa} \\times 10^{{{k}}}", "e_sign"
    yield mantissa, "e_exponent_dropped"
    yield f"{mantissa} + 10^{{{k}}}" if exact != 1 else "", "e_sum"
    yield f"{mantissa}^{{{k}}}" if exact != 1 else "", "e_power"
    if abs(k) <= 9:
        yield decimal(exact * Fraction(10) ** (k - 1), 16) or "", "e_plain_factor_10"


def main() -> None:
    """Counts the pairs by kind and shows some."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--show", type=int, default=0)
    options = parser.parse_args()
    by_kind: dict[tuple[bool, str], list[Pair]] = defaultdict(list)
    by_benchmark: Counter[tuple[str, bool]] = Counter()
    for pair in pairs(data_folder(options.data)):
        by_kind[pair.equal, pair.kind].append(pair)
        by_benchmark[pair.benchmark, pair.equal] += 1
    for equal in (True, False):
        print(f"\n{'equal forms' if equal else 'near misses'}")
        for (_, kind), found in sorted(item for item in by_kind.items() if item[0][0] == equal):
            print(f"{len(found):6} {kind}")
            for pair in Random(kind).sample(found, min(options.show, len(found))):
                print(f"         {pair.gold!r:40} {pair.answer!r}")
    print(f"\n{'':16}{'equal':>8}{'near misses':>13}")
    for benchmark in BENCHMARKS:
        print(f"{benchmark:16}{by_benchmark[benchmark, True]:8}{by_benchmark[benchmark, False]:13}")
    print(
        f"{'all':16}"
        + "".join(
            f"{sum(n for (_, e), n in by_benchmark.items() if e == want):{w}}" for want, w in ((True, 8), (False, 13))
        )
    )


if __name__ == "__main__":
    main()
