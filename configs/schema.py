"""Every setting of a run, its type and its default.

The dataclasses are the schema OmegaConf checks a YAML file and the command-line overrides against.
Nothing of ours is imported here, so a config is checked without torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from omegaconf import MISSING

Schedule = Literal["1f1b", "dualpipev"]


@dataclass(frozen=True)
class RunConfig:
    output_dir: str = "runs/agenttune"
    """Folder for config.yaml, metrics.jsonl and checkpoints/."""
    seed: int = 1234
    hang_seconds: float = 1800.0
    """Where no rank of a machine goes on for so long, the job tells where each stands and ends. More than the longest
    step, and than the ranks of one machine may wait for those of another to write a checkpoint. A start has at least
    1800. A job that is suspended for longer ends when it goes on."""


@dataclass(frozen=True)
class ModelConfig:
    path: str = MISSING
    """Hugging Face folder of a Llama-architecture model, tokenizer included."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Precision of weights and activations; optimizer states and gradient sums are float32 either way."""


@dataclass(frozen=True)
class ParallelConfig:
    tensor: int = 1
    """Ranks that split each layer."""
    pipeline: int = 1
    """Stages the layers are divided into."""
    data: int | str = "auto"
    """Copies of the model; `auto` takes the processes left over by tensor x pipeline."""
    sequence: bool = False
    """Split norms and residual stream along the row between the tensor ranks."""
    schedule: Schedule = "1f1b"
    """The order of a stage's passes: one forward, one backward; or DualPipeV, in which each pipeline rank holds two
    parts of the model and waits less for others, with more micro-batches in memory."""
    recompute: Literal["none", "selective", "full"] = "none"
    """Which activations are computed again in the backward pass instead of being kept."""


@dataclass(frozen=True)
class SourceConfig:
    name: str = MISSING
    path: str = MISSING
    """JSONL, JSON array or Parquet: a file, a glob, a folder, or a data set of the Hugging Face hub, `owner/name` or
    `hf://datasets/owner/name@revision/glob`."""
    role: Literal["agent", "general"] = MISSING
    weight: float = 1.0
    """Share within the role, relative to the role's other sources."""
    format: Literal[
        "auto",
        "agentinstruct",
        "sharegpt",
        "openai",
        "messages",
        "chatglm3",
        "pairs",
        "alpaca",
        "toolbench",
    ] = "auto"
    """How a row is written; `auto` looks at its keys."""


@dataclass(frozen=True)
class DataConfig:
    template: Literal["llama2", "chatglm3", "chatml", "model"] = "llama2"
    """`model` is the model folder's own chat template."""
    system_prompt: str | None = None
    """Given to conversations that bring no system message of their own; none by default."""
    sequence_length: int = 4096
    """Tokens in a packed row."""
    sources: list[SourceConfig] = field(default_factory=list)
    eta: float = 0.2
    """Share of agent data in the mixture."""
    eta_unit: Literal["samples", "targets"] = "samples"
    """What that is a share of: samples drawn, as AgentTuning counted, or the targets in them."""
    on_error: Literal["strict", "skip"] = "strict"
    """What a row does that cannot be read or rendered: stop the run, or be left out, counted and written to
    quarantine.jsonl."""
    max_bad_rows: int = 100
    """Rows that `skip` may leave out; one more stops the run."""
    control_text: Literal["refuse", "neutralise", "allow"] = "refuse"
    """A message that holds the template's own marks where they are ordinary text, as [INST] is: stop at it, write the
    mark apart ([ INST]), or let it stand. Control tokens need no policy: text is never encoded into one."""
    too_long: Literal["truncate", "drop-oldest", "window", "drop"] = "truncate"
    """A sample longer than a row: keep its first turns, or its last, or all in several parts, or leave it out. System
    prompt and tools are kept, and what is lost is counted."""
    pack_window: int = 256
    """Samples looked at when a row is filled; bounds how far packing can reorder."""
    workers: int = 1
    """Processes on each machine that tokenise ahead of training; 0: each rank does it itself, as it goes."""
    cache_dir: str | None = None
    """Where indexes of files and tokenised samples are kept for later starts; none: data_cache in run.output_dir.
    Runs that name the same folder share them."""


