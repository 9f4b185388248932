"""Measures training side by side with what one would use without retell: the head by itself, and whole updates.

    python bench/training.py head [--rounds 7] [--vocabulary 151936] [--hidden 512] [--tokens 1024] [--chunk 256]
    python bench/training.py steps [--models tiny small large] [--rounds 3] [--updates 6] [--screen 2]

All in float32 on the processor, with DFT as the loss; needs the `dev` extra (TRL). The variants take turns in one
process, in alternating order, after a round that is thrown away; a ratio is the median of the rounds' ratios. Every
number goes to --out as JSON. Run it on an otherwise idle machine. See docs/log.md for what came out.
"""

import argparse
import json
import os
from pathlib import Path

import torch
from heads import head, memory
from steps import SETTINGS, steps


def main() -> None:
    """Runs one measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    threads = int(os.environ.get("OMP_NUM_THREADS", "2"))
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--threads", type=int, default=threads, help="of torch; by default OMP_NUM_THREADS, else 2")
    shared.add_argument("--out", type=Path, help="JSON with all raw numbers; by default build/bench/training-WHAT.json")
    sizes = argparse.ArgumentParser(add_help=False)
    sizes.add_argument("--vocabulary", type=int, default=151_936)
    sizes.add_argument("--hidden", type=int, default=512)
    sizes.add_argument("--tokens", type=int, default=1024)
    sizes.add_argument("--chunk", type=int, default=256, help="rows at once of torch's second variant")
    commands = parser.add_subparsers(dest="what", required=True)
    one = commands.add_parser("head", parents=[shared, sizes], help=head.__doc__)
    one.add_argument("--rounds", type=int, default=7)
    one.add_argument(
        "--skip", nargs="+", default=[], choices=["published", "trl", "torch"], help="variants to leave out"
    )
    two = commands.add_parser("steps", parents=[shared], help=steps.__doc__)
    two.add_argument("--models", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    two.add_argument("--rounds", type=int, default=3)
    two.add_argument("--updates", type=int, default=6, help="updates of a round (ten times as many of the tiny policy)")
    two.add_argument("--screen", type=int, default=2, help="updates with which TRL's best setting is looked for")
    three = commands.add_parser("memory", parents=[shared, sizes], help="one variant of `head`, in this process")
    three.add_argument("--variant", required=True)
    three.add_argument("--measure", choices=["resident", "allocated"], required=True)
    options = parser.parse_args()
    if options.what != "steps" and options.tokens == options.hidden:
        parser.error("with as many tokens as hidden the logits have the size of the weight's gradient")
    torch.set_num_threads(options.threads)
    if options.what == "memory":
        print(json.dumps(memory(options)))
        return
    print(f"{options.threads} threads, load {os.getloadavg()[0]:.2f}")
    result = {"head": head, "steps": steps}[options.what](options)
    out = options.out or Path("build/bench") / f"training-{options.what}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(f"raw numbers: {out}")


if __name__ == "__main__":
    main()
