"""One update of the policy, whatever it is split into: a `transformers.Trainer` whose batches are whole updates."""

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, Trainer, TrainerCallback

from retell.errors import TrainingError
from retell.head import Anchor, Slope
from retell.logprobs import Asked, Taught, score
from retell.methods import Method
from retell.packing import Batch, collate, deal
from retell.processes import gathered, wait
from retell.records import TrainRow
from retell.schedule import Schedule

_RUNGS = ("self", "guided", "expert")
_SUMS = ("tokens", "loss", "nll", "weight", "square", "clipped")


@dataclass(frozen=True, slots=True)
class Update:
    """The rows of one update, and those of all updates, itself included, for which a snapshot is to be taken first."""

    rows: tuple[TrainRow, ...]
    ahead: tuple[tuple[TrainRow, ...], ...] = ()


class Updates:
    """The updates from ``first`` on, in order; ``rows_of`` gives the rows of a round when it begins."""

    def __init__(
        self,
        schedule: Schedule,
        rows_of: Callable[[int, Sequence[str]], Mapping[str, TrainRow]],
        first: int,
        block: int,
        rounds: int,
    ) -> None:
        self._schedule = schedule
        self._rows_of = rows_of
        self._first = first
        self._block = block
        self._rounds = rounds

    def __len__(self) -> int:
        return self._schedule.updates

    def __iter__(self) -> Iterator[Update]:
        for round in range(self._rounds):
            span = self._schedule.span(round)
            left = range(max(span.start, self._first), span.stop)
            if not left:
                continue
            wanted = list(dict.fromkeys(id for update in span for id in self._schedule.ids(update)))
            rows = self._rows_of(round, wanted)
            for update in left:
                begins = (update - span.start) % self._block == 0
                ahead = range(update, min(update + self._block, span.stop)) if begins and self._block > 1 else ()
                yield Update(self._rows(rows, update), tuple(self._rows(rows, other) for other in ahead))

    def _rows(self, rows: Mapping[str, TrainRow], update: int) -> tuple[TrainRow, ...]:
        return tuple(rows[id] for id in self._schedule.ids(update) if id in rows)


