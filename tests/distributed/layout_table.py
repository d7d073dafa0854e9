"""The same five steps on every layout: real tokenizer, real data, rows of 4096, float32.

`python tests/distributed/layout_table.py` runs all layouts and prints their losses and gradient norms;
test_layouts.py runs them one by one.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]

from rank_pool import RankPool  # noqa: E402
from tiny import layout, write_config, write_real_model  # noqa: E402

DATA = Path(__file__).resolve().parents[3] / "shared/data"
STEPS = 5
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Case:
    """A layout, and the processes it takes."""

    name: str
    overrides: list[str]
    processes: int


@dataclass(frozen=True)
class Curve:
    """Loss and gradient norm of each step."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    seconds: float = 0.0
    """Median step."""

    def distance(self, other: Curve) -> tuple[float, float]:
        """Largest relative difference of the losses and of the norms."""
        return _largest(self.losses, other.losses), _largest(self.norms, other.norms)


def case(
    tensor: int = 1,
    pipeline: int = 1,
    data: int = 1,
    *,
    sequence: bool = False,
    recompute: str = "none",
    micro_rows: int = 1,
    schedule: str = "1f1b",
) -> Case:
    words = [f"TP{tensor} PP{pipeline} DP{data}"]
    words += ["sequence"] if sequence else []
    words += [f"recompute {recompute}"] if recompute != "none" else []
    words += [schedule] if schedule != "1f1b" else []
    words += [f"micro_rows {micro_rows}"] if micro_rows > 1 else []
    overrides = layout(tensor, pipeline, data, sequence=sequence, recompute=recompute, schedule=schedule)
    return Case(", ".join(words), [*overrides, f"batch.micro_rows={micro_rows}"], tensor * pipeline * data)


REFERENCE = case()
CASES = (
    case(4),
    case(1, 3),
    case(1, 1, 2),
    case(2, 2),
    case(2, 2, 2, sequence=True),
    case(recompute="full"),
    case(recompute="selective"),
    case(2, 2, sequence=True, recompute="selective"),
    case(1, 1, 2, micro_rows=2),
)
MORE_CASES = (
    case(2),
    case(1, 2),
    case(1, 4),
    case(2, 2, 2),
    case(2, sequence=True),
    case(2, 2, sequence=True),
    case(2, sequence=True, recompute="full"),
    case(1, 3, recompute="full"),
    case(2, 2, sequence=True, micro_rows=2),
)


def write_run(folder: Path) -> Path:
    """The config of the run that all layouts share, with its model, in `folder`."""
    model = write_real_model(folder / "model", DATA / "llama2_tokenizer/tokenizer.model")
    conversations = DATA / "conversations"
    sources = [
        {"name": "db", "path": str(conversations / "agentinstruct_db.json"), "role": "agent"},
        {"name": "sharegpt", "path": str(conversations / "sharegpt_general.json"), "role": "general"},
    ]
    data = {"sequence_length": 4096, "eta": 0.2, "sources": sources}
    return write_config(folder / "run.yaml", model, data=data)


def curve(ranks: RankPool, config: Path, case: Case, steps: int = STEPS) -> Curve:
    """So many steps of one layout. Raises AssertionError where its ranks disagree with each other."""
    answers = ranks.run(
        "train_steps", case.processes, config=str(config), overrides=case.overrides, steps=steps
    )
    told = [[(report["loss"], report["grad_norm"]) for report in reports] for reports in answers]
    assert all(one == told[0] for one in told), f"{case.name}: ranks report different numbers"
    losses, norms = zip(*told[0], strict=True)
    seconds = sorted(report["seconds"] for report in answers[0])
    return Curve(list(losses), list(norms), seconds[steps // 2])


def _largest(these: list[float], those: list[float]) -> float:
    return max(abs(this / that - 1) for this, that in zip(these, those, strict=True))


def main() -> int:
    numbers = [*range(1, STEPS + 1)]
    heads = [*(f"loss {step}" for step in numbers), *(f"norm {step}" for step in numbers)]
    print("| layout | " + " | ".join(heads) + " | largest difference: loss | norm | s/step |")
    print("| --- |" + " --- |" * (len(heads) + 3))
    ranks, worst = RankPool(), 0.0
    with tempfile.TemporaryDirectory() as folder:
        config = write_run(Path(folder))
        reference = curve(ranks, config, REFERENCE)
        for one in (REFERENCE, *CASES, *MORE_CASES):
            found = reference if one is REFERENCE else curve(ranks, config, one)
            differences = found.distance(reference)
            worst = max(worst, *differences)
            cells = [f"{value:.7f}" for value in (*found.losses, *found.norms)]
            cells += [*(f"{difference:.1e}" for difference in differences), f"{found.seconds:.1f}"]
            print(f"| {one.name} | " + " | ".join(cells) + " |", flush=True)
    ranks.close()
    print(f"largest relative difference {worst:.1e}, allowed {TOLERANCE:.0e}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
