"""The golds of the benchmarks, and how their text is taken apart."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from latex import UnclearError, read, value

BENCHMARKS = ("math500", "minerva_math", "olympiadbench", "amc23", "aime24", "aime25", "gsm8k_test")
THOUSANDS = re.compile(r"\d{1,3}(?:(?:,\\!\s*|,)\d{3})+")
ARBITRARY = re.compile(r"[cC](?:_\{\d\})? (?:e|x|\\)|[-+]\s*[cC]\b|C_\{|k x-a")
"""Constants that may be named otherwise or hold any value: no change of them is surely wrong."""


@dataclass(frozen=True, slots=True)
class Row:
    """A gold with what is known about it."""

    benchmark: str
    problem: str
    gold: str
    type: str = ""


def rows(data: Path, benchmarks: tuple[str, ...] = BENCHMARKS) -> Iterator[Row]:
    """The golds of the benchmarks."""
    for benchmark in benchmarks:
        with open(data / "benchmarks" / f"{benchmark}.jsonl", encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                yield Row(benchmark, row["problem"], row["answer_raw"], row.get("answer_type") or "")


def data_folder(given: Path | None) -> Path:
    """The folder of the data: what was given, else RETELL_TEST_DATA, else beside the checkout."""
    return given or Path(os.environ.get("RETELL_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")


def plain(gold: str) -> str:
    """The gold without dollar signs of mathematics and without a final period."""
    if "$ $" in gold or (gold.count("$") % 2 and not gold.startswith("\\$")):
        return gold
    return re.sub(r"(?<!\\)\$", "", gold).strip().removesuffix(".").removesuffix("\\n").strip()


def split(text: str, separator: str = ",") -> list[str]:
    """The parts between separators outside all brackets."""
    parts, depth, start = [], 0, 0
    for match in re.finditer(r"\\[{}]|[\[({})\]]|" + separator, text):
        token = match[0][-1]
        if token in "([{":
            depth += 1
        elif token in ")]}":
            depth -= 1
        elif depth == 0:
            parts.append(text[start : match.start()].strip())
            start = match.end()
    return [*parts, text[start:].strip()]


def is_list(text: str) -> bool:
    """Whether a text is several parts."""
    return len(split(text)) > 1


def is_scalar(text: str) -> bool:
    """Whether a text is an expression that has a value."""
    try:
        return bool(value(read(text)) + 1) or True
    except UnclearError:
        return False
