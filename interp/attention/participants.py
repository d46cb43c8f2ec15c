"""Readers and editors: everything that takes part in attention through the one hook.

A participant says beforehand which layers, query rows and phase it needs; everything else stays on the fused kernel.
Which methods a subclass overrides decides what is computed for it: rows only for those who read or edit rows, the
residual stream only for those who set `wants_residual`.

    Reader   read_rows   every block of rows, as the model uses it (after all edits)
             read_call   the whole call with q, k, v and the head outputs z
    Editor   observe_rows   a first sweep over all rows, for edits that need column sums before the first row changes
             edit_rows   returns another pattern for a block (any row sums it likes)
             edit_z      returns other head outputs for the call
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.attention.rows import AttentionRows, LayerCall, Stream

Phase = Literal["both", "prefill", "decode"]


class Participant:
    """What readers and editors have in common: their selection and the start of a forward pass.

    Attributes:
        layers: zero-based layers to take part in; None for all.
        kinds: kinds of attention to take part in (``"self"``, ``"encoder"``, ``"cross"``, ``"vision"``).
        queries: absolute query positions, negative ones counted from the end of the call; None for all rows.
        phase: prefill calls, decode calls, or both.
        wants_residual: fill `LayerCall.residual`.
    """

    layers: frozenset[int] | None = None
    kinds: frozenset[str] = frozenset({"self"})
    queries: Int[Tensor, " position"] | None = None
    phase: Phase = "both"
    wants_residual: bool = False
    row_methods: ClassVar[tuple[str, ...]] = ()
    call_methods: ClassVar[tuple[str, ...]] = ()

    def begin(self, stream: Stream) -> None:
        """Called before every forward pass with the tokens of the main stream; ``stream.past == 0`` starts anew.

        `generate` runs a vision tower or an encoder ahead of the first pass, so their attention comes before this.
        """

    def selects(self, layer: int, kind: str, decoding: bool) -> bool:
        """Whether this participant takes part in a call."""
        if kind not in self.kinds or (self.layers is not None and layer not in self.layers):
            return False
        return self.phase == "both" or (self.phase == "decode") == decoding

    def overrides(self, methods: tuple[str, ...]) -> bool:
        """Whether the class defines one of these methods itself."""
        base = Editor if isinstance(self, Editor) else Reader
        return any(getattr(type(self), name) is not getattr(base, name) for name in methods)

    def query_indices(self, positions: Int[Tensor, " query"], end: int) -> Int[Tensor, " selected"] | None:
        """Indices into `positions` of the rows wanted, ascending; None for all. `end` is one past the last position."""
        if self.queries is None:
            return None
        wanted = self.queries.to(positions.device)
        wanted = torch.where(wanted < 0, wanted + end, wanted)
        return torch.isin(positions, wanted).nonzero().squeeze(-1)


class Reader(Participant):
    """Receives attention and accumulates; never changes it."""

    row_methods = ("read_rows",)
    call_methods = ("read_call",)

    def read_rows(self, rows: AttentionRows) -> None:
        """One block of rows, after every edit."""

    def read_call(self, call: LayerCall) -> None:
        """One whole call, after every edit."""


class Editor(Participant):
    """Changes attention. The identity setting of an editor must leave every number bitwise unchanged."""

    row_methods = ("observe_rows", "edit_rows")
    call_methods = ("edit_z",)

    def observe_rows(self, rows: AttentionRows) -> None:
        """First sweep: one block of unedited rows of a call that `edit_rows` will see again afterwards."""

    def edit_rows(self, rows: AttentionRows) -> Float[Tensor, "batch head query key"] | None:
        """Another pattern for this block, or None to leave it. Do not write into ``rows.pattern``."""
        return None

    def edit_z(self, call: LayerCall) -> Float[Tensor, "batch query head d_value"] | None:
        """Other head outputs for this call, or None to leave them. Do not write into ``call.z``."""
        return None
