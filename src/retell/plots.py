"""The paper's figures for a run, as files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retell.errors import MissingExtraError

_EXPERT, _REWRITTEN = "#D55E00", "#0072B2"  # vermilion and blue: told apart with any colour vision
_RUNS = ("#D55E00", "#E69F00", "#56B4E9", "#0072B2", "#009E73", "#CC79A7")


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def logprob_histograms(sums: Mapping[str, tuple[Sequence[float], Sequence[float]]], path: Path) -> None:
    """Figure 3: per-row log-probs, summed over the response, of expert and rewritten text; one panel a rung,
    all on the same axis.
    """
    plt = _pyplot()
    figure, axes = plt.subplots(1, len(sums), figsize=(4.2 * len(sums), 3.2), squeeze=False, layout="constrained")
    low = min((value for pair in sums.values() for values in pair for value in values), default=-1.0) * 1.001
    bins = [low * (1 - i / 40) for i in range(41)]
    for axis, (rung, (expert, rewritten)) in zip(axes[0], sums.items(), strict=True):
        axis.hist(expert, bins=bins, color=_EXPERT, alpha=0.6, label="expert")
        if rung != "expert":
            axis.hist(rewritten, bins=bins, color=_REWRITTEN, alpha=0.6, label="rewritten")
        axis.set_title(f"{rung} ({len(expert)} rows)")
        axis.set_xlabel("log-prob of the response (nats, summed)")
        axis.set_xlim(low, 0)
        axis.set_ylabel("rows")
        axis.legend(frameon=False)
    figure.savefig(path, format="png", dpi=130)
    plt.close(figure)


def loss_curves(curves: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> None:
    """Figure 4: the training loss of each run, and beside it the plain NLL, which compares across losses."""
    plt = _pyplot()
    figure, axes = plt.subplots(1, 2, figsize=(10.5, 3.4), layout="constrained")
    for axis, key, title in zip(axes, ("loss", "nll"), ("training loss", "plain NLL of the same tokens"), strict=True):
        for colour, (name, lines) in zip(_RUNS * len(curves), curves.items(), strict=False):
            axis.plot([line["step"] for line in lines], [line[key] for line in lines], label=name, color=colour, lw=1.4)
        axis.set_title(title)
        axis.set_xlabel("update")
        axis.set_ylabel("nats per token")
        if axis.get_ylim()[0] > 0:  # a ratio's loss is negative
            axis.set_ylim(bottom=0)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    figure.savefig(path, format="png", dpi=130)
    plt.close(figure)