class WeightedTrainer(Trainer):
    """A Trainer whose loss is a sum over the response tokens of an update, divided by their number.

    The number is that of the whole update: micro-batches, packing and processes do not change the gradient. One line of
    metrics an update goes to ``metrics``.
    """

    def __init__(
        self,
        *args: Any,
        updates: Updates,
        method: Method,
        taught: Taught,
        base: PreTrainedModel | None,
        micro_batch_tokens: int,
        metrics: Path,
        held_out: Sequence[TrainRow] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._updates = updates
        self._method = method
        self._taught = taught
        self._base = base
        self._micro_batch_tokens = micro_batch_tokens
        self._path = metrics
        self._held_out = held_out
        self._snapshots: dict[str, Tensor] = {}
        self._sums = torch.zeros(len(_RUNGS), len(_SUMS), dtype=torch.float64, device=self.args.device)
        _keep_results_whole(self.accelerator)
        self._suspects: list[tuple[Sequence[TrainRow], Batch, Tensor]] = []

    def get_train_dataloader(self) -> Any:
        """The updates themselves: every process knows all of an update and takes its share."""
        return self._updates

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> tuple[list[Any], None]:
        """The next update; its tokens are counted in `training_step`."""
        return list(islice(epoch_iterator, num_batches)), None

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted."""
        return 0

    def training_step(self, model: torch.nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward passes of this process's micro-batches; returns its share of the update's loss."""
        update: Update = inputs
        if update.ahead:
            self._take_snapshots(model, update)
        model.train()
        tokens = sum(len(row.response) for row in update.rows)
        shares = self._shares(update.rows)
        loss = torch.zeros((), device=self.args.device)
        for number, rows in enumerate(shares):
            last = number == len(shares) - 1
            self.accelerator.gradient_state._set_sync_gradients(last)
            # Shared weights' gradients are summed at once: kept until the last, each process would hold them whole.
            with nullcontext() if last or self.is_fsdp_enabled else self.accelerator.no_sync(model):
                # The one place of normalisation. Gradients are averaged over processes, and this is a sum over them.
                part = self._summed(model, rows) / max(tokens, 1) * self.accelerator.num_processes
                self.accelerator.backward(part)
            loss += part.detach()
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Writes the metrics of an update or of the held-out rows, and hands them to the trackers."""
        if "grad_norm" in logs:
            line = self._update_line(logs)
        elif "eval_nll" in logs:
            line = {"step": self.state.global_step, "held_out_nll": logs["eval_nll"]}
        else:
            return
        if self.is_world_process_zero():
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        super().log(_flat(line))

    def _save_rng_state(self, output_dir: str) -> None:
        """The last that every process writes; what the lead writes after it says that the checkpoint is whole."""
        super()._save_rng_state(output_dir)
        wait()

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Mean negative log-likelihood of a token of the held-out rows, which are not trained on."""
        model = self.model_wrapped.eval()
        total = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        with torch.no_grad():
            for rows in self._shares(self._held_out):
                logp_N = score(model, self._collate(rows))
                total += torch.stack([-logp_N.double().sum(), total.new_tensor(float(len(logp_N)))])
        nll, tokens = self.accelerator.reduce(total, reduction="sum").tolist()
        if not math.isfinite(nll):
            raise TrainingError(f"the loss of the rows held out is {nll} at update {self.state.global_step}")
        metrics = {"eval_nll": nll / tokens}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _shares(self, rows: Sequence[TrainRow]) -> list[list[TrainRow]]:
        """This process's micro-batches."""
        lengths = [len(row.prompt) + len(row.response) for row in rows]
        dealt = deal(lengths, self.accelerator.num_processes, self._micro_batch_tokens, packed=self._taught.packs)
        return [[rows[i] for i in numbers] for numbers in dealt[self.accelerator.process_index]]

    def _collate(self, rows: Sequence[TrainRow]) -> Batch:
        pairs = [(row.prompt, row.response) for row in rows]
        return collate(pairs, packed=self._taught.packs).to(self.args.device)

    def _summed(self, model: torch.nn.Module, rows: Sequence[TrainRow]) -> Tensor:
        """The loss of a micro-batch, summed over its tokens."""
        batch = self._collate(rows)
        anchor = self._anchor(batch)
        reference_N = self._reference(rows, batch)
        if self._method.local:
            asked = Asked(batch, slope_of(self._method, reference_N), self._method.entropy, anchor)
            total, loss_N, logp_N, slope_N, clipped_N = model(**batch.inputs(), asked=asked)
        else:
            logp_N = score(model, batch)
            if not rows:
                return logp_N.sum()
            given = {"reference_BT": batch.rectangle(reference_N) if reference_N is not None else None}
            mask_BT = batch.mask_BT()
            found = _slope(self._method, batch.rectangle(logp_N.detach()), mask_BT, given)
            loss_N, slope_N, clipped_N = (values_BT[mask_BT] for values_BT in found)
            total = (slope_N * logp_N).sum()  # not the loss, but its gradient
            logp_N = logp_N.detach()
        self._note(rows, batch, loss_N, logp_N, slope_N, clipped_N)
        return total  # type: ignore[no-any-return]

    def _anchor(self, batch: Batch) -> Anchor | None:
        if not self._method.anchor:
            return None
        with self._as_base() as base, torch.no_grad():
            hidden_ND = base(**batch.inputs(), asked=Asked(batch, hidden=True))
        head = self._taught.head
        assert head is not None
        weight: Tensor = base.get_output_embeddings().weight.detach()
        whole = weight.full_tensor() if isinstance(weight, DTensor) else weight
        return Anchor(hidden_ND, type(head)(whole, head.scale, head.cap), self._method.anchor)

    def _reference(self, rows: Sequence[TrainRow], batch: Batch) -> Tensor | None:
        """The log-probs that the method compares the policy's with, by response token."""
        kind = self._method.reference
        if kind is None:
            return None
        if kind == "base":
            with self._as_base() as base, torch.no_grad():
                return score(base, batch)
        if kind == "snapshot":
            parts = [self._snapshots[row.id] for row in rows]
        else:
            parts = [torch.tensor(row.behaviour or [math.nan] * len(row.response)) for row in rows]
        return torch.cat([*parts, torch.zeros(0)]).to(self.args.device)

    @contextlib.contextmanager
    def _as_base(self) -> Iterator[Any]:
        """The policy as it was before training: a copy, or the model without its adapters."""
        device = self.args.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.args.bf16):  # as the policy itself is run
            if self._base is not None:
                yield self._base
                return
            model: Any = self.model
            training = model.training
            with model.eval().disable_adapter():
                yield model
            model.train(training)

    def _take_snapshots(self, model: torch.nn.Module, update: Update) -> None:
        """Log-probs of the coming updates' rows under the policy of now, each row by the process that needs it."""
        self._snapshots = {}
        model.eval()
        with torch.no_grad():
            for ahead in update.ahead:
                for rows in self._shares(ahead):
                    logp_N = score(model, self._collate(rows)).cpu()
                    parts = logp_N.split([len(row.response) for row in rows])
                    self._snapshots |= {row.id: part for row, part in zip(rows, parts, strict=False)}

    def _note(
        self,
        rows: Sequence[TrainRow],
        batch: Batch,
        loss_N: Tensor,
        logp_N: Tensor,
        slope_N: Tensor,
        clipped_N: Tensor,
    ) -> None:
        """Adds a micro-batch to the update's metrics, by rung; a weight is −∂loss/∂logp."""
        if not rows:
            return
        of_row = torch.tensor([_RUNGS.index(row.rung) for row in rows], device=loss_N.device)
        columns = (torch.ones_like(loss_N), loss_N, -logp_N, -slope_N, slope_N**2, clipped_N)
        self._sums.index_add_(0, of_row[batch.row_N], torch.stack([c.double() for c in columns], dim=1))
        self._suspects.append((rows, batch, loss_N))

    def _update_line(self, logs: Mapping[str, float]) -> dict[str, Any]:
        sums = self.accelerator.reduce(self._sums, reduction="sum").cpu()
        step, norm = self.state.global_step, float(logs["grad_norm"])
        whole = _figures(sums.sum(0).tolist())
        if not all(map(math.isfinite, (whole["loss"], whole["nll"], norm))):
            raise TrainingError(
                f"the loss is {whole['loss']} and the gradient's norm {norm} at update {step}{self._blame()}: lower "
                "the learning rate, or look at the rows; the last checkpoint is kept"
            )
        self._sums.zero_()
        self._suspects = []
        rungs = {name: _figures(row) for name, row in zip(_RUNGS, sums.tolist(), strict=True) if row[0]}
        return {"step": step, **whole, "grad_norm": norm, "learning_rate": logs["learning_rate"], "rungs": rungs}

    def _blame(self) -> str:
        """Which rows of the update have a loss that is not finite."""
        names: list[str] = []
        for rows, batch, loss_N in self._suspects:
            wrong = set(batch.row_N[~loss_N.isfinite()].tolist())
            names += [row.id for number, row in enumerate(rows) if number in wrong]
        names = gathered(names)
        few = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        return f" (row {few})" if names else ""


