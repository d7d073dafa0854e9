"""All that is measured on one GPU, in one command and under ten minutes, on a machine without a network.

`python benchmarks/gpu.py [--wheels DIR] [--out FILE]` runs the tests of tests/gpu; times decoder layers of Llama 2
7B in bfloat16 on packed rows of 4096 against transformers' Trainer with SDPA, the same with Liger's kernels and
attention of variable lengths, and a compiled loop, a step of each in turn; then the pieces of a step; then all 32
layers with AdamW on the one card. Beside our step's time stands what the cost model of `agenttune plan` says. What
fails is reported and does not keep the rest from running; each part has a limit in seconds. One table at the end;
`--out` has all as JSON, written after each part, and `--record` puts it into benchmarks/results. With `--only`, parts
that are not measured now stay as they are in `--out`.

`make gpu-wheels` fetches what a machine with torch and transformers still lacks; `--wheels` puts it where Python
looks.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks.machine import machine  # noqa: E402

RECORD = ROOT / "benchmarks/results/gpu.json"
LAYERS, LENGTH, ROWS = 8, 4096, 8
PAIRS, WARM = 7, 3
PEERS = {
    "trainer": "Trainer, SDPA",
    "trainer_liger": "Trainer, Liger, varlen",
    "compiled": "compiled PyTorch",
}
LIMITS = {
    # What goals need comes first, so that it is there where time runs out.
    **{"ceilings": 60, "accumulation": 60, "adamw": 60, "steps": 240, "whole": 150, "tests": 200},
    **{"attention": 60, "kernels": 120},
}


class Lot:
    """Runs parts while there is time, and keeps what they say in a file."""

    def __init__(self, minutes: float, out: Path, found: dict[str, Any]) -> None:
        self.out = out
        self.ends = time.monotonic() + 60 * minutes
        self.found = found

    def part(self, name: str, run: Callable[[float], Any], limit: float) -> None:
        begun = time.monotonic()
        left = min(limit, self.ends - begun)
        if left < 15:
            self.found[name] = {"error": "no time was left"}
        else:
            try:
                self.found[name] = run(left)
            except Exception as error:  # the others are measured all the same
                self.found[name] = {"error": f"{type(error).__name__}: {error}"[:500]}
        self.found.setdefault("took_seconds", {})[name] = round(time.monotonic() - begun, 1)
        self.write()
        print(f"{name}: {json.dumps(self.found[name])}"[:1500], flush=True)

    def write(self) -> None:
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_text(json.dumps(self.found, indent=2) + "\n")


def piece(name: str) -> Callable[[float], Any]:
    def run(limit: float) -> Any:
        command = [sys.executable, str(ROOT / "benchmarks/gpu_parts.py"), name]
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no message")
        return json.loads(done.stdout.strip().splitlines()[-1])

    return run


def tests(limit: float) -> Any:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit)
    lines = done.stdout.strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return {"passed": done.returncode == 0, "last_line": lines[-1] if lines else "", "failed": failed}


def steps(peers: dict[str, str]) -> Callable[[float], Any]:
    """Ours beside each peer in turn, both from the same weights and the first row on, so that losses compare."""

    def run(limit: float) -> Any:
        from benchmarks import turns
        from benchmarks.turns import Side, compare, side_command

        turns.WAIT = 90  # a side that hangs leaves time for the others
        ends = time.monotonic() + limit
        found: dict[str, Any] = {}
        with tempfile.TemporaryDirectory() as name:
            config, shape = write_run(Path(name))
            for number, (peer, title) in enumerate(peers.items()):
                begun = time.monotonic()
                share = (ends - begun) / (len(peers) - number)
                if share < 30:
                    found[title] = {"error": "no time was left"}
                    continue
                count = PAIRS + WARM
                sides = [
                    Side(side_command("ours", config, count), 1, 4, ranks=True),
                    Side(side_command(peer, config, count), 1, 4, ranks=False),
                ]
                try:
                    for side in sides:
                        side.ready()
                    # Ours has bfloat16 weights and float32 sums, theirs float32 weights under autocast. That both have
                    # the same rows and keep samples apart is shown by itself: a loss near its start says little.
                    until = begun + share
                    found[title] = compare(sides[0], sides[1], PAIRS, warm=WARM, apart=0.02, until=until)
                except Exception as error:
                    found[title] = {"error": f"{type(error).__name__}: {error}"[:300]}
                finally:
                    for side in sides:
                        side.close()
            told = [each["our_seconds"] for each in found.values() if "our_seconds" in each]
            try:
                found["ours"] = beside_model(shape, config, statistics.median(told))
            except Exception as error:  # what was measured stays
                found["ours"] = {"error": f"{type(error).__name__}: {error}"[:300]}
        return found

    return run


def write_run(folder: Path) -> tuple[Path, Any]:
    """A model of some layers of 7B, drawn on the GPU, and made-up conversations as long as agents' are."""
    import torch

    from benchmarks.conversations import write_conversations
    from benchmarks.small_llama import DEMO, small_llama, write_config
    from configs.shapes import SHAPES

    full = SHAPES["llama2-7b"]
    sizes = ("hidden", "intermediate", "heads", "kv_heads", "head_dim")
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        shape = small_llama(
            folder / "model",
            DEMO / "tokenizer",
            vocab=full.vocab,
            layers=LAYERS,
            dtype="bfloat16",
            **{size: getattr(full, size) for size in sizes},
        )
    torch.cuda.empty_cache()
    write_conversations(folder / "agent.jsonl", 4000, seed=1)
    write_conversations(folder / "general.jsonl", 4000, seed=2)
    files = [folder / "agent.jsonl", folder / "general.jsonl"]
    config = write_config(
        folder, files, LENGTH, rows=ROWS, lr=1e-5, model={"dtype": "bfloat16"}, parallel={"recompute": "none"}
    )
    return config, shape


