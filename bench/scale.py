"""Runs of a million problems: a cluster on a virtual clock, resuming from a million samples, and large tables.

    python bench/scale.py simulate [--problems 860000] [--workers 64] [--slots 256] [--k 16] --out DIR
    python bench/scale.py throughput [--problems 1920] [--rounds 3] --out DIR
    python bench/scale.py resume [--samples 1000000] --out DIR
    python bench/scale.py tables [--rows 200000] --out DIR

`simulate` draws with the real ladder, rollouts, leases, worker and shards; only engine, grader and clock are played.
An answer has a log-normal number of tokens, median 500 with sigma 0.7, cut at 4,096, and takes 20 ms a token in a slot
of its own; a problem is solved in one try with a chance drawn from Beta(0.5, 0.5). `throughput` draws with one and with
two real workers of a Ray cluster in turn, whose engines wait 50 ms for each 16 answers. `resume` and `tables` use
samples and rows of realistic size. Every measurement of memory has a process of its own.
"""

import argparse
import heapq
import json
import math
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from retell.cluster import Crew
from retell.drawing import Task, Work, starter
from retell.engines.base import Batches, Take
from retell.engines.scripted import ScriptedEngine
from retell.executor import Job, settle
from retell.graders.base import Case
from retell.graders.pool import GraderPool
from retell.hashing import digest, seed_of
from retell.journal import Journal, graded_by
from retell.ladder import Climb
from retell.leases import REWRITE_BLOCK, Blocks, Lease, Leases, Report
from retell.meter import Budget
from retell.problemtable import ProblemTable, write_problems
from retell.recipe import Policy, Recipe, Rewrite
from retell.records import Completion, Problem, Request, Sample, Verdict
from retell.rewrite import SCHEMA
from retell.runfolder import RunFolder
from retell.shards import blocks_done, shard_path, write_shard
from retell.store import open_store
from retell.tables import TableWriter
from retell.worker import Worker

TOKEN_SECONDS = 0.02
LEASE_SECONDS = 0.005
MEDIAN_TOKENS, SIGMA, MOST_TOKENS = 500, 0.7, 4096
STEP_SECONDS, STEP = 0.05, 16
VOCABULARY = 150_000
PLAN = "simulated"


class Clock:
    """Time that passes when nobody has anything to do; one thread runs at a time, so that a run can be repeated."""

    def __init__(self, threads: int) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, threading.Event]] = []
        self._count = 0
        self._lock = threading.Lock()
        self._running = threads
        """Threads that do not sleep; the first ones begin by sleeping until 0."""

    def sleep_until(self, when: float) -> None:
        """Lets the others run until it is time."""
        due = threading.Event()
        with self._lock:
            self._count += 1
            heapq.heappush(self._heap, (when, self._count, due))
        self._let_go()
        due.wait()

    def leave(self) -> None:
        """Says that a thread has ended."""
        self._let_go()

    def _let_go(self) -> None:
        with self._lock:
            self._running -= 1
            if self._running or not self._heap:
                return
            when, _, due = heapq.heappop(self._heap)
            self.now = max(self.now, when)
            self._running = 1
        due.set()


class Played:
    """An engine with slots on the virtual clock, and how busy they were."""

    draws = True
    context: int | None = None

    def __init__(self, clock: Clock, slots: int, tail: list[float]) -> None:
        self.faults: Counter[str] = Counter()
        self._clock = clock
        self._slots = slots
        self._tail = tail
        self.busy = 0.0
        self.tokens = 0

    def sample(self, take: Take) -> Batches:
        """Yields what is finished at the same time."""
        flying: list[tuple[float, int, Request, Completion]] = []
        count = 0
        while True:
            for request in take(self._slots - len(flying), not flying):
                completion = answer(request)
                count += 1
                seconds = (completion.usage or 0) * TOKEN_SECONDS
                self.tokens += completion.usage or 0
                heapq.heappush(flying, (self._clock.now + seconds, count, request, completion))
            if not flying:
                return
            begun = self._clock.now
            self._clock.sleep_until(flying[0][0])
            end = min(self._clock.now, self._tail[0]) if self._tail else self._clock.now
            self.busy += len(flying) * max(end - begun, 0.0)
            batch = []
            while flying and flying[0][0] <= self._clock.now:
                _, _, request, completion = heapq.heappop(flying)
                batch.append((request, completion))
            yield batch

    def close(self) -> None:
        """Holds nothing."""


