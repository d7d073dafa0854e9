"""The sizes of a Llama: read from a Hugging Face folder's config.json, or one of the shapes known by name.

Nothing but JSON is read, so a config is checked against its model without torch or transformers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, Self

from configs.errors import ConfigError

ROPE_TYPES = ("default", "linear", "llama3")
"""Rotary embeddings whose frequencies are fixed by the config alone."""

# config.json key -> (values that can be trained, value of an absent key)
_TRAINABLE: dict[str, tuple[tuple[Any, ...], Any]] = {
    "model_type": (("llama",), None),
    "hidden_act": (("silu",), "silu"),
    "attention_bias": ((False,), False),
    "mlp_bias": ((False,), False),
    "quantization_config": ((None,), None),
}


@dataclass(frozen=True)
class ModelShape:
    """Counts, not bytes. `rope` is transformers' `rope_parameters`: rope_type, rope_theta and their like."""

    vocab: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    max_positions: int
    norm_eps: float = 1e-5
    tied: bool = False
    """The head is the embedding."""
    rope: Mapping[str, Any] = field(default_factory=lambda: {"rope_type": "default", "rope_theta": 10000.0})

    @classmethod
    def from_folder(cls, path: str | Path) -> Self:
        """The shape in `path`/config.json. Raises ConfigError where it is absent or cannot be trained."""
        file = Path(path) / "config.json"
        if not Path(path).is_dir():
            raise ConfigError(
                f"{path}: no such model folder; model.path is a Hugging Face folder with a config.json"
            )
        if not file.is_file():
            raise ConfigError(f"{path}: no config.json in it; model.path is a Hugging Face folder")
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"{file}: no JSON ({error}); fetch the model again") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{file}: no JSON object; fetch the model again")
        return cls._from_config(values, file)

    @classmethod
    def _from_config(cls, values: dict[str, Any], file: Path) -> Self:
        for key, (trainable, absent) in _TRAINABLE.items():
            value = values.get(key, absent)
            if value not in trainable:
                raise ConfigError(
                    f"{file}: {key}={json.dumps(value)}, can train {key}={json.dumps(trainable[0])} only; "
                    "choose a Llama-architecture model, unquantised and without biases"
                )
        heads = _count(values, "num_attention_heads", file)
        hidden = _count(values, "hidden_size", file)
        kv_heads = _count(values, "num_key_value_heads", file, absent=heads)
        if heads % kv_heads:
            raise ConfigError(
                f"{file}: {kv_heads} key-value heads do not divide {heads} heads; mend config.json"
            )
        return cls(
            vocab=_count(values, "vocab_size", file),
            hidden=hidden,
            intermediate=_count(values, "intermediate_size", file),
            layers=_count(values, "num_hidden_layers", file),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=_count(values, "head_dim", file, absent=hidden // heads),
            max_positions=_count(values, "max_position_embeddings", file, absent=2048),
            norm_eps=float(values.get("rms_norm_eps", 1e-6)),
            tied=bool(values.get("tie_word_embeddings", False)),
            rope=_rope(values, file),
        )

    def hf_config(
        self, *, bos: int | None = 1, eos: int | None = 2, pad: int | None = None, dtype: str = "bfloat16"
    ) -> dict[str, Any]:
        """What transformers 5 writes to config.json for a LlamaForCausalLM of this shape."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": bos,
            "dtype": dtype,
            "eos_token_id": eos,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": self.max_positions,
            "mlp_bias": False,
            "model_type": "llama",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "pad_token_id": pad,
            "pretraining_tp": 1,
            "rms_norm_eps": self.norm_eps,
            "rope_parameters": dict(self.rope),
            "tie_word_embeddings": self.tied,
            "use_cache": True,
            "vocab_size": self.vocab,
        }

    def layer_tensors(self) -> dict[str, tuple[int, ...]]:
        """Names within a decoder layer (`model.layers.0.NAME`) and their shapes, [out, in] or [hidden]."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "input_layernorm.weight": (self.hidden,),
            "self_attn.q_proj.weight": (queries, self.hidden),
            "self_attn.k_proj.weight": (keys, self.hidden),
            "self_attn.v_proj.weight": (keys, self.hidden),
            "self_attn.o_proj.weight": (self.hidden, queries),
            "post_attention_layernorm.weight": (self.hidden,),
            "mlp.gate_proj.weight": (self.intermediate, self.hidden),
            "mlp.up_proj.weight": (self.intermediate, self.hidden),
            "mlp.down_proj.weight": (self.hidden, self.intermediate),
        }

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor a Hugging Face folder of this shape holds, in the order of the forward pass."""
        layer = self.layer_tensors()
        embedding = (self.vocab, self.hidden)
        return {
            "model.embed_tokens.weight": embedding,
            **{
                f"model.layers.{i}.{name}": shape for i in range(self.layers) for name, shape in layer.items()
            },
            "model.norm.weight": (self.hidden,),
            **({} if self.tied else {"lm_head.weight": embedding}),
        }

    def layer_parameters(self) -> int:
        """Parameters of one decoder layer."""
        return sum(map(prod, self.layer_tensors().values()))

    def parameters(self) -> int:
        """Parameters of the whole model; a tied embedding counts once."""
        return sum(map(prod, self.tensors().values()))


def _count(values: dict[str, Any], key: str, file: Path, absent: int | None = None) -> int:
    value = values.get(key)
    if value is None:
        value = absent
    if type(value) is not int or value < 1:
        raise ConfigError(
            f"{file}: {key}={json.dumps(value)}, must be a whole number from 1 on; mend config.json"
        )
    return value


def _rope(values: dict[str, Any], file: Path) -> dict[str, Any]:
    """`rope_parameters` as they are, or made of the older `rope_theta` and `rope_scaling`, which transformers prefers
    where somebody has added it."""
    given = values.get("rope_scaling") or values.get("rope_parameters") or {}
    rope = {key: value for key, value in given.items() if key != "type"}
    rope.setdefault("rope_type", given.get("type", "default"))
    rope.setdefault("rope_theta", values.get("rope_theta", 10000.0))
    if rope["rope_type"] not in ROPE_TYPES:
        raise ConfigError(
            f"{file}: rope_type={rope['rope_type']}, can train {', '.join(ROPE_TYPES)} only; "
            "choose another model"
        )
    if rope.get("partial_rotary_factor", values.get("partial_rotary_factor", 1.0)) not in (None, 1.0):
        raise ConfigError(
            f"{file}: partial_rotary_factor is not 1, the only one trained; choose another model"
        )
    return rope


def _llama2(hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int) -> ModelShape:
    return ModelShape(
        32000, hidden, intermediate, layers, heads, kv_heads, hidden // heads, max_positions=4096
    )


SHAPES = {
    "tiny": _llama2(128, 352, 4, 8, 4),
    "llama2-7b": _llama2(4096, 11008, 32, 32, 32),
    "llama2-13b": _llama2(5120, 13824, 40, 40, 40),
    "llama2-70b": _llama2(8192, 28672, 80, 64, 8),
}
"""Shapes by name. A model made from `tiny` takes its vocabulary from its tokenizer."""
