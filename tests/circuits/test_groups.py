"""Random groups match layers; mean ablation is what its definition says."""

from collections import Counter

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from circuits.forward import answer_logits
from circuits.groups import MeanAblation, group_test, random_groups
from circuits.patching import attention_heads
from circuits.study import Study
from interp.attention.session import watch
from interp.heads import HeadRef
from interp.interventions.capture_heads import CaptureHeads
from tests.tiny_models import tiny_llama

EVERY = [HeadRef(layer, head) for layer in range(3) for head in range(4)]


@pytest.fixture(scope="module")
def study(word_tokenizer: PreTrainedTokenizerBase) -> Study:
    model = tiny_llama(tokenizer=word_tokenizer)
    return Study.of(model, "ioi", n_prompts=12, seed=0, top=3, batch_size=5, progress=False)


def test_random_groups_have_as_many_heads_in_each_layer_and_none_of_the_group() -> None:
    heads = [HeadRef(0, 1), HeadRef(2, 0), HeadRef(2, 3)]
    groups, shared = random_groups(heads, EVERY, n=20, seed=0)
    assert shared == {}
    for group in groups:
        assert Counter(head.layer for head in group) == {0: 1, 2: 2}
        assert not set(group) & set(heads) and len(set(group)) == 3
    assert len({tuple(group) for group in groups}) > 1
    assert random_groups(heads, EVERY, n=20, seed=0)[0] == groups


def test_a_small_layer_shares_no_more_heads_than_it_must() -> None:
    heads = [HeadRef(1, 0), HeadRef(1, 1), HeadRef(1, 2)]
    groups, shared = random_groups(heads, EVERY, n=5, seed=0)
    assert shared == {1: 2}
    assert all(HeadRef(1, 3) in group and len(set(group)) == 3 for group in groups)


def test_ablating_nothing_is_the_model_itself(study: Study) -> None:
    found, baseline = MeanAblation(study).performance([]), study.baseline()["clean"]
    assert found.accuracy == baseline["accuracy"]
    assert found.metric == pytest.approx(baseline["metric"], abs=1e-5)


def test_means_are_over_corrupted_prompts_of_the_same_template_and_length(study: Study) -> None:
    ablation = MeanAblation(study)
    reference = study.task.prompts(study.model.tokenizer, n=180, seed=1)
    assert ablation.n_references == 192
    prompt = study.prompts.select([0])
    end = int(prompts_end(prompt))
    rows = []
    for source in (study.prompts, reference):
        for index in range(len(source)):
            one = source.select([index])
            if one.template.item() == prompt.template.item() and prompts_end(one) == end:
                rows.append(one.corrupted[:, : end + 1])
    assert len(rows) > 2
    heads = CaptureHeads()
    with torch.no_grad(), watch(study.model, heads):
        study.model(torch.cat(rows))
    group = ablation._keys(prompt)
    for layer, z in heads.z.items():
        torch.testing.assert_close(
            ablation.means[layer][group, : end + 1], z.mean(0, keepdim=True), atol=1e-5, rtol=1e-4
        )


def prompts_end(prompts: object) -> int:
    return int(prompts.positions["END"][0])  # type: ignore[attr-defined]


def test_everything_ablated_depends_on_the_template_only(study: Study) -> None:
    """Without attention END knows its own token alone; the mean adds the template."""
    ablation = MeanAblation(study)
    heads = torch.ones(study.model.n_layers, study.model.n_heads, dtype=torch.bool)
    twice = study.prompts.select([0, 0])
    twice.clean[1] = study.prompts.corrupted[0]
    logits = ablation._logits(twice, heads)
    torch.testing.assert_close(logits[0], logits[1])
    whole = answer_logits(study.model, twice.clean, twice.positions["END"])
    assert not torch.allclose(whole[0], whole[1])


def test_the_test_reports_every_group(study: Study) -> None:
    heads = [HeadRef(0, 1), HeadRef(1, 2)]
    found = group_test(study, heads, n_random=3)
    assert found["heads"] == ["L0H1", "L1H2"]
    assert len(found["random ablated"]["accuracy"]) == len(found["random kept"]["metric"]) == 3
    ablation = MeanAblation(study)
    assert found["ablated"] == ablation.performance(heads).to_dict()
    others = [head for head in attention_heads(study.model) if head not in heads]
    assert found["kept"] == ablation.performance(others).to_dict()
