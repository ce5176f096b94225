"""What early exits would spend and get right, from one pass over the validation split."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from spikesparse.commands.exits.search import ExitSearch, chance_of_right
from spikesparse.data.loading import Batch
from spikesparse.errors import UserError
from spikesparse.metrics import EnergyConstants, SpikeCounts
from spikesparse.nn import SpikeTally, SpikingNetwork
from spikesparse.nn.early_exit import EarlyExit, confidence_of, stopped_after
from spikesparse.nn.network import output_of, takes


@dataclass(frozen=True)
class Exits:
    """What came of a confidence.

    Attributes:
        confidence: one for all steps, or one for each but the last; None ran all steps.
        measure: of confidence.
        accuracy: share of the images that it answers right.
        timesteps: steps per image.
        spikes: per image.
        synops: per image.
        energy_uj: per image.
    """

    confidence: float | list[float] | None
    measure: str
    accuracy: float
    timesteps: float
    spikes: float
    synops: float
    energy_uj: float

    @property
    def flag(self) -> str:
        """The confidence as ``--model.early_exit.confidence`` takes it."""
        if isinstance(self.confidence, list):
            return "[" + ",".join(f"{each:g}" for each in self.confidence) + "]"
        return "null" if self.confidence is None else f"{self.confidence:g}"


class ExitCurve(LightningModule):
    """Runs the validation split, and sees where any early exit would have stopped.

    The bill after each step comes with the run of all steps; from a network whose forward keeps no record of it, from a
    run of its own for each number of steps.

    Args:
        net: trained.
        timesteps: T.
        energy: what an operation costs.
    """

    def __init__(self, net: SpikingNetwork, timesteps: int, energy: EnergyConstants) -> None:
        super().__init__()
        self.net, self.timesteps, self.energy = net, timesteps, energy
        self._seen: list[tuple[Tensor, Tensor, list[SpikeTally]]] = []  # step logits, labels, tallies after each step

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Keep what a batch gives after each step, and what it costs.

        Returns:
            Its step logits, for whoever looks at them.

        Raises:
            UserError: if the network cannot be stopped early.
        """
        x = batch.images.to(next(self.net.parameters()).dtype)
        output = output_of(self.net, x, record="steps") if takes(self.net, "record") else None
        if output is not None and output.step_logits is not None and output.tally.after:
            step_logits, tallies = output.step_logits, list(output.tally.after)
        else:
            after = [stopped_after(self.net, x, t) for t in range(1, self.timesteps + 1)]
            step_logits, tallies = torch.stack([each.logits for each in after]), [each.tally for each in after]
        self._seen.append((step_logits, batch.labels, tallies))
        return {"step_logits": step_logits}

    def row(self, exit: EarlyExit) -> Exits:
        """What comes of an early exit."""
        counts, right, images = SpikeCounts(), 0, 0
        counts.to(self._seen[0][1].device)  # the trainer has taken this module off it
        for step_logits, labels, tallies in self._seen:
            steps = exit.steps(step_logits)
            for t in steps.unique().tolist():
                of = steps == t
                counts.update(tallies[t - 1].of(of))
                right += int((step_logits[t - 1].argmax(1) == labels)[of].sum())
            images += len(labels)
        bill = counts.bill()
        total = bill.rows(self.energy)["total"]
        spent = [float(total[f"{quantity}_per_image"]) for quantity in ("spikes", "synops", "energy_uj")]
        return Exits(exit.confidence, exit.measure, right / max(1, images), bill.timesteps, *spent)

    def sought(self, targets: list[float], by: str, measure: str) -> list[EarlyExit]:
        """For each target the exit, a confidence after each step, that is to get the most right without spending more.

        Targets that none spends in full have one exit in common; it is given once.

        Args:
            targets: spikes or synaptic operations per image.
            by: "spikes" or "synops".
            measure: of confidence.

        Raises:
            UserError: for a target that one step's work exceeds.
        """
        step_logits = torch.cat([step_logits for step_logits, _, _ in self._seen], 1)
        labels = torch.cat([labels for _, labels, _ in self._seen])
        spent = torch.cat([torch.stack([getattr(t, by).sum(0) for t in tallies]) for _, _, tallies in self._seen], 1)
        confidence, right = confidence_of(step_logits, measure).cpu(), (step_logits.argmax(2) == labels).cpu()
        search = ExitSearch(confidence[:-1], chance_of_right(confidence, right), spent.cpu())
        found: list[EarlyExit] = []
        for target in targets:
            choice = search.within(target)
            if choice is None:
                least = f"one step spends {spent[0].mean():,.0f} already"
                raise UserError(f"exits: {target:,.0f} {by} per image were asked for; {least}.")
            if (exit := EarlyExit(choice.confidence, measure)) not in found:
                found.append(exit)
        return found
