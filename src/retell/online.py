"""Rewriting as training goes on: each part of the data is rewritten by the policy as it is before it is trained on."""

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from retell.engines.base import Reloadable
from retell.graders.pool import GraderPool
from retell.ladder import Ladder
from retell.meter import Budget, Meter
from retell.mixes import kept_ids
from retell.policy import fingerprint
from retell.prompts import Prompter
from retell.recipe import Rewrite
from retell.records import Problem, Row, TrainRow
from retell.rollout import Stream, run_plans
from retell.store import Store
from retell.tally import Tally
from retell.tokens import ChatTokenizer


class OnlineRewriter:
    """Climbs the ladder with the problems of a round; samples of different rounds and policies never mix.

    Round 0 is drawn by the base, as rewriting offline is: what the journal holds of that is used. ``told`` says what
    each round came to; ``notes`` is the file that keeps it for a training that is resumed.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        base: str,
        settings: Rewrite,
        max_length: int,
        prompter: Prompter,
        tokenizer: ChatTokenizer,
        engine: Reloadable,
        graders: GraderPool,
        journal: Store,
        notes: Path,
    ) -> None:
        self._problems = {problem.id: problem for problem in problems}
        self._base = base
        self._settings = settings
        self._max_length = max_length
        self._prompter = prompter
        self._tokenizer = tokenizer
        self._engine = engine
        self._graders = graders
        self._journal = journal
        self._meter = Meter(Budget(settings.max_tokens_total, settings.max_hours))
        self._notes = notes
        self.told: list[dict[str, Any]] = []

    @property
    def ids(self) -> tuple[str, ...]:
        """All problems of all rounds."""
        return tuple(self._problems)

    def rows(self, round: int, ids: Sequence[str], policy: Path | None) -> Mapping[str, TrainRow]:
        """Training rows of a round's problems, rewritten by the policy in a folder, or by the base.

        A problem that the engine failed on has no row in this round; it is counted as rejected.
        """
        if policy is not None:
            self._engine.load(policy)
        drawn_by = fingerprint(policy) if policy is not None else self._base
        ladder = Ladder(self._settings, self._prompter, self._engine, drawn_by, self._max_length)
        tally = Tally(ladder.exhaustive)
        stream = Stream("rewrite", drawn_by, self._settings.seed, round)
        rows: dict[str, TrainRow] = {}
        rejected: Counter[str] = Counter()
        plans = (ladder.climb(self._problems[id]) for id in ids)
        for climb in run_plans(plans, self._engine, self._graders, self._journal, stream, self._meter):
            tally.add(climb)
            if isinstance(climb.result, Row):
                rows[climb.result.id] = kept_ids(asdict(climb.result), self._tokenizer)
            else:
                rejected[climb.result.reason] += 1
        earlier = json.loads(self._notes.read_text(encoding="utf-8")) if self._notes.exists() else []
        this = {"round": round, "problems": len(rows), "rejected": dict(rejected), "policy": drawn_by}
        self.told = [*(told for told in earlier if told["round"] < round), {**this, **tally.summary()}]
        self._notes.write_text(json.dumps(self.told), encoding="utf-8")
        rungs = " · ".join(f"{rung} {n:,}" for rung, n in tally.summary()["rungs"].items())
        print(f"round {round + 1}: {len(rows):,} rows rewritten: {rungs}", file=sys.stderr, flush=True)
        return rows
