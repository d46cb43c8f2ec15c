"""What results share: provenance, storage and its refusals, frozen values."""

import json
import pickle
import pkgutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import circuits
import interp
import probes
from interp.errors import InputError, ResultFormatError
from interp.frozen import FrozenDict, freeze_json, frozen_tensor
from interp.provenance import Provenance, hash_prompts
from interp.results import HeadScores, TokenMap, load_result
from interp.saved_result import SavedResult
from interp.storage import FORMAT_VERSION, JSON_FILE, TENSOR_FILE


@pytest.fixture
def scores(provenance: Provenance) -> HeadScores:
    return HeadScores(name="effect", unit="logits", provenance=provenance, scores=torch.tensor([[0.5, 0.25]]))


@pytest.fixture
def saved(scores: HeadScores, tmp_path: Path) -> Path:
    return scores.save(tmp_path / "result")


def edit_json(directory: Path, change: Callable[[dict], object]) -> None:
    document = json.loads((directory / JSON_FILE).read_text())
    change(document)
    (directory / JSON_FILE).write_text(json.dumps(document))


def kinds() -> set[str]:
    """Every kind of result in the packages."""
    for package in (interp, circuits, probes):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__"):
                import_module(found.name)
    waiting, known = [SavedResult], set[str]()
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        known |= {kind.KIND} if hasattr(kind, "KIND") else set()
    return known


def test_load_result_knows_every_kind(scores: HeadScores, tmp_path: Path) -> None:
    path = scores.save(tmp_path / "odd")
    edit_json(path, lambda document: document.update(kind="odd"))
    with pytest.raises(ResultFormatError, match="unknown kind 'odd'") as caught:
        load_result(path)
    listed = str(caught.value).partition("expected one of ")[2].partition(";")[0]
    assert set(listed.split(", ")) == kinds()


class TestProvenance:
    def test_it_records_versions_and_time_by_itself(self, provenance: Provenance) -> None:
        assert provenance.packages["interp"] == interp.__version__
        assert provenance.packages["torch"] == torch.__version__
        assert set(provenance.packages) == {"interp", "torch", "transformers", "transformer_lens"}
        assert provenance.created.endswith("+00:00")

    def test_warnings_are_added_to_a_copy_once(self, provenance: Provenance) -> None:
        changed = provenance.with_warnings("slow path", "slow path")
        assert changed.warnings == ("slow path",)
        assert provenance.warnings == ()
        assert changed.created == provenance.created

    def test_summary_shows_the_choices_that_change_numbers(self, provenance: Provenance) -> None:
        expected = f"mini, float32, cpu, with BOS, left padding, seed 0, interp {interp.__version__}, slow path"
        assert provenance.with_warnings("slow path").summary == expected

    def test_summary_leaves_out_what_is_unknown(self) -> None:
        assert Provenance(model="m", packages={"interp": "1"}).summary == "m, float32, cpu, interp 1"

    def test_parameters_cannot_be_changed(self) -> None:
        parameters = {"layers": [1, 2]}
        provenance = Provenance(model="m", parameters=parameters)
        parameters["layers"].append(3)
        assert provenance.parameters == {"layers": (1, 2)}
        with pytest.raises(TypeError):
            provenance.parameters["layers"] = ()  # type: ignore[index]

    def test_an_absent_package_is_said_to_be_absent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("interp.provenance.RECORDED_PACKAGES", ("no_such_package",))
        assert Provenance(model="m").packages["no_such_package"] == "not installed"


class TestPromptHash:
    def test_it_is_the_documented_digest(self) -> None:
        # printf '1,2;3,4;' | sha256sum
        expected = "c12d4806e0ea094c2baac6d6a1a16e367e242872538797e224a0ff9fc8bc08d5"
        assert hash_prompts([[1, 2], [3, 4]]) == expected

    def test_rows_of_a_tensor_and_lists_agree(self) -> None:
        assert hash_prompts(torch.tensor([[1, 2], [3, 4]])) == hash_prompts([[1, 2], [3, 4]])

    @pytest.mark.parametrize("other", [[[3, 4], [1, 2]], [[1, 2, 3], [4]], [[12], [34]], [[1, 2]], []])
    def test_order_and_boundaries_count(self, other: list[list[int]]) -> None:
        assert hash_prompts(other) != hash_prompts([[1, 2], [3, 4]])


