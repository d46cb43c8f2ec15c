"""Attention sinks: published values on hand-made patterns, and slow full maps on a real model."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import interp
from interp.analyzers.analyzer import Shape
from interp.analyzers.received import ReceivedMass
from interp.analyzers.sinks import Sinks, SinkTokens, sink_keys, sink_table, token_kind
from interp.analyzers.written_norms import triangles, written_norms
from interp.errors import InputError
from interp.model.tokens import TokenBatch
from interp.provenance import Provenance
from interp.results import HeadScores, TokenMap
from tests.analyzers import hand_made
from tests.analyzers.hand_made import key_bias, pointing, uniform
from tests.attention.models import loaded

HEADS = ("sink rate", "sink mass", "later sinks", "key norm", "value norm", "output norm", "no-op")


def read(pattern: Tensor, analyzer: Any = None, **options: Any) -> Any:
    """The result of an analyzer of sinks on maps made by hand."""
    return hand_made.read(analyzer or Sinks(), pattern, **options)


@pytest.mark.parametrize(
    ("n", "key", "alpha"),
    [(64, 0, 0.074123), (64, 1, 0.059427), (64, 63, 0.015625), (16, 0, 0.211296), (16, 15, 0.0625)],
)
def test_alpha_of_uniform_attention_is_chance(n: int, key: int, alpha: float) -> None:
    scores = read(uniform(n), Sinks(key=key))
    assert scores["L0H0"] == pytest.approx(alpha, abs=1e-6)
    assert float(scores.chance[0, 0]) == pytest.approx(alpha, abs=1e-6)


@pytest.mark.parametrize(
    ("c", "first", "second", "last", "is_sink"),
    [
        (0, 0.074123, 0.059427, 0.015625, False),
        (1, 0.143901, 0.047939, 0.015216, False),
        (2, 0.269044, 0.034841, 0.014207, False),
        (3, 0.455369, 0.022241, 0.012036, True),
        (4, 0.666016, 0.012101, 0.008504, True),
        (5, 0.833781, 0.005600, 0.004730, True),
    ],
)
def test_heads_with_a_bias_on_the_first_key(c: int, first: float, second: float, last: float, is_sink: bool) -> None:
    pattern = key_bias(64, c)
    for key, alpha in ((0, first), (1, second), (63, last)):
        assert read(pattern, Sinks(key=key))["L0H0"] == pytest.approx(alpha, abs=2e-6)
    scores = read(pattern)
    assert scores.notes["sink rate"] == float(scores.columns["sink rate"]) == is_sink
    assert scores.notes["uniform attention"] == {"sink rate": 0, "later sinks": 0}
    assert float(scores.columns["sink mass"]) == pytest.approx(first * is_sink, abs=2e-6)


def test_a_head_that_looks_at_itself_and_the_sum_over_keys() -> None:
    n = 20
    for key in (0, 7, 19):
        assert read(torch.eye(n), Sinks(key=key))["L0H0"] == pytest.approx(1 / (n - key), abs=1e-6)
    alpha = read(key_bias(n, 2), ReceivedMass()).values[0, 0]
    assert float((alpha * torch.arange(n, 0, -1)).sum()) == pytest.approx(n, abs=1e-4)


def test_the_threshold_is_applied_text_by_text() -> None:
    """alpha .25 and .45: the mean .35 exceeds .3, but only every second text has a sink."""
    n = 64
    patterns = torch.stack([pointing(n, {0: (alpha * n - 1) / (n - 1)}) for alpha in (0.25, 0.45)])[:, None]
    scores = read(patterns)
    assert scores["L0H0"] == pytest.approx(0.35, abs=1e-6)
    assert scores.notes["sink rate"] == 0.5 and scores.notes["layer sink rates"] == (0.5,)
    assert float(scores.columns["sink mass"]) == pytest.approx(0.45 / 2, abs=1e-6)
    rates = [read(patterns, Sinks(epsilon=epsilon)).notes["sink rate"] for epsilon in (0.2, 0.3, 0.5)]
    assert rates == [1, 0.5, 0]


def test_short_texts_have_false_sinks_and_say_so() -> None:
    plain = torch.eye(2)[None]  # W_O that changes nothing
    nine, ten, long = (read(uniform(n), output_weights=plain) for n in (9, 10, 32))
    assert (nine.notes["sink rate"], nine.notes["uniform attention"]["sink rate"]) == (1, 1)
    assert (ten.notes["sink rate"], ten.notes["uniform attention"]["sink rate"]) == (0, 0)
    assert float(nine.chance[0, 0]) == pytest.approx(0.3143, abs=5e-5)
    (warning,) = nine.provenance.warnings
    assert "1 of 1 texts have fewer than 32 tokens (the shortest 9)" in warning
    assert long.provenance.warnings == ()


def test_sinks_of_acts_worked_example() -> None:
    rows = [[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.5, 0.3, 0.2, 0], [0.5, 0.2, 0.2, 0.1]]
    pattern = torch.tensor(rows, dtype=torch.float64)
    seen_by = torch.tensor([[4.0, 3.0, 2.0, 1.0]])
    alpha = (pattern.sum(0) / seen_by[0])[None, None]
    torch.testing.assert_close(alpha[0, 0].float(), torch.tensor([0.625, 1 / 3, 0.2, 0.1]))
    assert sink_keys(alpha, seen_by, threshold=0.1).tolist() == [[[True, True, True, False]]]


def test_later_sinks() -> None:
    assert float(read(pointing(64, {0: 0.3, 5: 0.2})).columns["later sinks"]) == 1
    assert float(read(pointing(64, {5: 0.2, 9: 0.2, 30: 0.2})).columns["later sinks"]) == 3
    # 5/64 = .078: the first token is exempt, whatever it receives, and local heads make no sinks of the last keys.
    for pattern in (pointing(64, {0: 0.9}), uniform(64), uniform(83), torch.eye(64), torch.eye(300)):
        assert float(read(pattern).columns["later sinks"]) == 0
    # Token 1 is the only sink although token 0 never passes; ACT's code would spare it and take the last two.
    assert float(read(pointing(64, {1: 0.7})).columns["later sinks"]) == 1
    # Long texts: uniform attention itself passes at the second and third token, and chance says so.
    long = read(uniform(400), block=200)
    assert float(long.columns["later sinks"]) == long.notes["uniform attention"]["later sinks"] == 2


@pytest.mark.parametrize("with_weights", [False, True])
def test_a_head_that_writes_nothing_is_a_no_op(with_weights: bool) -> None:
    n, c = 64, 5.0
    values = torch.eye(n)
    values[0] = 0
    rotation = torch.linalg.qr(torch.randn(80, n, generator=torch.Generator().manual_seed(0))).Q.T  # keeps norms
    weights = rotation[None] * 3 if with_weights else None
    scores = read(key_bias(n, c), values=values, output_weights=weights)
    norms = [math.sqrt(q) / (math.exp(c) + q) for q in range(n)]
    assert norms[63] == pytest.approx(0.03754, abs=5e-6)
    no_op = 0.833781 * (1 - sum(norms) / n)
    assert float(scores.columns["no-op"]) == pytest.approx(no_op, abs=1e-5)
    assert float(scores.columns["value norm"]) == 0
    assert float(scores.columns["key norm"]) == pytest.approx(1)
    assert scores.notes["norms before W_O"] == (() if with_weights else (0,))
    said = ["norms are taken before the output projection in layers 0: no single matrix that is at hand takes the "
            "heads' outputs there"]  # fmt: skip
    assert list(scores.provenance.warnings) == ([] if with_weights else said)


def test_values_that_the_output_weights_drop_are_not_written() -> None:
    """Both values are of length 1, and W_O is blind to the second: before it the head writes, behind it nothing."""
    n = 40
    values = torch.tensor([[0.0, 1.0]] + [[1.0, 0.0]] * (n - 1))
    pattern = key_bias(n, 12.0)  # the BOS has 0.9998 of every row
    blind = torch.tensor([[[2.0, 0.0], [0.0, 0.0]]])
    before, behind = (read(pattern, values=values, output_weights=weights) for weights in (None, blind))
    assert float(before.columns["no-op"]) < 0.001 and float(before.columns["value norm"]) == pytest.approx(1)
    assert float(behind.columns["no-op"]) > 0.999 and float(behind.columns["value norm"]) == 0


def test_heads_without_sinks_are_no_no_ops_and_have_no_norms_there() -> None:
    scores = read(uniform(40))
    assert float(scores.columns["no-op"]) == 0
    assert math.isnan(float(scores.columns["key norm"])) and math.isnan(float(scores.columns["value norm"]))


def test_norms_through_the_output_weights_of_the_right_kv_head() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(4, 3, 10, generator=generator)
    vectors = torch.randn(2, 2, 5, 3, generator=generator)
    found = written_norms(vectors, triangles(weights), 4)
    for head in range(4):
        torch.testing.assert_close(found[:, head], (vectors[:, head // 2] @ weights[head]).norm(dim=-1))
    narrow = torch.randn(1, 3, 2, generator=generator)  # a residual stream narrower than the head
    torch.testing.assert_close(
        written_norms(vectors[:, :1], triangles(narrow), 1)[:, 0], (vectors[:, 0] @ narrow[0]).norm(dim=-1)
    )
    torch.testing.assert_close(written_norms(vectors, None, 4)[:, 3], vectors[:, 1].norm(dim=-1))


def test_sink_tokens_by_head_and_kind() -> None:
    patterns = torch.stack([key_bias(40, 5), pointing(40, {7: 0.9}), uniform(40), torch.eye(40)])[None]
    result = read(patterns, SinkTokens())
    assert result.values[0, 0] == 0.25 and result.values[0, 7] == 0.25
    assert float(result.values.nansum()) == 0.5
    # 15 keys are seen by fewer than 16 queries.
    assert int(result.values.isnan().sum()) == 15
    table = sink_table(result)
    assert table["key"].tolist() == [0, 7] and table["layers"].tolist() == [(0,), (0,)]
    assert float(read(uniform(9), SinkTokens()).values[0, 0]) == 1
    assert [token_kind(text, {"<s>", "</s>"}) for text in (" <s>", "</s>", ".", "”", "\n\n", "\t", "a.")] == [
        "special", "special", "punctuation", "punctuation", "newline", "space", "word",
    ]  # fmt: skip


def test_positions_that_a_text_does_not_have_are_not_measured() -> None:
    assert [head.label for head in read(uniform(12), Sinks(key=12)).unmeasured] == ["L0H0"]


def test_bad_parameters_are_refused() -> None:
    for epsilon in (0.0, 1.0, 1.5):
        with pytest.raises(InputError, match="expected a share of attention between 0 and 1"):
            Sinks(epsilon=epsilon)
    with pytest.raises(InputError, match="key=-1, later_factor=5.0, min_queries=16: expected a position"):
        Sinks(key=-1)


STORIES = [
    "Once upon a time, there was a little girl named Lily. She loved to play with her big red ball. One day, Lily saw",
    "Tom and Sam saw a dog.\nThe dog was big. Tom was happy and the dog was happy.",
    "One day, a bird flew.",
]


@pytest.fixture(scope="module")
def model(stories260k: Path) -> interp.Model:
    return interp.load(stories260k)


# A low threshold: this small model has few sinks at 0.3.
STORY_SINKS = Sinks(epsilon=0.15, min_queries=6, later_factor=2.5)


@pytest.fixture(scope="module")
def slow(model: interp.Model) -> dict[str, Tensor]:
    texts = [slow_sinks(model, text) for text in STORIES]
    return {name: torch.stack([text[name] for text in texts]).nanmean(0) for name in texts[0]}


@pytest.mark.parametrize(
    ("batch_size", "block_bytes", "side"), [(1, 10**6, "right"), (3, 999, "right"), (2, 1, "left"), (3, 10**6, "left")]
)
def test_scan_equals_full_maps_whatever_the_batch(
    model: interp.Model, slow: dict[str, Tensor], batch_size: int, block_bytes: int, side: Any
) -> None:
    data = model.batch(STORIES, padding_side=side)
    scores = interp.scan(model, data, [STORY_SINKS], batch_size=batch_size, block_bytes=block_bytes)["sinks"]
    assert isinstance(scores, HeadScores) and isinstance(scores.chance, Tensor)
    torch.testing.assert_close(scores.scores, slow["alpha"], atol=1e-6, rtol=0)
    torch.testing.assert_close(scores.chance, slow["chance"], atol=1e-6, rtol=0)
    for name in HEADS:
        torch.testing.assert_close(scores.columns[name], slow[name], atol=2e-6, rtol=2e-6, equal_nan=True, msg=name)
    assert 0 < float(slow["sink rate"].mean()) < 1 and float(slow["later sinks"].mean()) > 0
    assert float(slow["key norm"].std()) > 0.1 and float(slow["no-op"].max()) > 0.05
    assert "learned sink" not in scores.columns


def slow_sinks(model: interp.Model, text: str) -> dict[str, Tensor]:
    """The definitions, word for word, in loops over the full maps of one text."""
    values: list[Tensor] = []
    projections = [layer.self_attn.v_proj for layer in model.hf.model.layers]
    hooks = [p.register_forward_hook(lambda module, args, output: values.append(output[0])) for p in projections]
    maps = interp.capture_patterns(model, text, z=True, queries_and_keys=True)
    for hook in hooks:
        hook.remove()
    n, d_head = len(maps.tokens[0]), model.d_head
    found = {name: torch.full((5, 8), torch.nan, dtype=torch.float64) for name in ("alpha", "chance", *HEADS)}
    for layer in range(5):
        w_out = model.hf.model.layers[layer].self_attn.o_proj.weight.detach()
        written = []
        for head in range(8):
            pattern, kv = maps.patterns[layer][0, head].double(), head // 2
            alpha = [float(sum(pattern[q, k] for q in range(k, n)) / (n - k)) for k in range(n)]
            enough = min(6, n)
            sinks = [k for k in range(n) if alpha[k] > 0.15 and n - k >= enough]
            later = [k for k in range(1, n) if alpha[k] > 2.5 / n and n - k >= min(max(6, n / 2.5), n)]
            others = [k for k in range(n) if k not in sinks]
            w_head = w_out[:, head * d_head : (head + 1) * d_head].T
            keys = maps.queries_and_keys[layer][1][0, kv].norm(dim=-1).double()
            value = (values[layer][:, kv * d_head : (kv + 1) * d_head] @ w_head).norm(dim=-1).double()
            written.append(float((maps.z[layer][0, :, head] @ w_head).norm(dim=-1).double().mean()))
            mass = float(pattern[:, sinks].sum(-1).mean())
            entries = {
                "alpha": alpha[0],
                "chance": sum(1 / (q + 1) for q in range(n)) / n,
                "sink rate": alpha[0] > 0.15,
                "sink mass": mass,
                "later sinks": len(later),
                "key norm": keys[sinks].mean() / keys[others].mean(),
                "value norm": value[sinks].mean() / value[others].mean(),
                "no-op": mass * max(0, 1 - written[-1] / float(value[others].mean())),
            }
            for name, entry in entries.items():
                found[name][layer, head] = entry
        found["output norm"][layer] = torch.tensor(written) / (sum(written) / 8)
    return found


def test_sink_tokens_of_a_real_text_do_not_see_padding(model: interp.Model) -> None:
    alone = interp.scan(model, STORIES[1], [SinkTokens(epsilon=0.1)])["sink-tokens"]
    ids = model.to_tokens(STORIES[1])[0].tolist()
    assert isinstance(alone, TokenMap)
    maps = interp.capture_patterns(model, STORIES[1]).patterns
    n = len(ids)
    for layer, key in ((0, 0), (2, 3), (4, n - 16)):
        alpha = maps[layer][0, :, :, key].sum(-1) / (n - key)
        assert float(alone.values[layer, key]) == float((alpha > 0.1).double().mean())
    assert alone.notes["kinds"][0] == "special" and "newline" in alone.notes["kinds"]
    for side in ("left", "right"):
        padded = model.pad([ids, ids + [5] * 7], padding_side=side)
        one = TokenBatch(padded.tokens[:1], padded.mask[:1], prepend_bos=True)
        for chosen in (SinkTokens(epsilon=0.1), ReceivedMass()):
            expected = interp.scan(model, STORIES[1], [chosen])[chosen.name]
            reader = chosen.reader(Shape(n_layers=5, n_heads=8, kind="self"))
            with torch.inference_mode(), interp.watch(model, reader):
                model(one)
            found = reader.result(Provenance(model="m"), model.to_str_tokens(ids))
            assert isinstance(expected, TokenMap) and isinstance(found, TokenMap)
            torch.testing.assert_close(found.values, expected.values, atol=1e-6, rtol=0, equal_nan=True)
    with pytest.raises(InputError, match="sink-tokens describes the tokens of one text"):
        interp.scan(model, STORIES, ["sink-tokens"])


def test_generation_gives_the_sinks_of_one_pass_over_its_output(model: interp.Model) -> None:
    reader = STORY_SINKS.reader(Shape(n_layers=5, n_heads=8, kind="self"))
    with torch.inference_mode(), interp.watch(model, reader):
        tokens = model.generate(STORIES[2], max_new_tokens=9)
    whole = interp.scan(model, tokens[:, :-1], [STORY_SINKS])["sinks"]
    stepwise = reader.result(Provenance(model="m"), [])
    assert isinstance(whole, HeadScores) and isinstance(stepwise, HeadScores)
    torch.testing.assert_close(stepwise.scores, whole.scores, atol=1e-6, rtol=0)
    for name in HEADS:
        torch.testing.assert_close(
            stepwise.columns[name], whole.columns[name], atol=2e-6, rtol=2e-6, equal_nan=True, msg=name
        )


def test_a_learned_sink_takes_the_mass_that_rows_lack() -> None:
    model = loaded("gpt_oss")
    ids = torch.arange(4, 44)[None]
    scores = interp.scan(model, ids, ["sinks"])["sinks"]
    maps = interp.capture_patterns(model, ids).patterns
    assert isinstance(scores, HeadScores)
    for layer, pattern in maps.items():
        expected = 1 - pattern[0].double().sum(-1).mean(-1)
        torch.testing.assert_close(scores.columns["learned sink"][layer], expected, atol=1e-6, rtol=0)
    assert float(scores.columns["learned sink"].min()) > 0.01


def test_sliding_windows_divide_by_the_queries_that_see_the_key() -> None:
    model = loaded("mistral")  # a window of five
    ids = torch.arange(4, 44)[None]
    scores = interp.scan(model, ids, ["sinks"])["sinks"]
    maps = interp.capture_patterns(model, ids).patterns
    assert isinstance(scores, HeadScores) and isinstance(scores.chance, Tensor)
    expected = torch.stack([maps[layer][0, :, :5, 0].sum(-1) / 5 for layer in maps]).double()
    torch.testing.assert_close(scores.scores, expected, atol=1e-6, rtol=0)
    chance = sum(1 / n for n in range(1, 6)) / 5
    torch.testing.assert_close(scores.chance, torch.full_like(scores.chance, chance), atol=1e-6, rtol=0)
