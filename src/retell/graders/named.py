"""The graders there are, by the name a recipe gives them."""

from retell.graders.base import Grader
from retell.graders.custom import CustomGrader
from retell.graders.math import MathGrader
from retell.graders.qwen import QwenGrader


def grader_named(spec: str) -> Grader:
    """``math``, ``qwen``, or the user's own as ``module:function``.

    Raises:
        RecipeError: there is no such grader.
    """
    if spec == MathGrader.spec:
        return MathGrader()
    return QwenGrader() if spec == QwenGrader.spec else CustomGrader(spec)
