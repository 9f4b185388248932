"""The figures of the paper, "Mind the Gap" (Zhao et al., arXiv 2509.15157), as it prints them: Tables 1 to 4."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

PROBLEMS = {"math500": 500, "minerva_math": 272, "olympiadbench": 675, "aime24": 30, "amc23": 40}
"""How many problems its benchmarks have."""


@dataclass(frozen=True, slots=True)
class Published:
    """What the paper says of one policy; it gives no standard errors.

    ``rows`` (Table 1) has the training rows of each rung; ``total`` is the paper's own. ``accuracy`` (Table 2) has
    evaluation → benchmark → avg@16 in percent, and ``average`` the paper's own mean of the five. ``logprobs`` (Table 3)
    has rung → mean of the expert's and of the rewritten responses' log-probs (nats, summed over the tokens) before
    training; ``ablation`` (Table 4, one policy only) evaluation → average accuracy in percent.
    """

    policy: str
    rows: Mapping[str, int]
    total: int
    accuracy: Mapping[str, Mapping[str, float]]
    average: Mapping[str, float]
    logprobs: Mapping[str, tuple[float, float | None]]
    ablation: Mapping[str, float]


QWEN = Published(
    policy="Qwen2.5-Math-7B",
    rows={"self": 28_752, "guided": 11_620, "expert": 7_634},
    total=48_006,
    accuracy={
        "base": {"math500": 39.90, "minerva_math": 14.43, "olympiadbench": 17.16, "aime24": 7.50, "amc23": 29.38},
        "sft": {"math500": 52.61, "minerva_math": 19.13, "olympiadbench": 17.32, "aime24": 2.06, "amc23": 25.00},
        "dft": {"math500": 68.70, "minerva_math": 31.92, "olympiadbench": 32.31, "aime24": 6.68, "amc23": 43.44},
        "dr-sft": {"math500": 59.85, "minerva_math": 21.14, "olympiadbench": 23.54, "aime24": 8.54, "amc23": 38.59},
        "dr-dft": {"math500": 70.40, "minerva_math": 34.85, "olympiadbench": 36.12, "aime24": 14.58, "amc23": 54.22},
    },
    average={"base": 21.67, "sft": 23.23, "dft": 36.61, "dr-sft": 30.33, "dr-dft": 42.03},
    logprobs={"self": (-184.44, -83.36), "guided": (-280.64, -259.44), "expert": (-296.03, None)},
    ablation={"dft": 36.61, "self-dft": 38.83, "guided-dft": 38.36, "dr-dft": 42.03},
)

LLAMA = Published(
    policy="Llama-3.1-8B-Instruct",
    rows={"self": 26_947, "guided": 16_335, "expert": 4_719},
    total=48_001,
    accuracy={
        "base": {"math500": 36.18, "minerva_math": 16.01, "olympiadbench": 9.52, "aime24": 0.83, "amc23": 14.53},
        "sft": {"math500": 28.71, "minerva_math": 11.23, "olympiadbench": 6.26, "aime24": 0.41, "amc23": 10.31},
        "dft": {"math500": 46.5, "minerva_math": 24.11, "olympiadbench": 15.65, "aime24": 3.95, "amc23": 22.50},
        "dr-sft": {"math500": 44.38, "minerva_math": 19.21, "olympiadbench": 13.07, "aime24": 1.87, "amc23": 17.19},
        "dr-dft": {"math500": 47.91, "minerva_math": 24.72, "olympiadbench": 16.52, "aime24": 4.99, "amc23": 26.09},
    },
    average={"base": 15.41, "sft": 11.39, "dft": 22.54, "dr-sft": 19.14, "dr-dft": 24.05},
    logprobs={"self": (-193.01, -127.67), "guided": (-341.57, -303.44), "expert": (-388.17, None)},
    ablation={},
)

PUBLISHED = (QWEN, LLAMA)
_NAMES = {"qwen2.5-math-7b": QWEN, "llama-3.1-8b-instruct": LLAMA, "meta-llama-3.1-8b-instruct": LLAMA}


def published_for(model: str | None) -> Published | None:
    """The paper's figures for a policy that is named as one of its two: the last part of a hub id or folder, any case.

    Nothing but the name is looked at: a folder of that name may hold other weights.
    """
    return _NAMES.get(PurePath(model).name.lower()) if model else None
