"""The house stands as drawn: who imports whom, what stays light, how large a room is."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "alignkit"

ROOMS = {
    "cli": {"launch", "journey", "sweeps", "runs", "config", "stages", "data", "models", "evaluation"},
    "sweeps": {"journey", "checking", "runs", "config"},
    "launch": {"journey", "config"},
    "journey": {"checking", "runs", "config", "stages", "data", "models", "evaluation"},
    "checking": {"runs", "config", "stages", "data", "models", "rewards"},
    "stages": {
        "teachers",
        "rollouts",
        "training",
        "data",
        "models",
        "evaluation",
        "rewards",
        "runs",
        "config",
        "tensors",
    },
    "rollouts": {"training", "evaluation", "rewards", "data", "models", "runs", "config"},
    "teachers": {"training", "evaluation", "data", "models", "runs", "config"},
    "rewards": {"evaluation", "data", "models", "config"},
    "training": {"evaluation", "data", "models", "runs", "config"},
    "evaluation": {"models", "data", "config"},
    "data": {"config"},
    "models": {"config", "tensors"},
    "tensors": set(),
    "runs": set(),
    "config": set(),
    "console": set(),
    "ranks": set(),
    "errors": set(),
    "__init__": {"launch", "sweeps"},
    "__main__": {"cli"},
}
"""Room to the rooms that it may import; everything may import errors, console and ranks, and itself."""

HEAVY = {
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "accelerate",
    "bitsandbytes",
    "gguf",
    "numpy",
    "rich",
    "matplotlib",
}
LIGHT_ROOMS = {"cli", "config", "runs", "errors", "journey", "checking", "sweeps"}
LIGHT_ROOMS |= {"launch", "ranks", "console", "__init__", "__main__"}
# Looking at a recipe's stages must not load anything: the configuration library stays out of them too.
CONFIG_LIBRARIES = {"hydra", "omegaconf"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


def imports(path: Path, *, top_level: bool) -> set[str]:
    """Dotted names that a module imports; only those executed when it is imported, with `top_level`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if top_level:
        nodes: list[ast.AST] = []
        queue: list[ast.AST] = list(tree.body)
        while queue:
            node = queue.pop()
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                continue
            nodes.append(node)
            queue.extend(ast.iter_child_nodes(node))
    else:
        nodes = list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def test_imports_run_one_way() -> None:
    wrong = []
    for path in modules():
        room = room_of(path)
        assert room in ROOMS, f"{path} stands in a room that the plan does not know"
        for name in imports(path, top_level=False):
            parts = name.split(".")
            if parts[0] != "alignkit" or len(parts) < 2:
                continue
            target = parts[1]
            if target not in ROOMS[room] | {room, "errors", "console", "ranks", "__version__"}:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(sorted(set(wrong)))


def test_recipes_of_stages_see_config_only() -> None:
    for path in PACKAGE.glob("stages/*/recipe.py"):
        for name in imports(path, top_level=False):
            if name.startswith("alignkit."):
                # Its own folder may hold a reader of another program's recipes or a folder of losses, as light as it.
                home = f"alignkit.stages.{path.parent.name}"
                own = name.startswith((f"{home}.mergekit", f"{home}.losses"))
                assert own or name.split(".")[1] in {"config", "errors"} or ".recipe" in name, f"{path} imports {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_light_rooms_import_nothing_heavy(path: Path) -> None:
    if room_of(path) in LIGHT_ROOMS or path.name == "recipe.py":
        heavy = {name.split(".")[0] for name in imports(path, top_level=True)} & HEAVY
        assert not heavy, f"{path.relative_to(ROOT)} imports {heavy} when it is imported"


def loaded_after(code: str) -> set[str]:
    script = f"{code}\nimport sys; print(' '.join(sorted(m for m in sys.modules if '.' not in m)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_package_and_the_command_line_loads_nothing_heavy() -> None:
    loaded = loaded_after("import alignkit, alignkit.cli.main, alignkit.journey")
    assert not loaded & (HEAVY | CONFIG_LIBRARIES)


def test_help_and_check_do_not_import_torch(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n' * 40)
    for words in (["--help"], ["check", "recipe=lora", "model=smollm2-135m", f"data={rows}", "optimizer.lr=1"]):
        code = (
            "import sys\n"
            f"sys.argv = ['alignkit', *{words!r}]\n"
            "from alignkit.cli.main import entry\n"
            "try:\n    entry()\nexcept SystemExit:\n    pass"
        )
        loaded = loaded_after(code)
        assert "typer" in loaded
        assert not loaded & {"torch", "transformers", "trl", "peft", "datasets"}, words


def test_files_fit_a_sitting() -> None:
    long = {str(p.relative_to(ROOT)): n for p in modules() if (n := len(p.read_text().splitlines())) > 350}
    assert not long


def test_every_stage_folder_is_whole() -> None:
    """A stage is one folder (recipe.py with Recipe, run.py with run) and at least one shipped YAML that names it."""
    import yaml

    named = {yaml.safe_load(p.read_text()).get("stage") for p in (ROOT / "recipes").glob("*.yaml")}
    for folder in (p for p in (PACKAGE / "stages").iterdir() if p.is_dir() and p.name != "__pycache__"):
        assert (folder / "recipe.py").exists() and (folder / "run.py").exists(), folder
        assert folder.name.replace("_", "-") in named, f"no recipe names the stage {folder.name}"