class Milestones(TrainerCallback):
    """Asks for a checkpoint every so many updates, where one can be resumed from."""

    def __init__(self, every: int, block: int, starts: Sequence[int], last: int, evaluate: bool) -> None:
        self._every = every
        self._block = block
        self._starts = starts
        self._last = last
        self._evaluate = evaluate

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Decides after every update."""
        step = state.global_step
        ends = step == self._last
        # A round is gone on with from its beginning; in the middle of a block its snapshot is only in memory.
        ripe = step % self._block == 0 and step // self._every > (step - self._block) // self._every
        due = step in self._starts if self._starts else ripe
        control.should_save = (due and not ends) or (ends and self._evaluate)
        control.should_evaluate = control.should_save and self._evaluate


def _keep_results_whole(accelerator: Any) -> None:
    """Under FSDP2 in half precision, what the model returns and sums of gradients stay in float32."""
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    policy = getattr(plugin, "mixed_precision_policy", None)
    if plugin is not None and policy is not None and plugin.fsdp_version == 2:
        plugin.mixed_precision_policy = replace(policy, reduce_dtype=torch.float32, output_dtype=None)


def slope_of(method: Method, reference_N: Tensor | None = None) -> Slope:
    """What the head asks of a loss that each token makes by itself."""

    def slope(part: slice, logp_N: Tensor, entropy_N: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        given = {"entropy_BT": entropy_N, "reference_BT": reference_N[part] if reference_N is not None else None}
        all_1N = torch.ones_like(logp_N[None], dtype=torch.bool)
        loss_1N, slope_1N, clipped_1N = _slope(method, logp_N[None], all_1N, given)
        return loss_1N[0], slope_1N[0], clipped_1N[0]

    return slope


def _slope(
    method: Method, logp_BT: Tensor, mask_BT: Tensor, given: Mapping[str, Tensor | None]
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of tokens, its derivative by their log-prob, and where it was clipped."""
    shaped = {name: value.view_as(logp_BT) for name, value in given.items() if value is not None}
    with torch.enable_grad():
        leaf = logp_BT.detach().requires_grad_()
        terms = method.compute(leaf, mask_BT, **shaped)
        (slope_BT,) = torch.autograd.grad(terms.loss_BT.sum(), leaf)
    return terms.loss_BT.detach(), slope_BT, terms.clipped_BT


def _figures(sums: Sequence[float]) -> dict[str, Any]:
    """Per token: loss, plain negative log-likelihood, mean weight and clipped share; and the share of the tokens that
    would weigh as much if all weighed the same.
    """
    tokens, loss, nll, weight, square, clipped = sums
    count = max(tokens, 1)
    return {
        "tokens": int(tokens),
        "loss": loss / count,
        "nll": nll / count,
        "mean_weight": weight / count,
        "ess": weight**2 / (count * square) if square else 0.0,
        "clipped": clipped / count,
    }


def _flat(line: Mapping[str, Any]) -> dict[str, float]:
    """Metrics as trackers take them: one level."""
    flat = {name: value for name, value in line.items() if name not in ("rungs", "step")}
    for rung, figures in line.get("rungs", {}).items():
        flat |= {f"{rung}/{name}": value for name, value in figures.items()}
    return flat
