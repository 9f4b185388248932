"""How large the page of a long run is, how long it takes to write it, in how much memory, and how long to open it.

    python bench/page.py [ROWS] [--folder DIR]

With `--folder` the run folder is kept there. The run is made up: responses as long as those of a 7B model on
competition problems (some 400 tokens of English and LaTeX), seven models on twenty benchmarks with long names, 800
updates each.
"""

import argparse
import json
import random
import resource
import shutil
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from playwright.sync_api import sync_playwright

from retell.browse import sampled_rows
from retell.gap import statistics
from retell.legend import TITLES
from retell.recipe import Policy, Recipe
from retell.report import write_report
from retell.rewrite import SCHEMA
from retell.rows import Opened
from retell.runfolder import RunFolder
from retell.tables import TableWriter

SENTENCES = (
    "Let $x = \\frac{a + b}{2}$, so that the equation becomes $x^2 - 5x + 6 = 0$. ",
    "By the AM–GM inequality we have \\[\\sum_{i=1}^{n} a_i \\ge n \\sqrt[n]{a_1 a_2 \\cdots a_n}.\\] ",
    "Since the two angles are equal, the triangles are similar and the ratio of their sides is $3 : 4$. ",
    "Therefore we only have to count the integers between 1 and 1,000 that are divisible by neither 3 nor 7. ",
)
TOKENS, UPDATES, BENCHMARKS, PROBLEMS = 400, 800, 20, 50
GAP = pa.schema(
    [("id", pa.string()), ("rung", pa.string())]
    + [(f"{one}_logprobs", pa.list_(pa.float32())) for one in ("expert", "rewritten")]
)


def text(luck: random.Random) -> str:
    """A response."""
    return (
        "".join(luck.choices(SENTENCES, k=luck.randrange(8, 20))) + f"The answer is $\\boxed{{{luck.randrange(99)}}}$."
    )


def rewritten(folder: RunFolder, rows: int) -> None:
    """rewritten.parquet, gap.parquet and their summaries."""
    luck, numbers = random.Random(0), np.random.default_rng(0)
    counts, some = dict.fromkeys(("self", "guided", "expert"), 0), {}
    with (
        folder.replacing("rewritten.parquet") as path,
        TableWriter(path, SCHEMA) as table,
        folder.replacing("gap.parquet") as other,
        TableWriter(other, GAP) as gap,
    ):
        for number in range(rows):
            rung = luck.choices(tuple(counts), (60, 24, 16))[0]
            counts[rung] += 1
            expert, own = text(luck), text(luck)
            row = {"id": f"row-{number}", "source": "made up", "problem": text(luck), "answer": "7", "rung": rung}
            row |= {"solution": expert, "response": expert if rung == "expert" else own, "messages": []}
            row |= {"samples_self": 8, "correct_self": 1, "samples_guided": 0, "correct_guided": 0, "seed": 0}
            table.add(row | {"verdict": "correct", "policy": "made up"})
            logprobs = [-numbers.exponential(scale, luck.randrange(TOKENS // 2, 2 * TOKENS)) for scale in (0.6, 0.25)]
            gap.add(
                {"id": f"row-{number}", "rung": rung, "expert_logprobs": logprobs[0], "rewritten_logprobs": logprobs[1]}
            )
            if number < 1000:
                some.setdefault(rung, []).append(logprobs)
    folder.write_json(
        "rewrite.json",
        {
            "problems": rows,
            "rungs": counts,
            "rejected": {"overlong": 1994},
            "samples": {"self": 5 * rows, "guided": rows},
        }
        | {"tokens": {"generated": 400 * 6 * rows}, "seconds": 9e4, "undecided": 12, "truncated": 900, "leaked": 33},
    )
    folder.finished("rewrite", 1, ["rewrite.json", "rewritten.parquet"])
    told = {
        rung: {
            "rows": counts[rung],
            **{s: statistics([r[i] for r in of]) for i, s in enumerate(("expert", "rewritten"))},
        }
        for rung, of in some.items()
    }
    folder.write_json("gap.json", told)
    folder.finished("gap", 1, ["gap.json", "gap.parquet"])


def models(folder: RunFolder) -> None:
    """Trainings and evaluations."""
    luck = random.Random(1)
    names = [f"a benchmark with quite a long name, number {number}" for number in range(BENCHMARKS)]
    for strength, name in enumerate(TITLES, start=2):
        lines = [{"step": i + 1, "loss": luck.random() / strength, "nll": luck.random()} for i in range(UPDATES)]
        folder.write_text(f"checkpoints/{name}/metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        made = {"loss": name, "mix": "expert", "rows": 48_000, "learning_rate": 5e-5, "batch_size": 256, "seed": 0}
        folder.write_json(f"checkpoints/{name}.json", made | {"updates": UPDATES, "tokens": 2 * 10**7})
        folder.finished(f"train/{name}", 1, [f"checkpoints/{name}.json"])
        answers = [
            {"benchmark": b, "problem": f"{i}?", "answer": "1", "stop": "stop"}
            | {"verdict": "correct" if luck.random() < strength / 10 else "wrong"}
            for b in names
            for i in range(PROBLEMS)
            for _ in range(16)
        ]
        with folder.replacing(f"eval/{name}.parquet") as path:
            pq.write_table(pa.Table.from_pylist(answers), path)
        one = {"avg_at_k": 10.0 * strength, "stderr": 1.7, "n": PROBLEMS, "undecided": 0.0, "truncated": 0.4}
        scores = dict.fromkeys(names, one | {"shortened": 0, "failed": 0, "mean_tokens": 700.0})
        settings = {"k": 16, "temperature": 1.0, "top_p": 1.0, "max_tokens": 4096, "grader": "math", "prompt": "x"}
        settings |= {"system": None, "rounded": False, "context": 4096, "rejected": {}}
        average = {"average": 10.0 * strength, "average_stderr": 0.5}
        folder.write_json(f"eval/{name}.json", {"model": name, "benchmarks": scores, **settings, **average})
        folder.finished(f"evaluate/{name}", 1, [f"eval/{name}.json", f"eval/{name}.parquet"])


def main(rows: int, place: Path) -> None:
    """Makes the run, writes its page and opens it."""
    recipe = Recipe(policy=Policy(model="Qwen/Qwen2.5-Math-7B"))
    with RunFolder(place) as folder:
        rewritten(folder, rows)
        models(folder)
        before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
        write_report(recipe, folder, asdict(sampled_rows(folder, Opened(None, "made up"))))
        seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    page = place / "report.html"
    print(f"{rows:,} rows: written in {seconds:.1f} s, peak memory {before // 1024} → {peak // 1024} MB")
    print(
        f"report.html {page.stat().st_size / 1e6:.1f} MB, report.md {(place / 'report.md').stat().st_size / 1e3:.0f} kB"
    )
    with sync_playwright() as playwright:
        binary = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        for _ in range(3):
            window = browser.new_page()
            started = time.monotonic()
            window.goto(page.as_uri())
            opened = time.monotonic() - started
            window.wait_for_selector("html[data-drawn]")
            paint = window.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1000
            drawn = time.monotonic() - started
            print(f"first text after {paint:.2f} s, usable after {opened:.2f} s, last chart drawn after {drawn:.2f} s")
            window.close()
        browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=int, nargs="?", default=50_000)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.folder:
        main(options.rows, options.folder)
    else:
        with tempfile.TemporaryDirectory() as somewhere:
            main(options.rows, Path(somewhere))
