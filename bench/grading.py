"""Measures retell's grader of mathematics.

    python bench/grading.py vectors|accuracy|speed|memory|pairs|hostile [--data DIR] …

Run it on an otherwise idle machine for `speed`. The data folder is `--data`, else RETELL_TEST_DATA, else the one beside
the checkout. See docs/log.md for what came out.
"""

import argparse
import contextlib
import json
import os
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from common import PeakMemory, Verifiers, boxed, graded, memory, new_pool, retell_verdicts
from golds import BENCHMARKS, Row, data_folder, plain, rows
from hostile import cases as hostile_cases
from perturb import Pair, one_percent, pairs, rounds_to
from scalars import number

from retell.graders.base import Case
from retell.graders.pool import GraderPool
from retell.records import Verdict


def _short(text: str, width: int = 70) -> str:
    text = text.replace("\n", "⏎")
    return text if len(text) <= width else f"{text[: width - 12]}…({len(text)})"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f} %" if whole else "–"


# --------------------------------------------------------------------------------------------------------- vectors


def vectors(options: argparse.Namespace) -> None:
    """The authored cases: what is right, and every miss."""
    with open(data_folder(options.data) / "grader" / "vectors_public.jsonl", encoding="utf-8") as lines:
        found = [json.loads(line) for line in lines]
    verdicts = retell_verdicts([Case("", row["response"], row["gold"]) for row in found])
    judged = list(zip(found, verdicts, strict=True))
    print(f"{'':24}{'cases':>7}{'right':>10}{'false positives':>17}{'false negatives':>17}{'undecided':>11}")
    for name, keep in (("all", True), ("without contested", False)):
        part = [(row, verdict) for row, verdict in judged if keep or "contested" not in row["note"]]
        right = sum((verdict.outcome == "correct") == row["expected"] for row, verdict in part)
        positive = sum(verdict.outcome == "correct" and not row["expected"] for row, verdict in part)
        negative = sum(verdict.outcome != "correct" and row["expected"] for row, verdict in part)
        undecided = sum(verdict.outcome == "undecided" for _, verdict in part)
        print(f"{name:24}{len(part):7}{_percent(right, len(part)):>10}{positive:17}{negative:17}{undecided:11}")
    for row, verdict in judged:
        if (verdict.outcome == "correct") != row["expected"]:
            print(
                f"  {row['id']} {row['tag']}: gold {_short(row['gold'])!r}, response {_short(row['response'])!r}: ",
                end="",
            )
            print(f"{verdict.outcome} ({verdict.reason}), expected {row['expected']}; {row['note']}")


# -------------------------------------------------------------------------------------------------------- accuracy


def accuracy(options: argparse.Namespace) -> None:
    """Golds against themselves, e-notation, perturbations."""
    data = data_folder(options.data)
    golds = [Pair(row.benchmark, row.problem, row.gold, row.gold, True, "itself") for row in rows(data)]
    _report("golds against themselves", golds, options.show, by_kind=False)
    notation = []
    for row in rows(data, ("minerva_math",)):
        mantissa, e, power = row.gold.partition("e")
        if e and number(mantissa) is not None and power.lstrip("-").isdigit():
            changed = one_percent(mantissa)
            kind = "mantissa + 1 %" + (", which rounds to the gold" if rounds_to(changed, mantissa) else "")
            for number_, equal, name in ((mantissa, True, "e as \\times 10"), (changed, False, kind)):
                answer = f"{number_} \\times 10^{{{power}}}"
                notation.append(Pair(row.benchmark, row.problem, row.gold, answer, equal, name))
    _report("e-notation", notation, options.show, by_kind=True)
    _report("perturbations", list(pairs(data)), options.show, by_kind=True)


def _report(title: str, found: list[Pair], show: int, *, by_kind: bool) -> None:
    verdicts = retell_verdicts([Case(pair.problem, boxed(pair.answer), pair.gold) for pair in found])
    judged = list(zip(found, verdicts, strict=True))
    print(f"\n{title}: {len(found)} pairs")
    print(f"{'':40}{'equal':>7}{'not found equal':>22}{'unequal':>9}{'found equal':>20}{'undecided':>11}")
    for benchmark in (*BENCHMARKS, "all"):
        part = [(pair, verdict) for pair, verdict in judged if benchmark in (pair.benchmark, "all")]
        if part:
            _row(benchmark, part)
    misses: dict[str, list[tuple[Pair, Verdict]]] = defaultdict(list)
    for pair, verdict in judged:
        if (verdict.outcome == "correct") != pair.equal:
            misses[("false negative: " if pair.equal else "FALSE POSITIVE: ") + pair.kind].append((pair, verdict))
    if by_kind:
        print("by kind, where any is missed:")
        for kind in sorted({(pair.equal, pair.kind) for part in misses.values() for pair, _ in part}):
            _row(kind[1], [(pair, verdict) for pair, verdict in judged if (pair.equal, pair.kind) == kind])
    for name, part in sorted(misses.items()):
        for pair, verdict in Random(name).sample(part, min(show, len(part))):
            print(f"  {name} [{pair.benchmark}] gold {_short(pair.gold)!r} answer {_short(pair.answer)!r}", end="")
            print(f" {verdict.outcome} ({verdict.reason})")


