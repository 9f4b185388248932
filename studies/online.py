"""Online rewriting against offline on the tiny policy, at equal sampled tokens, with standard errors over seeds.

    python studies/online.py --out runs/online [--seeds 1 5] [--rounds 4]

For each seed (of rewriting, order and evaluation alike) the demo's settings are run offline with several K, and online
in rounds with the demo's K; all on the same problems in the same order. What is compared with an online run is the
offline run with the smallest K among those that drew at least as many tokens. Evaluation is the demo's: 100 problems of
each benchmark, 8 samples. Prints Markdown for docs/log.md.
"""

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line does

import torch
from tiny_policy import mean_and_error, recipe

from retell import pipeline
from retell.recipe import Recipe
from retell.runfolder import RunFolder

OFFLINE, ONLINE = ("dr-sft", "dr-dft"), ("sft:online", "dft:online")


def run(chosen: Recipe, out: Path) -> dict[str, Any]:
    """What `retell run` returns."""
    with RunFolder(out) as folder:
        return pipeline.run(chosen, folder)


def seeded(seed: int, k: int, runs: tuple[str, ...], **train: object) -> Recipe:
    """The demo's recipe with every seed changed."""
    return recipe(
        {
            "rewrite": {"seed": seed, "k": k},
            "train": {"runs": runs, "seed": seed, **train},
            "evaluate": {"seed": seed},
        }
    )


def one_seed(seed: int, out: Path, rounds: int, k: int, offline: list[int]) -> dict[str, dict[str, float]]:
    """Accuracy and generated tokens of both ways, by loss."""
    folder = out / f"seed-{seed}"  # one for all: a larger K and the first round use what is stored
    drawn = {}
    for other in sorted(offline):
        summary = run(seeded(seed, other, OFFLINE), folder)
        drawn[other] = (summary["rewrite"]["tokens"]["generated"], summary)
    online = run(seeded(seed, k, ONLINE, rounds=rounds), folder)
    found: dict[str, dict[str, float]] = {}
    for loss in ("sft", "dft"):
        told = online["train"][f"online-{loss}"]["rounds"]
        tokens = sum(round["tokens"]["generated"] for round in told)
        enough = [other for other in offline if drawn[other][0] >= tokens]
        matched = min(enough) if enough else max(offline)
        found[loss] = {
            "online": online["evaluate"][f"online-{loss}"]["average"],
            "online tokens": tokens,
            "matched K": matched,
            "matched": drawn[matched][1]["evaluate"][f"dr-{loss}"]["average"],
            "matched tokens": drawn[matched][0],
            "same K": drawn[k][1]["evaluate"][f"dr-{loss}"]["average"],
            "same K tokens": drawn[k][0],
        }
    return found


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs=2, default=(1, 5), help="first and last")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--offline", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    rows: dict[str, list[dict[str, float]]] = {"sft": [], "dft": []}
    print("| seed | loss | online | tokens | offline, enough tokens | K | tokens | offline, same K | tokens |")
    print("|---:|---|---:|---:|---:|---:|---:|---:|---:|", flush=True)
    for seed in range(chosen.seeds[0], chosen.seeds[1] + 1):
        for loss, row in one_seed(seed, chosen.out, chosen.rounds, chosen.k, chosen.offline).items():
            rows[loss].append(row)
            cells = (
                f"{row['online']:.1f} | {row['online tokens']:,.0f} | {row['matched']:.1f} | {row['matched K']} | "
                f"{row['matched tokens']:,.0f} | {row['same K']:.1f} | {row['same K tokens']:,.0f}"
            )
            print(f"| {seed} | {loss} | {cells} |", flush=True)
    for loss, found in rows.items():
        for other in ("matched", "same K"):
            gains = [row["online"] - row[other] for row in found]
            held = sum(gain > 0 for gain in gains)
            means = f"{mean_and_error([row['online'] for row in found])} against "
            means += mean_and_error([row[other] for row in found])
            print(
                f"- DR + {loss.upper()}, online against offline ({other}): {means}; difference "
                f"{mean_and_error(gains)}, above 0 in {held} of {len(gains)} seeds"
            )


if __name__ == "__main__":
    main()
