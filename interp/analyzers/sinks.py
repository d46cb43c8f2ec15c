"""Attention sinks: tokens that collect attention whatever the text says, and the heads that look at them.

Vocabulary:
    alpha      mean attention that a key receives from the queries that see it (`interp.analyzers.received`)
    sink       a key with ``alpha > epsilon`` in a head
    sink rate  share of heads for which a key is a sink: Sink_k of Gu et al., there in percent
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.analyzers.analyzer import TEXT, Analyzer, AnalyzerReader, HeadMeanReader, Shape
from interp.analyzers.received import ColumnSums, Received, ReceivedReader, grown
from interp.analyzers.written_norms import no_op, triangles, written_norms
from interp.attention.rows import AttentionRows, LayerCall, Stream
from interp.errors import InputError
from interp.provenance import Provenance
from interp.results import HeadScores, TokenMap

SHORT_TEXT = 32


@dataclass(frozen=True, kw_only=True)
class Sinks(Analyzer):
    """Attention sinks by head: how much of its attention goes to the first token, and what that attention writes.

    *Score*: ``alpha[k] = 1 / (queries that see k) * sum_q A[q, k]`` for k = `key`, mean over texts; in [0, 1].
    *Chance*: the alpha of uniform attention over the visible keys, which for causal attention over T tokens is
    ``H_T / T`` at the first token (H_T the harmonic number): 0.074 for T = 64, but above 0.3 for T < 10. Results on
    texts of fewer than 32 tokens carry a warning.

    *Columns*, each the mean over texts:
        sink rate: share of texts with ``alpha[key] > epsilon``.
        sink mass: mean over queries of the attention to all sinks of the head, the first token or not; in [0, 1].
        later sinks: number of sinks behind the first token as ACT defines them, ``alpha > later_factor / T``.
        key norm: mean ``||k||`` at the head's sinks over that at its other keys (1: alike; NaN: no sinks). Query
            heads that share a KV head share its norms.
        value norm: the same of ``||v W_O||``, what the value writes into the residual stream.
        output norm: mean over queries of ``||z W_O||``, over the mean of that in the layer's heads.
        no-op: ``sink mass * (1 - mean_q ||z W_O|| / mean_{k no sink} ||v_k W_O||)``, clipped at 0; in [0, 1]. Near 1:
            the head looks at sinks and writes nothing.
        learned sink: mean mass on a learned sink logit, only where a model has one (GPT-OSS).
        What is written stops at W_O: its bias belongs to no head, and a norm or factor behind it (Gemma 2, Granite)
        takes no part. Layers whose heads' outputs go through no single matrix at hand (after a gate or a norm, or
        quantised) have ``||z||`` and ``||v||`` instead; a warning names them.

    *Notes*: the sink rate of the model and of each layer, what uniform attention would have given, and the layers whose
    norms are taken before W_O.

    Arguments:
        epsilon: threshold of a sink, exceeded strictly.
        key: position of the key that is scored, counted from the first real token. Texts without it are left out.
        later_factor: c of ACT's threshold c / T; its authors try 3, 5 and 7.
        min_queries: keys seen by fewer queries are no sinks (or than by any key's number, where all are fewer): their
            alpha is noise. A later sink must also be seen by T / c queries; with fewer, one query makes a sink.

    *Source*: Gu et al. 2024, arXiv 2410.10781 (alpha, Sink_k, norms); Yu et al. 2024, arXiv 2406.15765 (ACT, later
    sinks); no-op after Bondarenko et al. 2023, arXiv 2306.12929, who give the argument and no formula.
    *Differences*: Gu et al. cut every text to 64 tokens, and their code divides by T - k in sliding-window layers too.
    ACT's released code uses the threshold 0.1 at all lengths and spares the first key that passes instead of the first
    token. Padding takes no part.
    """

    name: ClassVar[str] = "sinks"
    epsilon: float = 0.3
    key: int = 0
    later_factor: float = 5.0
    min_queries: int = 16

    def __post_init__(self) -> None:
        check_epsilon(self.epsilon)
        if self.key < 0 or self.later_factor <= 0 or self.min_queries < 1:
            raise InputError(
                f"key={self.key}, later_factor={self.later_factor}, min_queries={self.min_queries}: expected a "
                "position from 0, a positive factor and at least one query."
            )

    def reader(self, shape: Shape) -> AnalyzerReader:
        return _Sinks(shape, self)


@dataclass(frozen=True, kw_only=True)
class SinkTokens(Analyzer):
    """The tokens of one text that are sinks, and in how many heads of each layer.

    *Formula*: ``Sink_k = share of the layer's heads with alpha[k] > epsilon``, ``[layer, key]``; the mean over layers
    is the model's sink rate at k. *Range* [0, 1]. *Chance*: 0 where uniform attention stays below epsilon, as it does
    at every token behind the first one, and at the first one from 10 tokens on.
    NaN where fewer than `min_queries` queries see the key (unless no key is seen by so many).
    *Notes*: the kind of every token, as `token_kind` names it.
    *Source*: Gu et al. 2024, arXiv 2410.10781, there averaged over texts; here the position is a token of one text.
    """

    name: ClassVar[str] = "sink-tokens"
    reads: ClassVar[frozenset[str]] = TEXT
    least: ClassVar[Mapping[str, float]] = {"min_queries": 1}
    epsilon: float = 0.3
    min_queries: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        check_epsilon(self.epsilon)

    def reader(self, shape: Shape) -> AnalyzerReader:
        return _SinkTokens(shape, self)


def check_epsilon(epsilon: float) -> None:
    """Refuse a threshold that every key or no key would pass."""
    if not 0 < epsilon < 1:
        raise InputError(f"epsilon={epsilon}: expected a share of attention between 0 and 1, such as 0.3.")


def sink_keys(
    alpha: Float[Tensor, "batch head key"],
    seen_by: Float[Tensor, "batch key"],
    *,
    threshold: float | Float[Tensor, " batch"],
    min_queries: int | Float[Tensor, " batch"] = 1,
) -> Bool[Tensor, "batch head key"]:
    """The keys whose alpha exceeds a threshold and that enough queries see.

    Where no key is seen by `min_queries` queries (short texts, narrow windows), those seen by the most stand in.

    Example:
        >>> alpha, seen_by = torch.tensor([[[0.625, 0.25, 1.0]]]), torch.tensor([[3.0, 2.0, 1.0]])
        >>> sink_keys(alpha, seen_by, threshold=0.3, min_queries=2).tolist()
        [[[True, False, False]]]
    """
    required = torch.as_tensor(min_queries, device=seen_by.device).minimum(seen_by.amax(-1))
    threshold = torch.as_tensor(threshold, device=alpha.device, dtype=alpha.dtype).expand(alpha.shape[0])
    return (alpha > threshold[:, None, None]) & (seen_by >= required[:, None])[:, None]


def masked_mean(
    values: Float[Tensor, "batch head key"], mask: Bool[Tensor, "batch head key"]
) -> Float[Tensor, "batch head"]:
    """Mean over the keys where `mask` is True; NaN where it nowhere is."""
    return (values * mask).sum(-1) / mask.sum(-1)


def token_kind(text: str, special: Collection[str] = ()) -> str:
    """Whether a token is ``"special"`` (BOS and its kin), ``"newline"``, ``"space"``, ``"punctuation"`` or ``"word"``.

    Example:
        >>> [token_kind(text, {"<s>"}) for text in ("<s>", " .", "\\n", " Mary", "  ", "2")]
        ['special', 'punctuation', 'newline', 'word', 'space', 'word']
    """
    inner = text.strip()
    if inner in special:
        return "special"
    if not inner:
        return "newline" if "\n" in text else "space"
    return "punctuation" if all(unicodedata.category(sign)[0] in "PS" for sign in inner) else "word"


def sink_table(sinks: TokenMap) -> pd.DataFrame:
    """The sinks among the tokens of a result of `SinkTokens`, highest rate first.

    Returns:
        One row per token that is a sink in at least one head: key, token, kind, rate (share of the model's heads), and
        the layers in which it is one, as a tuple.
    """
    rates = sinks.values.nanmean(0)
    found = [key for key in range(len(sinks.tokens)) if float(rates[key]) > 0]
    found.sort(key=lambda key: -float(rates[key]))
    records: list[dict[str, Any]] = [
        {
            "key": key,
            "token": sinks.tokens[key],
            "kind": sinks.notes["kinds"][key],
            "rate": float(rates[key]),
            "layers": tuple((sinks.values[:, key] > 0).nonzero().flatten().tolist()),
        }
        for key in found
    ]
    return pd.DataFrame(records, columns=["key", "token", "kind", "rate", "layers"])


class _Sinks(HeadMeanReader):
    """Keeps column sums and norms of the texts under way, and of finished ones a few numbers per head."""

    def __init__(self, shape: Shape, parameters: Sinks) -> None:
        super().__init__(shape, name=parameters.name, unit="mean attention received", value_range=(0.0, 1.0))
        self.parameters = parameters
        self.roots: dict[int, Float[Tensor, "head rank d_value"] | None] = {}
        self._finished: list[dict[str, Float[Tensor, "example layer head"]]] = []
        self.learned_sink = False
        self._start()

    def begin(self, stream: Stream) -> None:
        if stream.past == 0:
            self._finish()
        super().begin(stream)

    def read_rows(self, rows: AttentionRows) -> None:
        self.sums.add(rows)
        self.learned_sink |= rows.sink_logit

    def read_call(self, call: LayerCall) -> None:
        n_heads, layer = call.query.shape[1], call.layer
        if layer not in self.roots:
            self.roots[layer] = None if call.output_weights is None else triangles(call.output_weights)
        roots = self.roots[layer]
        group = n_heads // call.key.shape[1]
        found = {
            "key": call.key.float().norm(dim=-1).repeat_interleave(group, 1),
            "value": written_norms(call.value, roots, n_heads),
        }
        for name, norms in found.items():
            # Later calls of cached decoding bring the same keys again.
            shape = (*norms.shape[:2], int(call.keys[-1]) + 1)
            grown(self.norms[name], layer, shape, norms)[..., call.keys] = norms.double()
        written = written_norms(call.z.transpose(1, 2), roots, n_heads).double()
        if call.query_valid is not None:
            written = written * call.query_valid[:, None]
        self.written[layer] = self.written.get(layer, 0) + written.sum(-1)

    def result(self, provenance: Provenance, tokens: list[str]) -> HeadScores:
        self._finish()
        examples = {name: torch.cat([batch[name] for batch in self._finished]) for name in self._finished[0]}
        lengths = examples.pop("length").nan_to_num().amax((1, 2))
        columns = {name: values.nanmean(0) for name, values in examples.items()}
        chance, uniform_rate, uniform_later = (
            columns.pop(name) for name in ("uniform alpha", "uniform sink rate", "uniform later sinks")
        )
        if not self.learned_sink:
            del columns["learned sink"]
        before = [layer for layer, roots in sorted(self.roots.items()) if roots is None]
        scores = super().result(_with_norm_warning(_with_length_warning(provenance, lengths), before), tokens)
        notes = {
            **scores.notes,
            "epsilon": self.parameters.epsilon,
            "key": self.parameters.key,
            "sink rate": float(columns["sink rate"].nanmean()),
            "layer sink rates": columns["sink rate"].nanmean(-1).tolist(),
            "uniform attention": {
                "sink rate": float(uniform_rate.nanmean()),
                "later sinks": float(uniform_later.nanmean()),
            },
            "norms before W_O": before,
        }
        return replace(scores, columns=columns, chance=chance, notes=notes)

    def _start(self) -> None:
        self.sums = ColumnSums()
        self.norms: dict[str, dict[int, Float[Tensor, "batch head key"]]] = {"key": {}, "value": {}}
        self.written: dict[int, Any] = {}

    def _finish(self) -> None:
        """Turn the sums of the texts under way into numbers per head."""
        measured = {layer: self._measure(layer) for layer in self.sums.layers}
        self._start()
        if not measured:
            return
        first = next(iter(measured.values()))
        shape = (len(first["alpha"]), self.shape.n_layers, self.shape.n_heads)
        finished = {name: torch.full(shape, torch.nan, dtype=torch.float64) for name in first if name != "alpha"}
        for layer, numbers in measured.items():
            n_heads = numbers["alpha"].shape[1]
            for name, values in finished.items():
                values[:, layer, :n_heads] = numbers[name].cpu()
            uniform = numbers["uniform alpha"][:, 0]
            self.add_sums(layer, numbers["alpha"], uniform, torch.ones_like(uniform))
        self._finished.append(finished)

    def _measure(self, layer: int) -> dict[str, Float[Tensor, "batch _"]]:
        """All numbers of one layer, ``[batch, head]``; ``[batch, 1]`` for what its heads have in common."""
        received, parameters = self.sums.received(layer), self.parameters
        real = received.seen_by > 0
        sinks = sink_keys(
            received.alpha, received.seen_by, threshold=parameters.epsilon, min_queries=parameters.min_queries
        )
        mass = received.alpha.nan_to_num() * received.seen_by[:, None] / received.n_queries[:, None, None]
        others = real[:, None] & ~sinks
        keys, values = self.norms["key"][layer], self.norms["value"][layer]
        written = self.written[layer] / received.n_queries[:, None]
        sink_mass, other_values = (mass * sinks).sum(-1), masked_mean(values, others)
        alpha, uniform = self._at_key(received.alpha, real), self._at_key(received.uniform[:, None], real)
        later, uniform_later = self._later(received)
        return {
            "alpha": alpha,
            "sink rate": _exceeds(alpha, parameters.epsilon),
            "sink mass": sink_mass,
            "later sinks": later,
            "key norm": masked_mean(keys, sinks) / masked_mean(keys, others),
            "value norm": masked_mean(values, sinks) / other_values,
            "output norm": written / written.mean(-1, keepdim=True),
            "no-op": no_op(sink_mass, written, other_values),
            "learned sink": 1 - mass.sum(-1),
            "uniform alpha": uniform,
            "uniform sink rate": _exceeds(uniform, parameters.epsilon),
            "uniform later sinks": uniform_later,
            "length": real.sum(-1, keepdim=True).double(),
        }

    def _at_key(
        self, alpha: Float[Tensor, "batch head key"], real: Bool[Tensor, "batch key"]
    ) -> Float[Tensor, "batch head"]:
        """Alpha at the scored position, counted from the first real key; NaN in texts without it."""
        position = real.long().argmax(-1) + self.parameters.key
        inside = position < alpha.shape[-1]
        index = position.clamp_max(alpha.shape[-1] - 1)[:, None, None].expand(-1, alpha.shape[1], 1)
        return alpha.gather(-1, index).squeeze(-1).where(inside[:, None], torch.nan)

    def _later(self, received: Received) -> tuple[Float[Tensor, "batch head"], Float[Tensor, "batch 1"]]:
        """How many later sinks each head has, and uniform attention would have."""
        real = received.seen_by > 0
        length = real.sum(-1).double()
        enough = (length / self.parameters.later_factor).clamp_min(self.parameters.min_queries)
        behind = torch.arange(real.shape[-1], device=real.device) != real.long().argmax(-1, keepdim=True)
        counts: list[Tensor] = []
        for alpha in (received.alpha, received.uniform[:, None]):
            threshold = self.parameters.later_factor / length
            found = sink_keys(alpha, received.seen_by, threshold=threshold, min_queries=enough)
            counts.append((found & behind[:, None]).double().sum(-1))
        return counts[0], counts[1]


class _SinkTokens(ReceivedReader):
    def __init__(self, shape: Shape, parameters: SinkTokens) -> None:
        super().__init__(shape, parameters.name)
        self.parameters = parameters

    def result(self, provenance: Provenance, tokens: list[str]) -> TokenMap:
        epsilon, min_queries = self.parameters.epsilon, self.parameters.min_queries
        values = torch.full((self.shape.n_layers, len(tokens)), torch.nan, dtype=torch.float64)
        for layer in self.sums.layers:
            received = self.of_text(layer, len(tokens))
            rates = sink_keys(received.alpha, received.seen_by, threshold=epsilon)[0].double().mean(0)
            tested = received.seen_by[0] >= received.seen_by.amax().clamp_max(min_queries)
            values[layer] = rates.where(tested, torch.nan).cpu()
        special = frozenset(provenance.special_tokens.values())
        return TokenMap(
            name=self.name,
            values=values,
            dims=("layer", "key"),
            tokens=tuple(tokens),
            unit="share of heads",
            value_range=(0.0, 1.0),
            provenance=provenance,
            notes={"epsilon": epsilon, "kinds": tuple(token_kind(text, special) for text in tokens)},
        )


def _with_length_warning(provenance: Provenance, lengths: Float[Tensor, " example"]) -> Provenance:
    n_short = int((lengths < SHORT_TEXT).sum())
    if n_short == 0:
        return provenance
    return provenance.with_warnings(
        f"{n_short} of {len(lengths)} texts have fewer than {SHORT_TEXT} tokens (the shortest {int(lengths.min())}), "
        "where even uniform attention gives the first token a high alpha: compare with chance, or use longer texts"
    )


def _with_norm_warning(provenance: Provenance, layers: Sequence[int]) -> Provenance:
    if not layers:
        return provenance
    return provenance.with_warnings(
        f"norms are taken before the output projection in layers {', '.join(map(str, layers))}: no single matrix that "
        "is at hand takes the heads' outputs there"
    )


def _exceeds(alpha: Float[Tensor, "batch head"], epsilon: float) -> Float[Tensor, "batch head"]:
    return (alpha > epsilon).double().where(~alpha.isnan(), torch.nan)