def answer(request: Request) -> Completion:
    """An answer that depends on the request alone; guided ones are right twice as often."""
    luck = random.Random(request.seed)
    chance = random.Random(seed_of("chance", request.problem)).betavariate(0.5, 0.5)
    right = luck.random() < (chance if request.rung == "self" else min(1.0, 2 * chance))
    tokens = min(int(MEDIAN_TOKENS * math.exp(luck.gauss(0, SIGMA))), MOST_TOKENS)
    return Completion("right" if right else "wrong", None, None, "stop", usage=tokens)


class Judge:
    """A grader that reads what `answer` says, without a process."""

    name, spec, seconds = "played", "played", 1.0

    def prepare(self, case: Case) -> Verdict | Case:
        """The verdict at once."""
        return Verdict("correct" if case.response == "right" else "wrong", case.response, "played")

    def load(self) -> None:
        """Nothing."""

    def judge(self, case: Case) -> Verdict:
        """Never asked."""
        raise NotImplementedError


class Line:
    """A worker's line to the leases, which takes some milliseconds."""

    def __init__(self, name: str, leases: Leases, clock: Clock, tail: list[float], last: int) -> None:
        self._name, self._leases, self._clock, self._tail, self._last = name, leases, clock, tail, last

    def next(self) -> Lease | None:
        """The next lease; when the last is lent, the tail begins."""
        self._clock.sleep_until(self._clock.now + LEASE_SECONDS)
        lease = self._leases.next(self._name)
        if not self._tail and (lease is None or lease.block == self._last):
            self._tail.append(self._clock.now)
        return lease

    def done(self, number: int, report: Report) -> None:
        """Gives a lease back."""
        self._leases.done(number, report)

    def alive(self) -> None:
        """Says that something has been answered."""
        self._leases.heard(self._name)


def made_problems(path: Path, n: int) -> ProblemTable:
    """Problems of some 200 characters with solutions of some 700."""
    if not path.is_file():
        filler = ("What is the largest number of tokens that a worker draws before it asks again? " * 12)[:900]

        def rows() -> Iterator[Problem]:
            for i in range(n):
                yield Problem(f"p{i:07}", f"{i}: {filler[:200]}", str(i), f"{filler[:700]} {i}", "made")

        write_problems(path, rows())
    return ProblemTable(path)


