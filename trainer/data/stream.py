"""The one endless sequence of packed rows: a pure function of (data, config, seed), the same on every layout.

What is mixed is samples *drawn*, by their number or by their targets. One that the length policy leaves out counts as
drawn. The cursor names the samples that await a row but does not hold them: restoring makes them again, then goes on
exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.schema import DataConfig
from tokenization.errors import DataError
from tokenization.length import Fitted, LengthCounts
from trainer.data.bad_rows import BadRow, bad_row, counted, told
from trainer.data.identity import check_same, identity
from trainer.data.mixture import Parts, next_source, next_source_by_targets, shares
from trainer.data.packing import choose, pack_row
from trainer.data.position import Position
from trainer.data.report import Packed, SourceReport
from trainer.data.rows import PackedRow
from trainer.data.sample_store import SampleStore
from trainer.data.samples import SampleBuilder, Samples
from trainer.data.sources import Source
from trainer.data.state import State, Waiting, chain


class RowStream(Iterator[PackedRow]):
    """Rows of `config.sequence_length` tokens. Raises DataError for a barren source, and for a bad row unless
    `config.on_error` is `skip`.

    sources: opened from config.sources, in the same order; those without a share are never read.
    stores, position, held_out: see `Samples`
    """

    def __init__(
        self,
        sources: Sequence[Source],
        builder: SampleBuilder,
        config: DataConfig,
        seed: int,
        pad_id: int,
        stores: Sequence[SampleStore] = (),
        position: Position | None = None,
        held_out: float = 0.0,
    ) -> None:
        names = [source.name for source in sources]
        if names != [source.name for source in config.sources]:
            raise ValueError(f"sources {names} are not those of the config")
        if len(set(names)) < len(names):
            raise ConfigError(f"data.sources has the names {', '.join(names)}; give each source its own")
        self.samples = Samples(sources, builder, config, seed, stores, position, held_out)
        self.shares = shares([(source.role, source.weight) for source in config.sources], config.eta)
        self._parts = Parts.of(self.shares)
        self._sources = sources
        self._config = config
        self._pad_id = pad_id
        self.identity = identity(config, seed, sources, self.shares, held_out)
        self._state = State.fresh(len(sources))
        self._told: list[BadRow] = []
        self._last: dict[int, tuple[int, Fitted | DataError]] = {}

    def __next__(self) -> PackedRow:
        state = self._state
        while len(state.waiting) < self._config.pack_window:
            self._draw()
        chosen = choose([w.length for w in state.waiting], self._config.sequence_length)
        taken = [state.waiting[i] for i in chosen]
        gone = set(chosen)
        state.waiting = [w for i, w in enumerate(state.waiting) if i not in gone]
        row = pack_row(
            [w.sample for w in taken],
            [w.source for w in taken],
            index=state.row,
            length=self._config.sequence_length,
            pad_id=self._pad_id,
        )
        for w in taken:
            state.packed[w.source] += Packed(1, w.length, w.targets)
            state.hash = chain(state.hash, w.sample)
        state.row += 1
        return row

    def _draw(self) -> None:
        state, config = self._state, self._config
        if config.eta_unit == "targets":
            i = next_source_by_targets(self._parts, state.targets, self._offered())
        else:
            i = next_source(self._parts, state.draws)
        k = state.draws[i]
        fitted = self._made(i, k)
        if isinstance(fitted, DataError):
            if config.on_error == "strict" or fitted.where is None:
                raise fitted
            self._leave_out(i, k, fitted)
            fitted = Fitted((), LengthCounts())
        state.draws[i] += 1
        self.samples.tell(i, state.draws[i])
        state.counts[i] += fitted.counts
        waiting = [Waiting.of(i, k, part, sample) for part, sample in enumerate(fitted.samples)]
        state.targets[i] += sum(w.targets for w in waiting)
        state.waiting += waiting
        counts = state.counts[i]
        if (
            not fitted.samples
            and state.draws[i] == self.samples.rows(i)
            and not counts.kept + counts.truncated
        ):
            raise DataError(
                f"source {self._sources[i].name!r}: none of its {state.draws[i]} rows can be trained on: "
                f"{counts.no_targets} have no target, {counts.dropped_long} do not fit into data.sequence_length "
                f"{config.sequence_length}, {state.skipped[i]} are bad; mend it or raise the length"
            )

    def _offered(self) -> list[int]:
        """Targets that the next draw of each source would bring; 0 from a row with a fault, which so comes up soon."""
        next_draws = enumerate(zip(self._state.draws, self.shares, strict=True))
        made = [self._made(i, k) if share else None for i, (k, share) in next_draws]
        return [_targets(fitted) if isinstance(fitted, Fitted) else 0 for fitted in made]

    def _made(self, i: int, k: int) -> Fitted | DataError:
        """What draw `k` of source `i` gives; a source's last is kept, since by targets it is looked at before."""
        if self._last.get(i, (-1, None))[0] != k:
            try:
                self._last[i] = k, self.samples.draw(i, k, wait=True)
            except DataError as error:
                self._last[i] = k, error
        return self._last[i][1]

    def _leave_out(self, i: int, k: int, error: DataError) -> None:
        state, limit = self._state, self._config.max_bad_rows
        state.skipped[i] += 1
        if k >= self.samples.rows(i):
            return  # told in the first pass
        row = bad_row(self._sources[i].name, error)
        state.bad[i] = counted(state.bad[i], row.reason)
        self._told.append(row)
        if state.bad_rows() > limit:
            raise DataError(
                f"{state.bad_rows()} bad rows, data.max_bad_rows={limit} allows no more; the last is {error}. Source "
                f"{row.source!r} has {told(state.bad[i])}: mend the data (agenttune lint names all), or raise the limit"
            )

    def take_bad_rows(self) -> tuple[BadRow, ...]:
        """The rows left out since this was last asked, in the order they were drawn; of the first pass alone."""
        taken, self._told = tuple(self._told), []
        return taken

    def state(self) -> State:
        """Where the stream stands now, kept apart from where it will go."""
        return self._state.copy()

    def cursor(self, state: State | None = None) -> dict[str, Any]:
        """Where the stream stands, or stood, as JSON of a few kilobytes."""
        return {"identity": self.identity, **(state or self._state).to_json()}

    def check_cursor(self, cursor: Mapping[str, Any], checkpoint: Path | None = None) -> None:
        """Raises ConfigError or DataError where settings or files are not those that `cursor` was taken with.

        checkpoint: the folder it was read from, for the remedy
        """
        check_same(cursor["identity"], self.identity, self._sources, checkpoint)

    def restore(self, cursor: Mapping[str, Any], checkpoint: Path | None = None) -> None:
        """Goes on where `cursor` was taken; `checkpoint` as in `check_cursor`.

        Raises ConfigError where a setting that the rows follow from is not that of the cursor, DataError where a file
        or the tokens of a waiting sample are not.
        """
        self.check_cursor(cursor, checkpoint)
        self._state = State.from_json(cursor, lambda i, k: self.samples.draw(i, k).samples)
        self._told = []
        for i, draws in enumerate(self._state.draws):
            self.samples.tell(i, draws)

    def settled(self, i: int) -> int:
        """Leading draws of source `i` that are behind the stream: in a row, or left out."""
        return min((w.k for w in self._state.waiting if w.source == i), default=self._state.draws[i])

    def seen(self, epochs: float) -> float:
        """Which part of `epochs` passes is behind the source that has the least of them, 0 to 1."""
        needed = [math.ceil(epochs * self.samples.rows(i)) for i in range(len(self._sources))]
        return min(
            (min(self.settled(i) / needed[i], 1.0) for i, share in enumerate(self.shares) if share),
            default=1.0,
        )

    def report(self, state: State | None = None) -> list[SourceReport]:
        """What each source has given so far, or had given."""
        state = state or self._state
        tokens = state.row * self._config.sequence_length
        waiting = [len({w.k for w in state.waiting if w.source == i}) for i in range(len(self._sources))]
        return [
            SourceReport(
                name=source.name,
                share=float(self.shares[i]),
                drawn=state.draws[i],
                epochs=(state.draws[i] - waiting[i]) / self.samples.rows(i),
                targets=state.targets[i],
                packed=state.packed[i],
                fill=state.packed[i].tokens / max(tokens, 1),
                counts=state.counts[i],
                bad=state.bad[i],
            )
            for i, source in enumerate(self._sources)
        ]


def _targets(fitted: Fitted) -> int:
    return sum(sample.targets for sample in fitted.samples)