def beside_model(shape: Any, config: Path, measured: float) -> dict[str, Any]:
    """Our step: tokens per second, share of the card's peak, and the cost model's parts."""
    import torch

    from benchmarks.cost import predicted
    from configs.gpus import gpu_named
    from configs.load import load_config

    gpu = gpu_named(torch.cuda.get_device_name())
    if gpu is None:
        raise ValueError(f"{torch.cuda.get_device_name()} is not in configs/gpus.py")
    settings = load_config(str(config))
    return predicted(settings, shape, gpu, measured, (WARM + PAIRS) * ROWS)


def share(found: dict[str, Any]) -> None:
    """What summing gradients in float32 adds to the products that make them, as a share of our step."""
    try:
        told, step = found["accumulation"], found["steps"]["ours"]["measured_seconds"]
        layer = told["summed_in_products_us"] - told["products_us"]
        ends = told["head_summed_us"] - told["head_us"] + told["embedding_us"]
        found["sums_share"] = (LAYERS * layer + ends) * ROWS / 1e6 / step
    except (KeyError, TypeError):
        found["sums_share"] = None


def table(found: dict[str, Any]) -> str:
    """Each goal beside what was measured."""
    lines = [f"{'':58} {'measured':>12} {'goal':>10}"]

    def line(name: str, value: Callable[[], str], goal: str = "") -> None:
        try:
            told = value()
        except (KeyError, TypeError, ZeroDivisionError):
            told = "-"
        lines.append(f"{name:58} {told:>12} {goal:>10}")

    def of(*keys: str) -> Any:
        value = found
        for key in keys:
            value = value[key]
        return value

    line("tests/gpu", lambda: "passed" if of("tests", "passed") else "FAILED", "passed")
    line("product 8192^3, TFLOP/s", lambda: f"{of('ceilings', 'product_flops') / 1e12:.0f}")
    line("copy, TB/s", lambda: f"{of('ceilings', 'copy_bytes_per_second') / 1e12:.2f}")
    line("P10 MFU over the datasheet, no recompute", lambda: f"{of('steps', 'ours', 'mfu'):.1%}", ">= 58%")
    line("    the head counted at targets alone", lambda: f"{of('steps', 'ours', 'mfu_at_targets'):.1%}")
    line(
        "    over the measured product",
        lambda: f"{of('steps', 'ours', 'model_flops_per_second') / of('ceilings', 'product_flops'):.1%}",
    )
    line("    tokens/s", lambda: f"{of('steps', 'ours', 'tokens_per_second'):,.0f}")
    line("    least time of its work, s", lambda: f"{of('steps', 'ours', 'floor_seconds'):.2f}")
    line("    of the cost model's time", lambda: f"{of('steps', 'ours', 'measured_over_predicted'):.2f}")
    for title, goal in zip(PEERS.values(), ("1.8", "1.25", "1.07"), strict=True):
        line(
            f"P11 tokens/s over {title}",
            lambda title=title: f"{1 / of('steps', title, 'ratio_median'):.2f}x",
            f">= {goal}x",
        )
        line(f"    memory over {title}", lambda title=title: f"{of('steps', title, 'memory_ratio'):.2f}")
    line("P12 all 32 layers with AdamW: MFU", lambda: f"{of('whole', 'mfu'):.1%}", ">= 55%")
    line("    peak memory, GB", lambda: f"{of('whole', 'peak_bytes') / 1e9:.1f}")

    line("P13 float32 sums of gradients, share of a step", lambda: f"{of('sums_share'):.1%}", "<= 3%")
    line(
        "    AdamW's bandwidth over a copy's",
        lambda: f"{of('adamw', 'bytes_per_second') / of('ceilings', 'copy_bytes_per_second'):.0%}",
        ">= 85%",
    )
    for shown in ("one sample", "samples"):
        line(
            f"attention, {shown}, TFLOP/s forward",
            lambda shown=shown: f"{of('attention', shown, 'forward_flops') / 1e12:.0f}",
        )
    for kernel in found.get("kernels", {}):
        line(f"{kernel}, us both ways", lambda kernel=kernel: f"{of('kernels', kernel, 'both_us'):.0f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wheels", type=Path, help="a folder of wheels to install from first")
    parser.add_argument("--out", type=Path, default=ROOT / "build/gpu.json", help="default build/gpu.json")
    parser.add_argument("--record", action="store_true", help=f"also to {RECORD.relative_to(ROOT)}")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--only", nargs="*", choices=LIMITS, metavar="PART", help=", ".join(LIMITS))
    options = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        parser.exit(2, "error: torch sees no GPU here; on a CPU there is `make bench`\n")
    if options.wheels:
        wheels = sorted(map(str, options.wheels.glob("*.whl")))
        if not wheels:
            parser.exit(2, f"error: {options.wheels} has no wheels: `make gpu-wheels` fetches them\n")
        install(wheels)
    before = json.loads(options.out.read_text()) if options.only and options.out.is_file() else {}
    lot = Lot(options.minutes, options.out, before)
    peers = ("transformers", "accelerate", "liger-kernel", "deepspeed", "megatron-core")
    lot.found["machine"] = f"{torch.cuda.get_device_name()}, {machine(*peers)}"
    parts = {"steps": steps(PEERS), "tests": tests}
    for name, limit in LIMITS.items():
        if not options.only or name in options.only:
            lot.part(name, parts.get(name) or piece(name), limit)
    share(lot.found)
    lot.write()
    print(f"\n{table(lot.found)}\n\nall of it: {options.out}")
    if options.record:
        shutil.copyfile(options.out, RECORD)


def install(wheels: list[str]) -> None:
    """Into a folder of its own, which this process and all that it starts look into first."""
    site = tempfile.mkdtemp(prefix="site-")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-index",
        "--no-deps",
        "--no-compile",
        "--target",
        site,
    ]
    subprocess.run([*command, *wheels], check=True)
    sys.path.insert(0, site)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [site, os.environ.get("PYTHONPATH")]))


if __name__ == "__main__":
    main()