class TestFrozenValues:
    def test_frozen_dict_is_a_copy_that_compares_and_pickles(self) -> None:
        items = {"a": 1}
        frozen = FrozenDict(items)
        items["b"] = 2
        assert frozen == {"a": 1}
        assert pickle.loads(pickle.dumps(frozen)) == frozen

    def test_numpy_numbers_become_python_numbers(self) -> None:
        frozen = freeze_json({"a": [np.float32(0.5), np.int64(2), np.bool_(True)]}, where="notes")
        assert frozen == {"a": (0.5, 2, True)}
        assert [type(value) for value in frozen["a"]] == [float, int, bool]

    @pytest.mark.parametrize("value", [torch.zeros(2), {"deep": [object()]}, {1, 2}, Path("x")])
    def test_what_json_cannot_express_is_refused(self, value: object) -> None:
        with pytest.raises(InputError, match="notes holds a .*, which JSON cannot express.*convert it first"):
            freeze_json(value, where="notes")

    def test_keys_must_be_text(self) -> None:
        with pytest.raises(InputError, match="notes has the key 3: expected text keys.*write it as '3'"):
            freeze_json({3: 1}, where="notes")

    def test_tensors_are_detached_copies(self) -> None:
        source = torch.ones(2, requires_grad=True)
        frozen = frozen_tensor(source)
        with torch.no_grad():
            source.zero_()
        assert frozen.tolist() == [1.0, 1.0]
        assert not frozen.requires_grad

    @pytest.mark.parametrize(
        ("dtype", "kept"),
        [
            (torch.float16, torch.float32),
            (torch.bfloat16, torch.float32),
            (torch.float64, torch.float64),
            (torch.int64, torch.int64),
        ],
    )
    def test_only_half_precision_is_widened(self, dtype: torch.dtype, kept: torch.dtype) -> None:
        assert frozen_tensor(torch.ones(1, dtype=dtype)).dtype == kept


