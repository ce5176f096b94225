"""Who takes part."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Contestant:
    """A row of the table.

    Attributes:
        name: of the row.
        adapter: module with ``build``.
        options: of ``build``.
        compile: None, or the mode of torch.compile.
        peer: the library's distribution, which has a folder in .peers; "" for what needs none.
        layout: fixed, or None for the faster of both.
        cuda_only: not run elsewhere.
        spikes: it has neurons, and must compute what the reference computes.
        differs: what it does otherwise.
    """

    name: str
    adapter: str
    options: dict[str, Any] = field(default_factory=dict)
    compile: str | None = None
    peer: str = ""
    layout: str | None = None
    cuda_only: bool = False
    spikes: bool = True
    differs: str = ""

    def search_path(self) -> list[Path]:
        """Folders of the peer's packages, and of what stands in for some that they import and do not need."""
        return [ROOT / ".peers" / self.peer, Path(__file__).parent / "stubs"] if self.peer else []


def _ours(name: str = "", compile: str | None = None, cuda_only: bool = False, **options: Any) -> Contestant:
    name = f"spikesparse {name}".strip()
    return Contestant(name, "train_step.adapters.ours", options, compile, cuda_only=cuda_only)


def _limit(name: str, layout: str, compile: str | None) -> Contestant:
    return Contestant(name, "train_step.adapters.limit", {}, compile, "", layout, spikes=False, differs="ReLU")


def _peer(peer: str, name: str = "", compile: str | None = None, differs: str = "", **options: Any) -> Contestant:
    best = bool(options.get("best"))
    adapter = f"train_step.adapters.{peer}"
    return Contestant(f"{peer} {name}".strip(), adapter, options, compile, peer, cuda_only=best, differs=differs)


BF16 = "under bf16-mixed its membrane is bfloat16"
STRICT = "fires strictly above the threshold"
NORSE = f"atan is added to its surrogates; {STRICT}; {BF16}"
CONTESTANTS = (
    _limit("limit contiguous", "contiguous", "default"),
    _limit("limit channels-last", "channels-last", "default"),
    _limit("limit eager channels-last", "channels-last", None),
    _ours(),
    _ours("penalty", penalty=True),
    _ours("compiled", "default"),
    _ours("checkpointed", recompute=True),
    _ours("cuda graphs", "reduce-overhead", cuda_only=True, graphs=True),
    _peer("spikingjelly", differs=BF16),
    _peer("spikingjelly", "compiled", "default", differs=BF16),
    _peer("spikingjelly", "memopt", memory=1, differs=BF16),
    _peer("spikingjelly", "memopt compiled", "default", memory=1, differs=BF16),
    _peer("spikingjelly", "best", best=True),
    _peer("spikingjelly", "best compiled", "default", best=True),
    _peer("spikingjelly", "best memopt", best=True, memory=1),
    _peer("spikingjelly", "best memopt compiled", "default", best=True, memory=1),
    _peer("snntorch", differs=STRICT),
    _peer("snntorch", "compiled", "default", differs=STRICT),
    _peer("norse", differs=NORSE),
    _peer("norse", "compiled", "default", differs=NORSE),
    _peer("sinabs"),
)


def chosen(names: str | None, device: str) -> list[Contestant]:
    """Those asked for by name, joined by commas; all that this device can run for None.

    Raises:
        SystemExit: for an unknown name.
    """
    if names is None:
        return [c for c in CONTESTANTS if device.startswith("cuda") or not c.cuda_only]
    known = {contestant.name: contestant for contestant in CONTESTANTS}
    wanted = [name.strip() for name in names.split(",")]
    if unknown := [name for name in wanted if name not in known]:
        raise SystemExit(f"--contestants: no {', '.join(unknown)}; there are: {', '.join(known)}")
    return [known[name] for name in wanted]
