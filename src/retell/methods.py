"""A recipe's loss by name: its options read, and what it needs of the trainer.

What a loss computes is in `losses`, or in a function of somebody's own.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from inspect import Parameter, signature
from traceback import extract_tb
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from retell import losses
from retell.errors import RecipeError, first_line
from retell.losses import Limit, Terms, kept
from retell.plugins import Plugin

Reference = Literal["behaviour", "base", "snapshot"]
"""Whose log-probs a loss compares with: those recorded at sampling, the first policy's, an earlier update's."""


@dataclass(frozen=True, slots=True)
class Method:
    """A loss with its options, and what it needs of the trainer."""

    spec: str
    """The name and the given options, sorted: equal for equal requests."""
    name: str
    compute: Callable[..., Terms]
    """``compute(logp_BT, mask_BT, reference_BT=None, entropy_BT=None)``; what the loss does not want is ignored."""
    reference: Reference | None = None
    """What ``reference_BT`` must hold."""
    entropy: bool = False
    """Whether it wants ``entropy_BT``."""
    local: bool = False
    """Whether a token's loss depends on that token alone, so that it may be computed in any pieces."""
    anchor: float = 0.0
    """Coefficient of KL(π_base ‖ π_θ), to be added per token."""
    updates: int = 1
    """Optimiser steps from one snapshot to the next."""
    others: str = ""
    """The loss of rows without behaviour log-probs; where empty, they are to be refused."""
    version: str = ""
    """Of somebody's own function: changes with the file it is in."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss of `losses` before it has options."""

    function: Callable[..., Terms]
    reference: Reference | None = None
    entropy: bool = False

    def compute(
        self,
        options: Mapping[str, Any],
        logp_BT: Tensor,
        mask_BT: Tensor,
        reference_BT: Tensor | None = None,
        entropy_BT: Tensor | None = None,
    ) -> Terms:
        """Hands on what the function wants."""
        wanted = ((self.reference, reference_BT), (self.entropy, entropy_BT))
        return self.function(logp_BT, mask_BT, *(values_BT for want, values_BT in wanted if want), **options)


LOSSES: Mapping[str, Loss] = {
    "sft": Loss(losses.sft),
    "dft": Loss(losses.dft),
    "is": Loss(losses.importance, reference="behaviour"),
    "iw_sft": Loss(losses.iw_sft, reference="base"),
    "psft": Loss(losses.psft, reference="snapshot"),
    "asft": Loss(losses.asft),
    "eaft": Loss(losses.eaft, entropy=True),
    "power": Loss(losses.power),
    "luffy": Loss(losses.luffy),
    "chord": Loss(losses.chord),
}


def open_loss(spec: str) -> Method:
    """The loss of a recipe: ``NAME`` or ``NAME,key=value,key=value``.

    The name is one of `LOSSES`, or ``module:function``: a function of your own, called with (logp_BT, mask_BT) and
    its options, the keyword-only parameters, that returns loss_BT or `Terms`. Its module is looked for in the working
    directory, then where Python looks.

    Raises:
        RecipeError: there is no such loss or option, or a value cannot be used.
    """
    name, *pairs = (part.strip() for part in spec.split(","))
    own = ":" in name
    if not own and name not in LOSSES:
        raise RecipeError(f"unknown loss {name!r}: {_hint(name, (*LOSSES, 'your own as module:function'))}")
    function, version = _imported(name) if own else (LOSSES[name].function, "")
    loss = Loss(partial(_own, name, function)) if own else LOSSES[name]
    known = _options(name, function)
    given = _given(spec, name, known, pairs)
    canonical = ",".join([name, *(f"{key}={_text(given[key])}" for key in sorted(given))])
    compute = partial(loss.compute, given)
    if own:
        return Method(canonical, name, compute, version=version)
    options = {key: option.default for key, option in known.items()} | given
    return Method(
        spec=canonical,
        name=name,
        compute=compute,
        reference=loss.reference,
        entropy=loss.entropy,
        local=options.get("level") != "sequence",
        anchor=options.get("kl", 0.0),
        updates=options.get("updates", 1),
        others=options.get("others", ""),
    )


@dataclass(frozen=True, slots=True)
class _Option:
    """An option of a loss: how its text is read, and what it may be, in words and as a test."""

    default: Any
    read: Callable[[str], Any]
    words: str
    holds: Callable[[Any], bool]


_KINDS: Mapping[type, str] = {float: "a finite number", int: "a whole number", str: "a text"}