class TestStorage:
    def test_load_result_gives_each_kind_back(self, saved: Path, provenance: Provenance, tmp_path: Path) -> None:
        token_map = TokenMap(
            name="flow", unit="", provenance=provenance, values=torch.ones(2), dims=("key",), tokens=("a", "b")
        )
        assert isinstance(load_result(saved), HeadScores)
        assert isinstance(load_result(str(token_map.save(tmp_path / "map"))), TokenMap)
        assert interp.load_result is load_result

    def test_the_two_files_are_the_documented_ones(self, saved: Path) -> None:
        assert sorted(path.name for path in saved.iterdir()) == [JSON_FILE, TENSOR_FILE]
        document = json.loads((saved / JSON_FILE).read_text())
        assert document["format_version"] == FORMAT_VERSION
        assert document["kind"] == "head_scores"
        assert document["fields"]["provenance"]["model"] == "mini"

    def test_saving_again_replaces_the_result_and_keeps_other_files(self, scores: HeadScores, saved: Path) -> None:
        (saved / "report.html").write_text("mine")
        scores.save(saved)
        assert sorted(path.name for path in saved.iterdir()) == ["report.html", JSON_FILE, TENSOR_FILE]

    def test_numbers_json_lacks_survive_in_strict_json(self, provenance: Provenance, tmp_path: Path) -> None:
        notes = {"nan": float("nan"), "inf": [float("inf"), -float("inf")], "float": "words"}
        result = HeadScores(name="x", unit="", provenance=provenance, scores=torch.ones(1, 1), notes=notes)
        directory = result.save(tmp_path / "x")
        json.loads((directory / JSON_FILE).read_text(), parse_constant=pytest.fail)
        loaded = HeadScores.load(directory).notes
        assert loaded["nan"] != loaded["nan"]
        assert loaded["inf"] == (float("inf"), -float("inf"))
        assert loaded["float"] == "words"

    def test_an_interrupted_save_leaves_no_scraps(
        self, scores: HeadScores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("interp.storage.os.replace", fail)
        with pytest.raises(InputError, match="cannot be saved to .*No space left on device.*choose another path"):
            scores.save(tmp_path / "x")
        assert list((tmp_path / "x").iterdir()) == []

    def test_a_file_in_the_way_is_named(self, scores: HeadScores, tmp_path: Path) -> None:
        (tmp_path / "x").write_text("")
        with pytest.raises(InputError, match=r"cannot be saved to .*x \(File exists\)"):
            scores.save(tmp_path / "x")


@pytest.mark.usefixtures("unchecked_annotations")
class TestDamage:
    """Every way a saved result can be wrong is one sentence with the path and a way out."""

    def refused(self, directory: Path, message: str) -> None:
        with pytest.raises(ResultFormatError, match=message) as caught:
            load_result(directory)
        assert str(directory) in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_no_directory(self, tmp_path: Path) -> None:
        self.refused(tmp_path / "absent", "No saved result can be read.*No such file.*check the path")

    @pytest.mark.parametrize("name", [JSON_FILE, TENSOR_FILE])
    def test_one_file_is_missing(self, saved: Path, name: str) -> None:
        (saved / name).unlink()
        self.refused(saved, f"{name} gives 'No such file")

    @pytest.mark.parametrize("text", ["", "{", '{"kind": ', "\xff", "[" * 100_000])
    def test_json_is_cut_off(self, saved: Path, text: str) -> None:
        (saved / JSON_FILE).write_bytes(text.encode("latin-1"))
        self.refused(saved, "damaged: it is not JSON.*save the result again")

    def test_json_is_something_else(self, saved: Path) -> None:
        (saved / JSON_FILE).write_text("[1]")
        self.refused(saved, "expected an object, found a list")

    @pytest.mark.parametrize("version", [None, "1", 0, True])
    def test_version_is_nonsense(self, saved: Path, version: object) -> None:
        edit_json(saved, lambda document: document.update(format_version=version))
        self.refused(saved, f"its format_version is {version!r}, expected a number")

    def test_version_is_newer(self, saved: Path) -> None:
        edit_json(saved, lambda document: document.update(format_version=FORMAT_VERSION + 1))
        self.refused(saved, f"format version {FORMAT_VERSION + 1}, newer than {FORMAT_VERSION}.*upgrade interp")

    @pytest.mark.parametrize("name", ["kind", "fields", "tensors", "tensors_sha256"])
    def test_a_json_field_is_missing(self, saved: Path, name: str) -> None:
        edit_json(saved, lambda document: document.pop(name))
        self.refused(saved, f"it has no field '{name}'")

    @pytest.mark.parametrize("name", ["kind", "fields", "tensors"])
    def test_a_json_field_has_another_type(self, saved: Path, name: str) -> None:
        edit_json(saved, lambda document: document.update({name: 3}))
        self.refused(saved, "its fields have the wrong types")

    def test_the_kind_is_unknown(self, saved: Path) -> None:
        edit_json(saved, lambda document: document.update(kind="poem"))
        self.refused(saved, "unknown kind 'poem': expected one of head_scores, token_map")

    def test_the_kind_is_another_one(self, saved: Path) -> None:
        with pytest.raises(ResultFormatError, match="of the kind 'head_scores', expected 'token_map'; read it with"):
            TokenMap.load(saved)

    def test_safetensors_is_cut_off(self, saved: Path) -> None:
        path = saved / TENSOR_FILE
        path.write_bytes(path.read_bytes()[:-3])
        self.refused(saved, "not a safetensors file")

    def test_a_tensor_is_missing(self, saved: Path) -> None:
        save_file({"other": torch.ones(1)}, saved / TENSOR_FILE)
        self.refused(saved, "the tensor 'scores' is missing")

    def test_a_tensor_has_another_shape(self, saved: Path) -> None:
        save_file({"scores": torch.ones(3, 1)}, saved / TENSOR_FILE)
        self.refused(saved, r"the tensor 'scores' has shape \[3, 1\], expected \[1, 2\]")

    def test_tensors_belong_to_another_save(self, saved: Path) -> None:
        save_file({"scores": load_file(saved / TENSOR_FILE)["scores"] + 1}, saved / TENSOR_FILE)
        self.refused(saved, "does not belong to the result.json beside it")

    @pytest.mark.parametrize(
        "change",
        [
            lambda fields: fields.pop("name"),
            lambda fields: fields.pop("provenance"),
            lambda fields: fields.update(provenance={"colour": 1}),
            lambda fields: fields.update(surprise=1),
            lambda fields: fields.update(stack="X"),
            lambda fields: fields.update(labels=3),
        ],
    )
    def test_fields_do_not_make_the_object(self, saved: Path, change: Callable[[dict], object]) -> None:
        edit_json(saved, lambda document: change(document["fields"]))
        self.refused(saved, "its fields do not make a HeadScores.*save the result again")