def _row(name: str, part: list[tuple[Pair, Verdict]]) -> None:
    equal = [verdict for pair, verdict in part if pair.equal]
    unequal = [verdict for pair, verdict in part if not pair.equal]
    negative = sum(verdict.outcome != "correct" for verdict in equal)
    positive = sum(verdict.outcome == "correct" for verdict in unequal)
    undecided = sum(verdict.outcome == "undecided" for _, verdict in part)
    lost = f"{negative} ({_percent(negative, len(equal))})"
    gained = f"{positive} ({_percent(positive, len(unequal))})"
    print(f"{name:40}{len(equal):7}{lost:>22}{len(unequal):9}{gained:>20}{undecided:11}")


# ----------------------------------------------------------------------------------------------------------- speed


def speed(options: argparse.Namespace) -> None:
    """retell's pool and plain math-verify in turns, two processes each, on the same answers."""
    data = data_folder(options.data)
    mixed, wrong = _mixed(data, options), _wrong(data, options)
    for name, found in (("all benchmarks, half right", mixed), ("OlympiadBench and Minerva, wrong", wrong)):
        ours: list[float] = []
        theirs: list[float] = []
        for turn in range(options.rounds):
            for run in (_ours, _theirs) if turn % 2 == 0 else (_theirs, _ours):
                (ours if run is _ours else theirs).append(len(found) / run(found))
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        print(f"{name}: {len(found)} distinct pairs, {options.rounds} rounds, answers/s")
        print(f"  retell      {median(ours):8.0f}   ({', '.join(f'{rate:.0f}' for rate in ours)})")
        print(f"  math-verify {median(theirs):8.0f}   ({', '.join(f'{rate:.0f}' for rate in theirs)})")
        print(f"  ratio       {median(ratios):8.2f}   ({', '.join(f'{ratio:.2f}' for ratio in ratios)})", flush=True)


def _mixed(data: Path, options: argparse.Namespace) -> list[Case]:
    """Each gold with a right answer in the next form that is left, and with the gold of another problem."""
    forms: dict[str, list[str]] = defaultdict(list)
    for pair in pairs(data):
        if pair.equal:
            forms[pair.gold].append(pair.answer)
    found, seen = [], set()
    for row, other in _with_another(data, BENCHMARKS):
        choices = [plain(row.gold), *Random(row.gold).sample(forms[row.gold], min(4, len(forms[row.gold])))]
        right = next((text for text in choices if (row.gold, text) not in seen), None)
        for answer in (right, other):
            if answer is not None and (row.gold, answer) not in seen:
                seen.add((row.gold, answer))
                found.append(Case(row.problem, boxed(answer), row.gold))
    return _sample(found, options.count)


def _wrong(data: Path, options: argparse.Namespace) -> list[Case]:
    found = {(row.gold, other): row for row, other in _with_another(data, ("olympiadbench", "minerva_math"))}
    return _sample([Case(row.problem, boxed(other), gold) for (gold, other), row in found.items()], options.count)


def _with_another(data: Path, benchmarks: tuple[str, ...]) -> Iterator[tuple[Row, str]]:
    for benchmark in benchmarks:
        found = list(rows(data, (benchmark,)))
        golds = sorted({row.gold for row in found})
        for i, row in enumerate(found):
            other = Random(f"{benchmark} {i}").choice([gold for gold in golds if plain(gold) != plain(row.gold)])
            yield row, plain(other)


def _sample(found: list[Case], count: int | None) -> list[Case]:
    return Random(0).sample(found, min(count or len(found), len(found)))


def _ours(found: list[Case]) -> float:
    with new_pool(2) as pool:
        start = time.perf_counter()
        for _ in graded(pool, found):
            pass
        return time.perf_counter() - start


def _theirs(found: list[Case]) -> float:
    jobs = [(i, f"\\boxed{{{case.gold}}}", case.response) for i, case in enumerate(found)]
    with Verifiers(2, remember=False) as verifiers:
        start = time.perf_counter()
        for _ in verifiers.verdicts(jobs):
            pass
        return time.perf_counter() - start


# ---------------------------------------------------------------------------------------------------------- memory