def _options(name: str, function: Callable[..., Any]) -> dict[str, _Option]:
    """The options of a function: its keyword-only parameters."""
    try:
        parameters = signature(function).parameters.values()
    except (TypeError, ValueError):
        raise RecipeError(f"loss {name!r}: its parameters cannot be read: wrap it in a function of yours") from None
    try:
        hints = get_type_hints(function, include_extras=True)
    except (AttributeError, NameError, TypeError):
        hints = {}  # a user's annotations that do not resolve: the defaults have types too
    options = {}
    for parameter in parameters:
        if parameter.kind is Parameter.KEYWORD_ONLY:
            if parameter.default is Parameter.empty:
                raise RecipeError(f"loss {name!r}: its option {parameter.name} has no default: give it one")
            hint = hints.get(parameter.name, type(parameter.default))
            options[parameter.name] = _option(parameter.default, hint)
    return options


def _option(default: Any, hint: Any) -> _Option:
    inner, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    if get_origin(inner) is Literal and all(isinstance(choice, str) for choice in get_args(inner)):
        choices = [choice for choice in get_args(inner) if choice]
        return _Option(default, str, " or ".join(choices), lambda value: value in choices)
    limit = next((note for note in notes if isinstance(note, Limit)), Limit("", lambda value: True))
    kind = next((kind for kind in _KINDS if kind in (inner, *get_args(inner))), None)
    if kind is None:
        return _Option(default, str, "its parameter an int, a float or a str as default", lambda value: False)
    return _Option(default, kind, f"{_KINDS[kind]} {limit.words}".strip(), limit.holds)


def _given(spec: str, name: str, known: Mapping[str, _Option], pairs: Sequence[str]) -> dict[str, Any]:
    """The values of a spec's options."""
    given: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = (part.strip() for part in pair.partition("="))
        if not equals:
            raise RecipeError(f"loss {spec!r}: {pair!r} is no option: write key=value")
        if key not in known:
            raise RecipeError(
                f"loss {spec!r}: unknown option {key!r}: {_hint(key, list(known)) if known else f'{name} has none'}"
            )
        if key in given:
            raise RecipeError(f"loss {spec!r}: {key} is given twice: keep one")
        try:
            given[key] = _value(known[key], text)
        except ValueError:
            raise RecipeError(f"loss {spec!r}: {key} = {text!r}: give {known[key].words}") from None
    return given


def _value(option: _Option, text: str) -> Any:
    """Raises ValueError where the text is no value or one out of bounds."""
    value = option.read(text)
    if (isinstance(value, float) and not math.isfinite(value)) or not option.holds(value):
        raise ValueError(text)
    return value


def _text(value: Any) -> str:
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def _hint(word: str, known: Sequence[str]) -> str:
    near = get_close_matches(word.lower(), known, n=1)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"


def _imported(name: str) -> tuple[Callable[..., Any], str]:
    """The user's function and its version; its module is run."""
    plugin = Plugin("loss", name, LOSSES)
    try:
        return plugin.load()
    except RecipeError:
        raise
    except Exception as error:
        raise RecipeError(
            f"loss {name!r}: {plugin.module} cannot be imported: {type(error).__name__}: {first_line(error)}"
        ) from error


def _own(name: str, function: Callable[..., Any], logp_BT: Tensor, mask_BT: Tensor, /, **options: Any) -> Terms:
    """What the user's function returns, once it is known to be a loss.

    Raises:
        RecipeError: it is none, or it fails.
    """
    try:
        # It is shown 0 outside the mask, so that it need not think of what stands there.
        returned = function(kept(logp_BT, mask_BT), mask_BT, **options)
    except Exception as error:
        place = extract_tb(error.__traceback__)[-1]
        raise RecipeError(
            f"loss {name!r} failed in {place.filename}:{place.lineno}: {type(error).__name__}: {first_line(error)}"
        ) from error
    terms = returned if isinstance(returned, Terms) else Terms(returned, torch.zeros_like(mask_BT))
    for values_BT in (terms.loss_BT, terms.clipped_BT):
        if not isinstance(values_BT, Tensor) or values_BT.shape != logp_BT.shape:
            wrong = f"shape {tuple(values_BT.shape)}" if isinstance(values_BT, Tensor) else type(values_BT).__name__
            raise RecipeError(f"loss {name!r} returned {wrong}: return a tensor of shape {tuple(logp_BT.shape)}")
    if torch.is_grad_enabled() and logp_BT.requires_grad and not terms.loss_BT.requires_grad:
        raise RecipeError(f"loss {name!r} returned a loss without gradient: compute it from logp_BT, not detached")
    return Terms(kept(terms.loss_BT, mask_BT), mask_BT & terms.clipped_BT.bool())
