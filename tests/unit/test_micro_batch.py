from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.loss.loss_utils import ForCausalLMLoss

from configs.errors import ConfigError
from tokenization.sample import TokenizedSample
from trainer.data.micro_batch import GlobalBatch, global_batches, to_micro_batch
from trainer.data.packing import pack_row
from trainer.data.rows import IGNORED, PackedRow

LENGTH, VOCABULARY = 12, 50


def random_row(index: int, random: np.random.Generator) -> PackedRow:
    samples: list[TokenizedSample] = []
    while len(samples) < 3 and sum(map(len, samples)) < LENGTH:
        n = int(random.integers(1, LENGTH - sum(map(len, samples)) + 1))
        trained = random.random(n) < 0.5
        trained[0] = False
        tokens = random.integers(4, VOCABULARY, n).astype(np.int32)
        samples.append(
            TokenizedSample(
                f"s{len(samples)}", str(index), tokens, trained, random.integers(0, 9, n, np.uint8)
            )
        )
    sources = [int(sample.source[1:]) for sample in samples]
    return pack_row(samples, sources, index=index, length=LENGTH, pad_id=3)


def random_rows(count: int, seed: int) -> list[PackedRow]:
    random = np.random.default_rng(seed)
    return [random_row(index, random) for index in range(count)]


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 4))
def test_labels_are_shifted_as_transformers_shifts_them(seed: int, count: int):
    rows = random_rows(count, seed)
    batch = to_micro_batch(rows)
    logits = torch.randn(count, LENGTH, VOCABULARY, generator=torch.Generator().manual_seed(seed))
    theirs = ForCausalLMLoss(
        logits,
        torch.from_numpy(np.stack([row.labels for row in rows]).astype(np.int64)),
        vocab_size=VOCABULARY,
        num_items_in_batch=torch.tensor(1),  # a sum
    )
    ours = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    torch.testing.assert_close(ours, theirs)


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 4))
def test_each_place_holds_the_label_and_group_of_the_next(seed: int, count: int):
    rows = random_rows(count, seed)
    batch = to_micro_batch(rows)
    for tensor in (batch.tokens, batch.labels, batch.positions, batch.groups):
        assert tensor.dtype == torch.int64
        assert tensor.shape == (count, LENGTH)
        assert tensor.is_contiguous()
    for b, row in enumerate(rows):
        for t in range(LENGTH):
            assert batch.tokens[b, t] == row.tokens[t]
            assert batch.positions[b, t] == row.positions[t]
            last = t == LENGTH - 1
            assert batch.labels[b, t] == (IGNORED if last else row.labels[t + 1])
            group = 0 if last else 9 * row.sources[t + 1] + row.kinds[t + 1]  # nine kinds of spans
            assert batch.groups[b, t] == group


def test_a_batch_written_out_by_hand():
    sample = TokenizedSample(
        "s", "0", np.array([5, 6, 7], np.int32), np.array([False, True, True]), np.array([2, 4, 8], np.uint8)
    )
    batch = to_micro_batch([pack_row([sample, sample], [1, 2], index=0, length=8, pad_id=3)])
    no = IGNORED
    assert batch.tokens.tolist() == [[5, 6, 7, 5, 6, 7, 3, 3]]
    assert batch.labels.tolist() == [[6, 7, no, 6, 7, no, no, no]]
    assert batch.positions.tolist() == [[0, 1, 2, 0, 1, 2, 0, 1]]
    assert batch.groups.tolist() == [[13, 17, 20, 22, 26, 0, 0, 0]]  # 9 x source + kind


@pytest.mark.parametrize("at", [0, 3])
def test_a_target_that_nothing_of_its_sample_predicts_is_refused(at: int):
    samples = [
        TokenizedSample(
            "s", "0", np.full(3, 7, np.int32), np.arange(start, start + 3) == at, np.zeros(3, np.uint8)
        )
        for start in (0, 3)
    ]
    row = pack_row(samples, [0, 0], index=17, length=8, pad_id=3)
    with pytest.raises(ValueError, match="row 17: the first token of a sample is a target"):
        to_micro_batch([row])


@pytest.mark.parametrize("data_size", [1, 2, 4])
@pytest.mark.parametrize("micro_rows", [1, 2])
def test_every_layout_trains_the_same_rows_once(data_size: int, micro_rows: int):
    rows = random_rows(16, 3)
    batch = GlobalBatch(tuple(rows))
    seen: list[list[int]] = []
    for rank in range(data_size):
        micro_batches = batch.micro_batches(rank, data_size, micro_rows)
        assert len(micro_batches) == 16 // data_size // micro_rows
        assert all(micro.tokens.shape == (micro_rows, LENGTH) for micro in micro_batches)
        seen += [row.tolist() for micro in micro_batches for row in micro.tokens]
    assert sorted(seen) == sorted(row.tokens.tolist() for row in rows)


def test_rows_are_dealt_out_in_turns():
    batch = GlobalBatch(tuple(random_rows(12, 5)))
    dealt = [batch.micro_batches(rank, 3, 2) for rank in range(3)]
    expected = [[(0, 1), (6, 7)], [(2, 3), (8, 9)], [(4, 5), (10, 11)]]
    for rank in range(3):
        for micro, (a, b) in zip(dealt[rank], expected[rank], strict=True):
            assert micro.tokens.tolist() == [batch.rows[a].tokens.tolist(), batch.rows[b].tokens.tolist()]


def test_rows_that_do_not_divide_are_refused():
    with pytest.raises(ConfigError, match=r"batch.rows is 6.*size 2 x batch.micro_rows 2.*multiple of 4"):
        GlobalBatch(tuple(random_rows(6, 1))).micro_batches(0, 2, 2)


@given(seed=st.integers(0, 10_000), count=st.integers(1, 6))
def test_a_global_batch_counts_what_its_micro_batches_hold(seed: int, count: int):
    batch = GlobalBatch(tuple(random_rows(count, seed)))
    micro = to_micro_batch(batch.rows)
    trained = micro.labels != IGNORED
    assert batch.targets == int(trained.sum())
    assert batch.targets_by_source == {
        source: n for source in range(3) if (n := int((trained & (micro.groups // 9 == source)).sum()))
    }
    assert batch.targets_by_group == {
        group: n for group in range(27) if (n := int((trained & (micro.groups == group)).sum()))
    }
    assert batch.tokens == int((micro.tokens != 3).sum())
    assert batch.fill == batch.tokens / (count * LENGTH)


def test_global_batches_read_no_further_than_they_must():
    read: list[int] = []

    def stream() -> Iterator[PackedRow]:
        for row in random_rows(40, 2):
            read.append(row.index)
            yield row

    batches = global_batches(stream(), 4)
    assert [[row.index for row in next(batches).rows] for _ in range(3)] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 10, 11],
    ]
    assert read == list(range(12))
