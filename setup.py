"""The distribution `agenttune`: ranges of what it works with; constraints.txt has the versions tested."""

from setuptools import setup

setup(
    name="agenttune",
    version="0.1.0",
    description="Fine-tunes Llama 2 chat models into agents that call functions",
    python_requires=">=3.11",
    # Listed, not found: a folder such as tests/ or docs/ must never become importable.
    packages=[
        "configs",
        "tokenization",
        "tokenization.formats",
        "tokenization.grammar",
        "tokenization.lint",
        "tokenization.templates",
        "trainer",
        "trainer.data",
        "trainer.parallel",
        "trainer.model",
        "trainer.checkpoint",
        "trainer.plan",
        "trainer.verify",
        "launch",
    ],
    package_data={
        "configs": ["*.yaml", "demo/**/*"],
        "tokenization.templates": ["*.jinja"],
        "launch": ["*.jinja"],
    },
    install_requires=[
        "torch>=2.11",
        "deepspeed>=0.19.8,<0.20",
        "megatron-core>=0.16.1,<0.17",
        "transformers>=5",
        "safetensors>=0.5",
        "tokenizers>=0.22",
        "sentencepiece>=0.2",  # with protobuf: transformers reads tokenizer.model through them
        "protobuf>=4",
        "huggingface_hub>=1",
        "omegaconf>=2.4",
        "psutil>=5.9",
        "pyyaml>=6",
        "wandb>=0.31",
        "numpy>=2",
        "pyarrow>=17",
        "tqdm>=4.66",
        "jsonschema>=4.23",
        "xxhash>=3",
        "matplotlib>=3.9",  # curves of `agenttune report`
        "jinja2>=3.1",
    ],
    extras_require={
        "dev": ["pytest>=8", "pytest-xdist>=3.6", "hypothesis>=6.100", "ruff>=0.9", "basedpyright>=1.29"],
        "bench": ["trl>=1.16", "datasets>=4", "accelerate>=1"],  # what benchmarks measure against
    },
    entry_points={"console_scripts": ["agenttune = launch.cli:main"]},
)