def _generated(count: int) -> Iterator[Case]:
    shapes: tuple[Callable[[int], tuple[str, str]], ...] = (
        lambda n: (f"{n}", f"{n + n % 2}"),
        lambda n: (f"\\frac{{{n}}}{{{n + 1}}}", f"\\frac{{{2 * n}}}{{{2 * n + 2}}}"),
        lambda n: (f"{n}.25", f"\\frac{{{4 * n + 1}}}{{4}}"),
        lambda n: (f"{n}\\sqrt{{3}}", f"\\sqrt{{{3 * n * n}}}"),
        lambda n: (f"x^2+{n}x", f"x(x+{n})"),
        lambda n: (f"({n}, {n + 1})", f"({n}, {n + 2})"),
        lambda n: (f"\\{{{n}, {n + 1}\\}}", f"\\{{{n + 1}, {n}\\}}"),
        lambda n: (f"{n}\\pi", f"\\frac{{{2 * n}\\pi}}{{2}}"),
    )
    for i in range(count):
        gold, answer = shapes[i % len(shapes)](i + 2)
        yield Case(f"Problem {i}", boxed(answer), gold)


def memory_(options: argparse.Namespace) -> None:
    """Memory while a great many distinct answers are graded."""
    count = options.count or 1_000_000
    outcomes: Counter[str] = Counter()
    start = time.perf_counter()
    print(f"{'answers':>10}{'this process':>14}{'workers':>9}{'largest':>9}{'seconds':>9}   MiB")
    with new_pool(options.workers) as pool:
        for done, (_, verdict) in enumerate(graded(pool, _generated(count)), 1):
            outcomes[verdict.outcome] += 1
            if done % max(1, count // 10) == 0 or done == 1:
                own, *workers = memory()
                seconds = time.perf_counter() - start
                print(f"{done:10}{own:14}{sum(workers):9}{max(workers):9}{seconds:9.0f}", flush=True)
    print(dict(outcomes))


# ----------------------------------------------------------------------------------------------------------- pairs


def gold_pairs(options: argparse.Namespace) -> None:
    """retell and math-verify on pairs of golds; what they do not agree on."""
    out: Path = options.out or Path("pairs.jsonl")
    found = _pairs_of_golds(data_folder(options.data), options.count or 200_000)
    if out.exists():
        known = {(row["gold"], row["answer"]) for row in _kept(out)}
        found = [pair for pair in found if (pair.gold, pair.answer) not in known]
        print(f"{len(known)} pairs are done")
    start, size = time.perf_counter(), 2_000
    with open(out, "a", encoding="utf-8") as file, Verifiers(2, remember=True) as verifiers, new_pool(2) as pool:
        for at in range(0, len(found), size):
            chunk = found[at : at + size]
            ours = dict(graded(pool, [Case(pair.problem, boxed(pair.answer), pair.gold) for pair in chunk]))
            jobs = [(i, boxed(plain(pair.gold)), boxed(pair.answer)) for i, pair in enumerate(chunk)]
            theirs = dict(verifiers.verdicts(jobs, batch=64))
            for i, pair in enumerate(chunk):
                row = {"benchmark": pair.benchmark, "gold": pair.gold, "answer": pair.answer}
                verdicts = {"retell": ours[i].outcome, "reason": ours[i].reason, "math_verify": theirs[i]}
                file.write(json.dumps(row | verdicts, ensure_ascii=False) + "\n")
            file.flush()
            print(f"{at + len(chunk)} of {len(found)}, {time.perf_counter() - start:.0f} s", flush=True)
    _compare(out)


def _pairs_of_golds(data: Path, count: int) -> list[Pair]:
    """A sample of the ordered pairs of distinct golds within each benchmark, as even over them as they allow."""
    pools = {}
    for benchmark in BENCHMARKS:
        golds = {plain(row.gold): row for row in rows(data, (benchmark,))}
        size = len(golds) * (len(golds) - 1)
        pools[benchmark] = (list(golds.items()), size)
    left, found = count, []
    for k, benchmark in enumerate(sorted(pools, key=lambda name: pools[name][1])):
        golds_, size = pools[benchmark]
        take = min(size, left // (len(pools) - k))
        left -= take
        for index in Random(benchmark).sample(range(size), take):
            i, j = divmod(index, len(golds_) - 1)
            (_, row), (answer, _) = golds_[i], golds_[j + (j >= i)]
            found.append(Pair(benchmark, row.problem, row.gold, answer, False, "another gold"))
    return Random(0).sample(found, len(found))


def _kept(out: Path) -> Iterator[dict[str, Any]]:
    """The rows written so far; one that was cut off is owed again."""
    with open(out, encoding="utf-8") as lines:
        for line in lines:
            with contextlib.suppress(ValueError):
                yield json.loads(line)


def _compare(out: Path) -> None:
    counts: Counter[tuple[str, bool | None]] = Counter()
    print("contradictions:")
    for row in _kept(out):
        counts[row["retell"], row["math_verify"]] += 1
        if (row["retell"] == "correct") != bool(row["math_verify"]):
            print(f"  [{row['benchmark']}] gold {_short(row['gold'])!r} answer {_short(row['answer'])!r}: ", end="")
            print(f"retell {row['retell']} ({row['reason']}), math-verify {row['math_verify']}")
    print(f"{'retell':12}{'math-verify':14}{'pairs':>9}")
    for (ours, theirs), n in sorted(counts.items(), key=str):
        print(f"{ours:12}{'killed' if theirs is None else str(theirs):14}{n:9}")


# --------------------------------------------------------------------------------------------------------- hostile


def hostile(options: argparse.Namespace) -> None:
    """Hostile answers one at a time, then in a row; none may be found correct, none may run as code."""
    with tempfile.TemporaryDirectory() as folder, PeakMemory() as peak, new_pool(2) as pool:
        marker = Path(folder) / "marker"
        found = hostile_cases(marker)
        timed, outcomes, correct = [], Counter[str](), []
        for name, response, gold in found:
            start = time.perf_counter()
            [(_, verdict)] = list(graded(pool, [Case("", response, gold)]))
            timed.append((time.perf_counter() - start, name, verdict))
            outcomes[verdict.outcome] += 1
            if verdict.outcome == "correct":
                correct.append((name, response, gold, verdict))
        print(f"{len(found)} cases one at a time: {dict(outcomes)}, {sum(seconds for seconds, *_ in timed):.0f} s")
        print(f"most memory: {peak.one} MiB in one process, {peak.all} MiB in all of them")
        for seconds, name, verdict in sorted(timed, key=lambda row: -row[0])[: options.show or 8]:
            print(f"  {seconds:6.2f} s {name}: {verdict.outcome} ({_short(verdict.reason or '')})")
        for name, response, gold, verdict in correct:
            print(f"  WRONGLY CORRECT {name}: {_short(response)!r} against {_short(gold)!r} ({verdict.reason})")
        _sane(pool, marker)
        _row_of_hostile(found, pool, options.count if options.count is not None else 2_000)
        print(f"most memory: {peak.one} MiB in one process, {peak.all} MiB in all of them")
        _sane(pool, marker)


def _row_of_hostile(found: list[tuple[str, str, str]], pool: GraderPool, count: int) -> None:
    """The cases again and again with other golds, so that none is remembered."""
    chosen = Random(0).choices(found, k=count)
    cases = [
        Case("", response, gold if gold != "7" else f"{700_001 + i}") for i, (_, response, gold) in enumerate(chosen)
    ]
    start = time.perf_counter()
    outcomes = Counter(verdict.outcome for _, verdict in graded(pool, cases))
    seconds = time.perf_counter() - start
    print(f"{count} in a row: {dict(outcomes)}, {seconds:.0f} s, {seconds / max(1, count) * 1000:.0f} ms each")


def _sane(pool: GraderPool, marker: Path) -> None:
    unique = os.urandom(3).hex()
    right = [Case("", boxed("\\frac{2}{4}"), "0.5"), Case("", boxed(f"x_{{{unique}}}+x"), f"x+x_{{{unique}}}")]
    right += [Case("", boxed(f"(n+{k})^2"), f"n^2+{2 * k}n+{k * k}") for k in range(900, 910)]
    wrong = [Case("", boxed(f"(n+{k})^2"), f"n^2+{2 * k}n+{k * k + 1}") for k in range(900, 910)]
    outcomes = {i: verdict.outcome for i, verdict in graded(pool, right + wrong)}
    good = all((outcomes[i] == "correct") == (i < len(right)) for i in outcomes)
    print(f"marker: {'PLANTED' if marker.exists() else 'none'}; afterwards the pool grades ", end="")
    print("right" if good else f"WRONG {outcomes}")


def main() -> None:
    """Runs one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = {"vectors": vectors, "accuracy": accuracy, "speed": speed}
    what |= {"memory": memory_, "pairs": gold_pairs, "hostile": hostile}
    parser.add_argument("what", choices=what)
    parser.add_argument("--data", type=Path, help="the folder with benchmarks/ and grader/")
    parser.add_argument(
        "--show", type=int, default=0, help="accuracy: misses shown of each kind; hostile: slowest cases"
    )
    parser.add_argument("--count", type=int, help="how many answers: a sample for speed, a million for memory, …")
    parser.add_argument("--rounds", type=int, default=5, help="speed: paired rounds")
    parser.add_argument("--workers", type=int, default=2, help="memory: processes")
    parser.add_argument("--out", type=Path, help="pairs: where the verdicts are kept, and resumed from")
    options = parser.parse_args()
    what[options.what](options)


if __name__ == "__main__":
    main()
