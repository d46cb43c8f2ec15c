"""The wheel, installed into a clean environment and used from another directory."""

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
LIMIT_SECONDS = 300


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that has to succeed; nothing in it may reach the checkout or the network."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
    )
    assert done.returncode == 0, f"{command} gave {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", target, ROOT, cwd=target)
    (built,) = target.glob("interp-*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel; its dependencies are read from the environment of the tests."""
    directory = tmp_path_factory.mktemp("clean")
    run(sys.executable, "-m", "venv", "--without-pip", directory, cwd=directory)
    pip = (sys.executable, "-m", "pip", "--python", directory / "bin" / "python")
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=directory)
    (site_packages,) = directory.glob("lib/python*/site-packages")
    # Path files inside a directory added by a path file are not read, so the checkout itself stays invisible.
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return directory


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A working directory with nothing in it."""
    return tmp_path


def test_the_wheel_holds_the_packages_the_data_and_the_markers(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for package in ("interp", "probes", "circuits"):
        assert f"{package}/__init__.py" in names
        assert f"{package}/py.typed" in names
    assert {f"interp/report/page.{kind}" for kind in ("css", "js", "html.jinja")} <= set(names)
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"interp", "probes", "circuits"}


def test_the_wheel_holds_every_data_file_of_the_repository(wheel: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("without git, the files of the repository cannot be told from those that training leaves behind")
    names = zipfile.ZipFile(wheel).namelist()
    # Hatchling takes what git tracks or would track.
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "data", cwd=ROOT).splitlines()
    expected = {f"interp/_data/{name.removeprefix('data/')}" for name in listed if (ROOT / name).is_file()}
    assert expected
    assert {name for name in names if name.startswith("interp/_data/")} == expected


def test_the_installed_package_is_the_one_in_use(environment: Path, elsewhere: Path) -> None:
    report = "import interp, interp.paths, circuits; print(interp.__file__, circuits.__file__, interp.paths.data_dir())"
    for place in run(environment / "bin" / "python", "-c", report, cwd=elsewhere).split():
        assert Path(place).is_relative_to(environment)


def test_import_and_help_load_no_torch(environment: Path, elsewhere: Path) -> None:
    python = environment / "bin" / "python"
    assert run(python, "-c", "import interp, sys; print('torch' in sys.modules)", cwd=elsewhere) == "False\n"
    program = (
        "import sys\n"
        "from interp.cli.main import main\n"
        "sys.argv = ['interp', '--help']\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code, stop.code\n"
        "assert 'torch' not in sys.modules"
    )
    assert "find-heads" in run(python, "-c", program, cwd=elsewhere)


def test_the_command_lists_the_embedded_models(environment: Path, elsewhere: Path) -> None:
    assert "mini" in run(environment / "bin" / "interp", "models", cwd=elsewhere)


def test_the_command_finds_heads(environment: Path, elsewhere: Path) -> None:
    options = ("--task", "ioi", "--n-prompts", "8", "--json", "-")
    printed = run(environment / "bin" / "interp", "find-heads", *options, cwd=elsewhere)
    assert json.loads(printed, parse_constant=pytest.fail)
    assert list(elsewhere.iterdir()) == []