@dataclass(frozen=True)
class BatchConfig:
    rows: int = 64
    """Packed rows in a global batch, one optimizer step."""
    micro_rows: int = 1
    """Packed rows in a micro-batch of one data-parallel rank."""


@dataclass(frozen=True)
class TrainConfig:
    steps: int | None = None
    epochs: float | None = None
    """Instead of steps: passes until each source was seen this often at least."""
    layer_norms_every: int | None = None
    """Steps from one look at the norm of each layer's gradient and weights to the next; none: never. A look costs about
    what a step spends on gradients between copies of the model."""


@dataclass(frozen=True)
class OptimizerConfig:
    lr: float = 5e-5
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    """Not applied to norm weights."""
    clip: float = 1.0
    """Largest global gradient norm; 0 never clips."""
    warmup_ratio: float = 0.02
    schedule: Literal["cosine", "constant"] = "cosine"
    min_lr_ratio: float = 0.0
    """What the cosine falls towards, as a share of lr; it would be reached one step after the last."""


@dataclass(frozen=True)
class GuardConfig:
    """Which steps are left out: their loss or gradient norm is no finite number, or a spike beside recent ones."""

    loss: float | None = 10.0
    """Times the median of recent losses that makes a spike; none: no loss is one."""
    gradient: float | None = 100.0
    """Likewise of gradient norms."""
    window: int = 32
    """Recent steps that the medians are of. Before half as many are there nothing is called a spike."""
    patience: int = 10
    """Steps in a row that may be left out; the run ends with the last of them."""


@dataclass(frozen=True)
class CheckpointConfig:
    every: int | None = None
    """Steps between checkpoints; none: only at the end."""
    keep: int | None = None
    """Newest checkpoints kept; none: all. Those written while steps are left out do not count, and only the newest of
    them is kept."""
    background: bool = True
    """Write while training goes on, from a copy in main memory: 12 bytes a parameter over all ranks. The last
    checkpoint of a run, and one before a stop, are written at once and without it."""
    resume: str = "auto"
    """`auto` (the newest checkpoint of this run, else a fresh start), `never` (what is there is put aside), or a
    checkpoint folder: one of this run to go back to, or one of another run to begin with."""


@dataclass(frozen=True)
class HeldOutSource(SourceConfig):
    """As in data.sources; role and weight have no meaning here."""

    role: Literal["agent", "general"] = "agent"


@dataclass(frozen=True)
class EvaluationConfig:
    """What is looked at while training, and never trained on: the loss there, and how many calls come out right."""

    every: int | None = None
    """Optimizer steps from one evaluation to the next; one more comes after the last step. None: never."""
    sources: list[HeldOutSource] = field(default_factory=list)
    """Data to look at; where there are none, `held_out` says which."""
    held_out: float = 0.0
    """Share of each training source's rows that is held out of training and looked at instead, chosen by their place
    in the source. Rows are held out with `every: null` too."""
    rows: int = 64
    """The most packed rows looked at."""


@dataclass(frozen=True)
class WandbConfig:
    mode: Literal["online", "offline", "disabled"] = "online"
    """`online` becomes `offline` where no API key is found."""
    project: str = "agenttune"
    name: str | None = None
    finish_seconds: float = 60.0
    """How long the end of a run waits for wandb to have taken all of it."""


@dataclass(frozen=True)
class LaunchConfig:
    hostfile: str | None = None
    """Hosts to train on, one `name slots=8` a line as DeepSpeed reads it, which ssh reaches without a password; they
    share the folders that the config names. None: the nodes of the Slurm job it is started in, else this machine."""


@dataclass(frozen=True)
class Config:
    run: RunConfig = field(default_factory=RunConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
