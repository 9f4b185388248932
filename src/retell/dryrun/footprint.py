"""Bytes on disk that a run leaves behind, and what it needs besides while it trains."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from retell.dryrun.spans import Mean, Range, times, total
from retell.errors import MissingExtraError

# Fewest and most. journal.sqlite: 6,140 samples of the packaged policy, of 42 tokens each and three characters a token,
# took 870 bytes with their verdicts; samples made up of 200, 400 and 2,000 tokens and four characters a token took
# 4,840, 5,200 and 25,350, for one that needs more than half a page wastes the rest of it.
_JOURNAL_SAMPLE, _JOURNAL_TOKEN = (300, 400), (12, 25)
# rewritten.parquet: the same run took 476 bytes a row, 3.7 for each token of its prompt, solution and response; with
# four characters a token and no compression at all it would be 10.
_ROW_TOKEN = 3, 10
# gap.parquet: 4.0 and 3.1 a token of either response.
_SCORED_TOKEN = 3, 4
# eval/NAME.parquet: 27 bytes a sample of 16 tokens.
_ANSWER, _ANSWER_TOKEN = (10, 60), (1, 5)
# report.html: Plotly, 4.8 MB, and the rows and figures of the run.
REPORT: Range = (5_000_000, 15_000_000)
# A parameter and AdamW's two moments of it in float32; a checkpoint of the packaged policy took 12.2.
_TRAINED_PARAMETER = 12
BASIS = "journal and tables have as many bytes for a sample and a token as in runs of the packaged policy"
"""What all but the bytes of checkpoints rests on."""
_NOT_LINEAR = ("lm_head", "output_layer", "wte", "wpe")
"""Heads and embeddings that have no `embed` in their name."""


@dataclass(frozen=True, slots=True)
class Weights:
    """A policy's safetensors files: their size, and the shapes of what they hold by name."""

    bytes: int
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def parameters(self) -> int:
        """How many numbers there are."""
        return sum(map(math.prod, self.shapes.values()))

    def adapters(self, rank: int, layers: Sequence[str] = ()) -> int:
        """About how many numbers LoRA adapters of these layers have, by default of every linear one but the head."""
        of_layer: Counter[str] = Counter()
        for name, shape in self.shapes.items():
            if len(shape) == 2:
                of_layer[name.removesuffix(".weight").rpartition(".")[2]] += rank * sum(shape)
        adapted = layers or [layer for layer in of_layer if "embed" not in layer and layer not in _NOT_LINEAR]
        return sum(of_layer[layer] for layer in adapted)


def weights_in(files: Sequence[Path]) -> Weights:
    """Reads names and shapes, and no weight.

    Raises:
        MissingExtraError: safetensors is not installed.
    """
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise MissingExtraError("safetensors", "local") from error
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        with safe_open(file, framework="numpy") as tensors:
            names = list(tensors.keys())
            shapes |= {name: tuple(tensors.get_slice(name).get_shape()) for name in names}
    return Weights(sum(file.stat().st_size for file in files), shapes)


def of_journal(samples: Range | None, tokens: Range | None) -> Range | None:
    """Samples, and tokens that they have together."""
    return total([times(samples, _JOURNAL_SAMPLE), times(tokens, _JOURNAL_TOKEN)])


def of_answers(samples: Range | None, tokens: Range | None) -> Range | None:
    """The table of an evaluation."""
    return total([times(samples, _ANSWER), times(tokens, _ANSWER_TOKEN)])


def of_rewritten(rows: Range | None, tokens_a_row: Mean) -> Range | None:
    """rewritten.parquet, by the tokens of a row's prompt and both of its responses."""
    return times(rows, (tokens_a_row[0] * _ROW_TOKEN[0], tokens_a_row[1] * _ROW_TOKEN[1]))


def of_gap(rows: Range | None, tokens_a_row: Mean) -> Range | None:
    """gap.parquet, by the tokens of both responses of a row."""
    return times(rows, (tokens_a_row[0] * _SCORED_TOKEN[0], tokens_a_row[1] * _SCORED_TOKEN[1]))


def of_training(parameters: int, copies: int) -> int:
    """So many checkpoints to go on from, by the parameters that are trained."""
    return copies * _TRAINED_PARAMETER * parameters
