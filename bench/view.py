"""Measures `retell view` and the report's sample of rows on a large run.

    python bench/view.py [--rows 860000] [--data DIR] [--folder DIR] [--asks 60] [--seed 0]

Makes a run folder of that many rows: problems and solutions of MATH in other combinations, with the token ids and
log-probs of a BPE tokenizer of 8,000 tokens trained on them, gap.parquet, and a journal with two samples a row. (Keys
of samples that nobody looks at are made up, since making them takes longer than all the rest; those of the rows that
are asked for are real.) Then `retell view` is started as a user does, and asked: pages one after the other and at
random (the first time with the files out of the page cache), filters, searches. It prints how long answers took, median
and worst, how much of that the process computed, and its memory. The data folder is `--data`, else RETELL_TEST_DATA,
else the one beside the checkout. With `--folder` the run folder is kept there and used again.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, Self

import pyarrow as pa
from golds import data_folder
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import retell
from retell.browse import MARKUP, sampled_rows, scripts, styles
from retell.journal import Journal, graded_by
from retell.policy import fingerprint
from retell.prompts import Prompter
from retell.recipe import Data, Policy, Recipe, Rewrite
from retell.records import Completion, Problem, Sample, Sampling, Verdict
from retell.rewrite import SCHEMA
from retell.rollout import Ask, Stream
from retell.runfolder import RunFolder
from retell.shell import page
from retell.showing import open_rows
from retell.tables import TableWriter
from retell.tokens import ChatTokenizer

PACKAGED = Path(retell.__file__).parent / "tiny" / "policy"
GAP = pa.schema(
    [
        ("id", pa.string()),
        ("rung", pa.string()),
        *((name, pa.list_(pa.float32())) for name in ("expert_logprobs", "rewritten_logprobs")),
    ]
)
GRADER = "math/bench"
POOL = 5000
"""Rows that are made; the others are these under other ids. A row group has no two alike."""
RARE = 5000
"""One row in so many is of the rung `guided`, and one in so many has an undecided sample."""
PAGE = 10
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Made:
    """A row of the pool and its log-probs."""

    row: dict[str, Any]
    expert: list[float]
    kept: list[float]


# -------------------------------------------------------------------------------------------------------- the run


def make_policy(folder: Path, texts: Sequence[str]) -> ChatTokenizer:
    """The packaged policy with a tokenizer of a usual kind, whose tokens are as long as those of large models."""
    shutil.copytree(PACKAGED, folder)
    packaged = json.loads((PACKAGED / "tokenizer.json").read_text(encoding="utf-8"))
    special = [token["content"] for token in packaged["added_tokens"]]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=8000, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    return ChatTokenizer(folder)


def make_pool(texts: Sequence[Mapping[str, str]], tokenizer: ChatTokenizer, random: Random) -> list[Made]:
    """Rows with texts, tokens and log-probs as a run has them."""
    prompter = Prompter(Policy(), tokenizer, "guided")
    pool = []
    for number in range(POOL):
        problem, other = texts[number], random.choice(texts)
        response = f"{other['solution']}\n{random.choice(texts)['solution']}"[: random.randrange(800, 2400)]
        messages = prompter.conversation(problem["problem"], response)
        ids = tokenizer.training_ids(messages)[1]
        expert = tokenizer.training_ids(prompter.conversation(problem["problem"], problem["solution"]))[1]
        row = {
            "source": "MATH",
            "problem": problem["problem"],
            "answer": problem["answer_raw"],
            "solution": problem["solution"],
            "response": response,
            "messages": [dict(message) for message in messages],
            "response_token_ids": list(ids),
            "behaviour_logprobs": _scores(len(ids), random),
            "samples_self": 2,
            "correct_guided": 0,
            "policy": "bench",
            "seed": 0,
        }
        pool.append(Made(row, _scores(len(expert), random), _scores(len(ids), random)))
    return pool


def _scores(tokens: int, random: Random) -> list[float]:
    return [-random.expovariate(2) for _ in range(tokens)]


def row_of(number: int, pool: Sequence[Made]) -> dict[str, Any]:
    """The row of a number: most are of `self`, two in five of `expert`, few of `guided`."""
    rung = "guided" if number % RARE == RARE - 1 else "expert" if number % 5 < 2 else "self"
    own = rung == "self"
    row = {**pool[number % POOL].row, "id": f"row-{number:07}", "rung": rung, "correct_self": int(own)}
    row |= {"samples_guided": 0 if own else 2, "verdict": "correct" if own else None}
    if rung == "expert":
        row |= {"response": row["solution"], "response_token_ids": None, "behaviour_logprobs": None}
    return row


def make_run(folder: Path, rows: int, asked: Sequence[int], data: Path, seed: int) -> None:
    """Writes a run folder; the rows that will be ``asked`` for have real samples."""
    lines = (data / "train" / "math_train.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line) for line in lines]
    random = Random(seed)
    random.shuffle(texts)
    tokenizer = make_policy(folder / "policy", [text for one in texts for text in (one["problem"], one["solution"])])
    pool = make_pool(texts, tokenizer, random)
    drawn_by = fingerprint(folder / "policy")
    recipe = Recipe(policy=Policy(model=str(folder / "policy")), data=Data(path="bench"), rewrite=Rewrite(k=2))
    with RunFolder(folder) as run:
        run.store_recipe(recipe)
        with run.replacing("rewritten.parquet") as path, TableWriter(path, SCHEMA) as table:
            for number in range(rows):
                table.add(row_of(number, pool))
        with run.replacing("gap.parquet") as path, TableWriter(path, GAP) as table:
            for number in range(rows):
                row, made = row_of(number, pool), pool[number % POOL]
                kept = made.expert if row["rung"] == "expert" else made.kept
                logprobs = {"expert_logprobs": made.expert, "rewritten_logprobs": kept}
                table.add({"id": row["id"], "rung": row["rung"], **logprobs})
        undecided = rows // RARE
        run.write_json("rewrite.json", {"policy": drawn_by, "grader": GRADER, "undecided": undecided})
        run.finished("gap", 1, ["gap.parquet"])
    with Journal(folder / "journal.sqlite") as journal:
        fill(journal, rows, pool)
        stream = Stream("rewrite", drawn_by, 0)
        store_attempts(journal, asked, pool, stream, Prompter(recipe.policy, tokenizer, "guided"), random)


def fill(journal: Journal, rows: int, pool: Sequence[Made]) -> None:
    """Two samples a row under made-up keys, in the order of the keys, in which a large table is quickly made."""
    step = (1 << 128) // (2 * rows)
    for start in range(0, 2 * rows, 2000):
        samples, verdicts = [], []
        for number in range(start, min(start + 2000, 2 * rows)):
            row = pool[number % POOL].row
            completion = Completion(
                row["response"], tuple(row["response_token_ids"]), tuple(row["behaviour_logprobs"]), "stop"
            )
            sample = Sample(f"{number * step:032x}", f"row-{number // 2:07}", "self", 0, number % 2, completion)
            samples.append(sample)
            outcome = "undecided" if number % (2 * RARE) == 0 else "wrong"
            verdicts.append((sample.key, graded_by(GRADER, row["answer"]), Verdict(outcome, "1", "another number")))
        journal.add_samples(samples)
        journal.add_verdicts(verdicts)


def store_attempts(
    journal: Journal, asked: Sequence[int], pool: Sequence[Made], stream: Stream, prompter: Prompter, random: Random
) -> None:
    """The samples of some rows under their own keys."""
    for number in asked:
        row = row_of(number, pool)
        problem = Problem(row["id"], row["problem"], row["answer"], row["solution"], "MATH")
        for rung in ("self", "guided"):
            prompt = prompter.solve(row["problem"]) if rung == "self" else prompter.guided(problem)
            ask = Ask(problem, rung, prompt, Sampling(1.0, 1.0, 2048), range(row[f"samples_{rung}"]))
            for index in ask.indices:
                other = random.choice(pool).row if index or row["rung"] != rung else pool[number % POOL].row
                ids, logprobs = tuple(other["response_token_ids"]), tuple(other["behaviour_logprobs"])
                right = index == 0 and row["rung"] == rung
                verdict = Verdict("correct" if right else "wrong", "1", "bench")
                key = stream.request(ask, index).key
                completion = Completion(other["response"], ids, logprobs, "stop")
                journal.add_samples([Sample(key, problem.id, rung, 0, index, completion)])
                journal.add_verdicts([(key, graded_by(GRADER, problem.answer), verdict)])


# ------------------------------------------------------------------------------------------------------- questions


@dataclass(frozen=True, slots=True)
class Taken:
    """Milliseconds until an answer was there as a whole, and those of them in which the server computed."""

    wall: float
    computed: float


class Viewer:
    """`retell view` of a run as a process of its own; used as a context. ``seconds`` is how long it took to start."""

    def __init__(self, folder: Path) -> None:
        started = time.perf_counter()
        command = [sys.executable, "-m", "retell", "view", str(folder), "--json"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        self._url = json.loads(self._process.stdout.readline())["url"]
        self.seconds = time.perf_counter() - started

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def ask(self, what: str = "rows", **given: object) -> tuple[dict[str, Any], Taken]:
        """An answer, and what it took."""
        computed, started = self._computed(), time.perf_counter()
        with urllib.request.urlopen(f"{self._url}{what}?{urllib.parse.urlencode(given)}", timeout=60) as answered:
            body = answered.read()
        wall = time.perf_counter() - started
        return json.loads(body), Taken(1000 * wall, self._computed() - computed)

    def to_the_end(self, pages: int | None = None, **query: object) -> tuple[list[Taken], int]:
        """Asks on until there are no more rows, or so many pages: what each answer took, and how many rows came."""
        taken, rows, start = [], 0, 0
        while start is not None and (pages is None or rows < pages * PAGE):
            answered, took = self.ask(start=start, **query)
            taken.append(took)
            rows += len(answered["rows"])
            start = answered["next"]
        return taken, rows

    def memory(self) -> str:
        """The most that the process has held, and what it holds of its own."""
        text = Path(f"/proc/{self._process.pid}/status").read_text(encoding="utf-8")
        status = dict(line.split(":", 1) for line in text.splitlines())
        peak, own = (int(status[name].split()[0]) // 1024 for name in ("VmHWM", "RssAnon"))
        return f"{peak:,} MiB at the peak, {own:,} MiB of its own at the end"

    def _computed(self) -> float:
        tasks = Path(f"/proc/{self._process.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text(encoding="utf-8").split()[0]) for task in tasks) / 1e6


def tell(what: str, taken: Sequence[Taken], rows: int | None = None) -> None:
    """One line about answers of a kind."""
    wall, computed = [one.wall for one in taken], [one.computed for one in taken]
    found = "" if rows is None else f"{rows:,} rows, {sum(wall) / 1000:.1f} s"
    print(
        f"{what:<42} n {len(taken):>4}  median {median(wall):4.0f} ms  worst {max(wall):4.0f} ms  "
        f"computed {median(computed):4.0f} and {max(computed):4.0f} ms  {found}",
        flush=True,
    )


def forget(folder: Path) -> None:
    """Takes the files of a run out of the page cache, as far as the system lets one."""
    for path in folder.iterdir():
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(folder: Path, pages: Sequence[int]) -> None:
    """Asks a fresh process all kinds of questions."""
    forget(folder)
    with Viewer(folder) as viewer:
        print(f"from the command to the address: {viewer.seconds:.1f} s")
        tell("first page", [viewer.ask(start=0)[1]])
        tell("pages at random, out of the page cache", [viewer.ask(start=start)[1] for start in pages])
        tell("the same again", [viewer.ask(start=start)[1] for start in pages])
        tell("pages one after the other", *viewer.to_the_end(20))
        tell("rung expert, two rows in five", *viewer.to_the_end(20, rung="expert"))
        tell(f"rung guided, one row in {RARE:,}", *viewer.to_the_end(5, rung="guided"))
        tell("undecided, the first time", *viewer.to_the_end(5, verdict="undecided"))
        tell("undecided again", *viewer.to_the_end(5, verdict="undecided"))
        tell("search for a frequent word", *viewer.to_the_end(20, text="triangle"))
        tell("search for what is nowhere", *viewer.to_the_end(text="no such words at all"))
        tell("a row by its id", [viewer.ask("place", of=f"row-{start:07}")[1] for start in pages])
        tell("an attempt", [viewer.ask("attempt", row=start, rung="self", index=1)[1] for start in pages])
        print(f"memory of the process: {viewer.memory()}")


def measure_sample(folder: Path) -> None:
    """The report's sample: time, size, memory."""
    run = RunFolder(folder)
    recipe = run.recipe()
    assert recipe
    started = time.perf_counter()
    found = sampled_rows(run, open_rows(recipe, run))
    seconds = time.perf_counter() - started
    whole = page("bench", MARKUP, styles=styles(), scripts=scripts(), data={"browse": asdict(found)})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    size = len(whole.encode()) / 1e6
    print(f"the report's sample: {found.shown} rows in {seconds:.1f} s, {size:.2f} MB of page, {peak:,} MiB")
    (folder / "sample.html").write_text(whole, encoding="utf-8")


def main() -> None:
    """Makes the run, or takes the one that is there, and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=860_000)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--asks", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    random = Random(given.seed)
    pages = [random.randrange(given.rows - PAGE) for _ in range(given.asks)]
    asked = {number for start in (0, *pages) for number in range(start, start + PAGE)}
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        if not (folder / "journal.sqlite").is_file():
            started = time.perf_counter()
            make_run(folder, given.rows, sorted(asked), data_folder(given.data), given.seed)
            print(f"made {given.rows:,} rows in {time.perf_counter() - started:.0f} s")
        sizes = [f"{path.name} {path.stat().st_size / MIB:,.0f} MiB" for path in sorted(folder.glob("*.[ps][aq]*"))]
        print(", ".join(sizes))
        measure(folder, pages)
        measure_sample(folder)


if __name__ == "__main__":
    main()
