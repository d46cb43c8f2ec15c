"""`import interp` is light, its public names exist, and the data files are found."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import interp
from interp import paths
from interp.errors import InputError

HEAVY = ("torch", "transformers", "transformer_lens", "pandas", "plotly", "sklearn")


def heavy_modules_after(statement: str) -> str:
    report = f"import sys; {statement}; print([name for name in {HEAVY} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(
    "statement",
    ["import interp", "from interp import HeadRef, InputError", "import interp.paths", "dir(__import__('interp'))"],
)
def test_light_imports_load_nothing_heavy(statement: str) -> None:
    assert heavy_modules_after(statement) == "[]"


@pytest.mark.parametrize("name", interp.__all__)
def test_every_public_name_exists(name: str) -> None:
    assert getattr(interp, name) is not None
    assert name in dir(interp)


def test_the_list_the_table_and_the_typed_imports_agree() -> None:
    table = set(interp._MODULE_OF)
    assert table | {"__version__"} == set(interp.__all__)
    assert len(set(interp.__all__)) == len(interp.__all__)
    tree = ast.parse(Path(interp.__file__).read_text())
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {
        alias.name: node.module for node in guarded.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert typed == interp._MODULE_OF


@pytest.mark.parametrize(("name", "module"), interp._MODULE_OF.items())
def test_no_module_hides_the_public_name(name: str, module: str) -> None:
    # Importing interp/scan.py would bind `interp.scan` to the module in place of the function.
    assert module != f"interp.{name}", f"the file of {name} needs a name of its own"


def test_a_misspelt_name_is_an_attribute_error_that_helps() -> None:
    with pytest.raises(AttributeError, match="module 'interp' has no attribute 'laod'; it has .*load"):
        interp.laod  # type: ignore[attr-defined]  # noqa: B018


class TestDataDirectory:
    def make_package(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        package = root / "interp"
        package.mkdir(parents=True)
        monkeypatch.setattr(paths, "_PACKAGE", package)
        return package

    def test_in_this_checkout(self) -> None:
        assert paths.data_dir() == Path(__file__).parents[1] / "data"

    def test_in_an_installed_wheel(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        package = self.make_package(tmp_path, monkeypatch)
        (package / "_data").mkdir()
        assert paths.data_dir() == package / "_data"

    def test_a_strangers_data_directory_does_not_count(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.make_package(tmp_path, monkeypatch)
        (tmp_path / "data").mkdir()
        with pytest.raises(InputError, match="data files of interp are missing: expected .*_data.*install .* again"):
            paths.data_dir()