def simulate(folder: Path, n: int, workers: int, slots: int, k: int) -> dict[str, Any]:
    """Draws all problems on a virtual clock, then settles them as the driver does."""
    recipe = Recipe(rewrite=Rewrite(k=k))
    task = Task("rewrite", recipe, Policy(), "played")
    table = made_problems(folder / "problems.parquet", n)
    clock, tail, ends, engines = Clock(workers), list[float](), [0.0] * workers, list[Played]()
    done = blocks_done(folder / "samples", PLAN)
    leases = Leases(Blocks(table, REWRITE_BLOCK), done, Budget(), workers, clock=lambda: clock.now)
    last = len(Blocks(table, REWRITE_BLOCK)) - 1
    started = time.perf_counter()

    def work(number: int) -> None:
        clock.sleep_until(0.0)
        engine = engines[number]
        line = Line(f"w{number}", leases, clock, tail, last)
        drawing = Work(engine, Judge(), starter(task, None, engine))
        with GraderPool(Judge(), 1) as graders:
            while leases.standing().waiting:
                Worker(drawing, graders, task.stream, folder, PLAN, line).run()
        ends[number] = clock.now
        clock.leave()

    engines += [Played(clock, slots, tail) for _ in range(workers)]
    threads = [threading.Thread(target=work, args=(number,)) for number in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    drawn = time.perf_counter() - started
    standing = leases.standing()
    before_tail = sum(engine.busy for engine in engines) / (tail[0] * workers * slots)
    peak = peak_mib()
    started = time.perf_counter()
    rows = settled(folder, task, table)
    return {
        "problems": n,
        "workers": workers,
        "slots": slots,
        "k": k,
        "samples": standing.meter.drawn,
        "tokens": standing.meter.tokens,
        "virtual_hours": round(clock.now / 3600, 3),
        "tail_hours": round((clock.now - tail[0]) / 3600, 3),
        "busy_before_the_tail": round(before_tail, 4),
        "whole": round(sum(e.tokens for e in engines) * TOKEN_SECONDS / (clock.now * workers * slots), 4),
        "drawing_seconds": round(drawn, 1),
        "peak_mib_drawing_with_all_workers": peak,
        "rungs": rows,
        "settling_seconds": round(time.perf_counter() - started, 1),
        "peak_mib_with_settling": peak_mib(),
    }


def settled(folder: Path, task: Task, table: ProblemTable) -> dict[str, int]:
    """What the driver does in the end: rungs of all problems, from the shards."""
    start = starter(task, None, Played(Clock(1), 1, []))
    jobs = (Job(problem.id, lambda problem=problem: start("", problem)) for problem in table)
    counts: Counter[str] = Counter()
    with open_store(folder) as store, GraderPool(Judge(), 1) as graders:
        climbs: Iterator[Climb] = settle(jobs, {}, graders, store, task.stream)
        for climb in climbs:
            counts[getattr(climb.result, "rung", "rejected")] += 1
    return dict(counts)


def opened(task: Task) -> Work:
    """A worker whose engine takes `STEP_SECONDS` for each `STEP` answers."""
    engine = ScriptedEngine(lambda request, _: answer(request), batch=STEP, delay=STEP_SECONDS)
    return Work(engine, Judge(), starter(task, None, engine))


def drawing_rate(folder: Path, problems: int, workers: int) -> dict[str, Any]:
    """Samples a second of so many workers of a Ray cluster on this machine, from the first block lent to the last
    written: without the time in which Ray and the workers start.
    """
    task = Task("rewrite", Recipe(rewrite=Rewrite(k=4, ray="auto", workers=workers, grader_workers=1)), Policy(), "-")
    folder.mkdir(exist_ok=True)
    blocks, begun = Blocks(made_problems(folder / "problems.parquet", problems), 8), 0.0
    with RunFolder(folder) as run, Crew(task, folder, lambda line: print(line, file=sys.stderr), opened) as crew:
        for standing in crew.work(blocks, PLAN):
            begun = begun or time.time()
            meter = standing.meter
        crew.dismiss()
    written = [path.stat().st_mtime for path in (run.path / "samples" / PLAN).glob("*.parquet")]
    return {"workers": workers, "samples": meter.drawn, "per_second": round(meter.drawn / (max(written) - begun), 1)}


def throughput(folder: Path, problems: int, rounds: int) -> dict[str, Any]:
    """How many times the rate of one worker two have: the median of paired rounds."""
    found: list[dict[str, Any]] = []
    for turn in range(rounds):
        for workers in (1, 2) if turn % 2 else (2, 1):
            found.append(drawing_rate(folder / f"{turn}-{workers}", problems, workers))
            print(json.dumps(found[-1]), flush=True)
    rates = {w: [one["per_second"] for one in found if one["workers"] == w] for w in (1, 2)}
    return {"times": round(median(two / one for one, two in zip(rates[1], rates[2], strict=True)), 2)}


class Writer:
    """Samples of some 400 tokens, each another text: words as frequent as the ranks of a language's (Zipf), and a
    log-prob of each token, exponential with mean 0.5 nats, that compresses as badly as real ones.
    """

    def __init__(self, seed: int) -> None:
        self._luck = np.random.default_rng(seed)
        letters = np.array(list("etaoinshrdlu"))
        lengths = self._luck.integers(1, 8, VOCABULARY)
        self._words = np.array(["".join(self._luck.choice(letters, n)) + " " for n in lengths], dtype=object)
        shares = 1 / np.arange(1, VOCABULARY + 1)
        self._shares = np.cumsum(shares / shares.sum())

    def completions(self, n: int) -> Iterator[Completion]:
        """The next ones."""
        lengths = self._luck.integers(200, 600, n)
        ids = np.searchsorted(self._shares, self._luck.random(lengths.sum())).clip(max=VOCABULARY - 1)
        logprobs = (-self._luck.exponential(0.5, len(ids))).astype(np.float32)
        for end, length in zip(np.cumsum(lengths), lengths, strict=True):
            own = slice(end - length, end)
            text = "".join(self._words[ids[own]])
            yield Completion(text, tuple(ids[own].tolist()), tuple(logprobs[own].tolist()), "stop")


def make_samples(folder: Path, samples: int, store: str) -> None:
    """A journal, or shards, with sixteen samples of each of so many problems, all graded."""
    writer = Writer(0)
    verdict, grader = Verdict("wrong", "1", "another number"), graded_by("math", "1")
    per_block = REWRITE_BLOCK * 16
    journal = Journal(folder / "journal.sqlite")
    for block in range(samples // per_block):
        asked = [(f"p{block * REWRITE_BLOCK + i:07}", index) for i in range(REWRITE_BLOCK) for index in range(16)]
        drawn = [
            Sample(digest(problem, index), problem, "self", 0, index, completion)
            for (problem, index), completion in zip(asked, writer.completions(per_block), strict=True)
        ]
        if store == "shards":
            verdicts = {sample.key: {grader: verdict} for sample in drawn}
            write_shard(shard_path(folder / "samples", PLAN, block), drawn, verdicts)
        else:
            journal.add_samples(drawn)
            journal.add_verdicts((sample.key, grader, verdict) for sample in drawn)
            journal.add_marks((PLAN, problem) for problem in dict.fromkeys(sample.problem for sample in drawn))


def scan(folder: Path, store: str) -> dict[str, Any]:
    """What a second start does before it draws: it finds out what is done, and can look up any sample."""
    started = time.perf_counter()
    with open_store(folder) as stored:
        if store == "shards":
            done = len(blocks_done(folder / "samples", PLAN)) * REWRITE_BLOCK
        else:
            with Journal(folder / "journal.sqlite") as journal:
                done = len(journal.marked(PLAN))
        found = len(stored.samples([digest(f"p{i:07}", 3) for i in (0, done // 2, done - 1)]))
        looked = time.perf_counter() - started
        read = sum(len(page) for page in stored.pages(["self"]))
    return {
        "store": store,
        "problems_done": done,
        "looked_up": found,
        "resuming_seconds": round(looked, 2),
        "samples_read_whole": read,
        "reading_all_seconds": round(time.perf_counter() - started - looked, 1),
        "peak_mib": peak_mib(),
        "disk_mib": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) >> 20,
    }


def make_run(folder: Path, rows: int) -> None:
    """A run folder with so many rewritten rows and their gap, of some 400 tokens a response."""
    from retell.gap import SCHEMA as GAP_SCHEMA  # torch comes with it, which is not to count for the others
    from retell.gap import measured_before

    luck = np.random.default_rng(0)
    logprobs = [(-luck.exponential(0.5, 400)).tolist() for _ in range(64)]
    with TableWriter(folder / "gap.parquet", GAP_SCHEMA) as table:
        for i in range(rows):
            rung = ("self", "self", "guided", "expert")[i % 4]
            kept = i if rung == "expert" else i + 7
            table.add(
                {
                    "id": f"p{i:07}",
                    "rung": rung,
                    "expert_logprobs": logprobs[i % 64],
                    "rewritten_logprobs": logprobs[kept % 64],
                    "log_ratio": None if rung == "expert" else float(luck.normal(0, 0.1)),
                }
            )
    lines = ("We compute the sum step by step and check it. " * 20)[:900]
    with TableWriter(folder / "rewritten.parquet", SCHEMA) as table:
        for i in range(rows):
            rung = ("self", "self", "guided", "expert")[i % 4]
            ids = luck.integers(0, 300, 400).tolist() if rung != "expert" else None
            table.add(
                {
                    "id": f"p{i:07}",
                    "source": "made",
                    "problem": f"{i}: {lines[:200]}",
                    "answer": str(i),
                    "solution": lines + str(i),
                    "rung": rung,
                    "response": lines[::-1] + str(i) if rung != "expert" else lines + str(i),
                    "messages": [
                        {"role": "user", "content": f"{i}: {lines[:200]}"},
                        {"role": "assistant", "content": lines},
                    ],
                    "response_token_ids": ids,
                    "behaviour_logprobs": logprobs[i % 64] if ids else None,
                    "samples_self": 4,
                    "correct_self": 1,
                    "samples_guided": 0,
                    "correct_guided": 0,
                    "verdict": "correct" if ids else None,
                    "policy": "made",
                    "seed": 0,
                }
            )

    counts = {"self": rows // 2, "guided": rows // 4, "expert": rows - rows // 2 - rows // 4}
    summary = {
        "problems": rows,
        "rungs": counts,
        "samples": {"self": rows, "guided": rows},
        "not_drawn": {"self": 0, "guided": 0},
        "pass_rate": {"self": None, "guided": None},
        "tokens": {"prompt": 80 * rows, "generated": 400 * rows},
        "rejected": {},
        **dict.fromkeys(("undecided", "truncated", "leaked", "failed"), 0),
        "faults": {},
        "seconds": 1.0,
        "policy": "made",
        "grader": "math",
    }
    with RunFolder(folder) as run:
        run.store_recipe(Recipe())
        run.write_json("rewrite.json", summary)
        run.write_json("gap.json", measured_before(folder / "gap.parquet", 0))
        run.finished("rewrite", 1, ["rewrite.json", "rewritten.parquet"])
        run.finished("gap", 1, ["gap.json", "gap.parquet"])


def commands(folder: Path, rows: int) -> Iterator[dict[str, Any]]:
    """What the commands take that read all rows of a run."""
    if not (folder / "gap.json").is_file():
        make_run(folder, rows)
    for words in (["gap", str(folder), "--tables"], ["report", str(folder)], ["export", str(folder), "--format", "hf"]):
        script = (
            "import sys; from retell.cli import main; from scale import peak_mib; status = main(sys.argv[1:]);"
            "print(peak_mib(), file=sys.stderr); sys.exit(status)"
        )
        started = time.perf_counter()
        command, here = [sys.executable, "-c", script, *words], Path(__file__).parent
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=here)
        seconds = round(time.perf_counter() - started, 1)
        peak = int(done.stderr.split()[-1])
        yield {
            "command": " ".join(words).replace(str(folder), "DIR"),
            "rows": rows,
            "seconds": seconds,
            "peak_mib": peak,
        }


def peak_mib() -> int:
    """The most memory that this process has had (getrusage also counts what it was forked from)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) >> 10


def in_its_own_process(*arguments: str) -> dict[str, Any]:
    """Runs a part of this file alone, and reads what it prints."""
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Runs one measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["simulate", "throughput", "resume", "scan", "tables"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--problems", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--slots", type=int, default=256)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--store", choices=["journal", "shards"], default="shards")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.what in ("simulate", "throughput") and any(options.out.iterdir()):
        parser.error(f"{options.out} is not empty: what is there has been drawn")
    threading.stack_size(1 << 20)
    if options.what == "simulate":
        problems = options.problems or 860_000
        print(json.dumps(simulate(options.out, problems, options.workers, options.slots, options.k)))
    elif options.what == "throughput":
        print(json.dumps(throughput(options.out, options.problems or 1920, options.rounds)))
    elif options.what == "tables":
        for found in commands(options.out, options.rows):
            print(json.dumps(found), flush=True)
    elif options.what == "scan":
        print(json.dumps(scan(options.out, options.store)))
    elif options.what == "resume":
        for store in ("journal", "shards"):
            folder = options.out / store
            folder.mkdir(exist_ok=True)
            make_samples(folder, options.samples, store)
            print(json.dumps(in_its_own_process("scan", "--out", str(folder), "--store", store)), flush=True)


if __name__ == "__main__":
    main()
