"""Who may import whom: the table that keeps the packages apart.

oncrpc imports nothing of ours; nfssvc_shim only oncrpc.xdr; nfsserver (it runs in workers alone) oncrpc and nfssvc_shim; the
daemons and tools those two, never nfsserver, never one another.
"""
from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("oncrpc", "nfssvc_shim", "nfsserver", "nfsd_master", "mountd", "portmap", "nfsstat", "lockd", "statd")
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "oncrpc": (),
    "nfssvc_shim": ("oncrpc.xdr",),
    "nfsserver": ("oncrpc", "nfssvc_shim"),
    "nfsd_master": ("oncrpc", "nfssvc_shim"),
    "mountd": ("oncrpc", "nfssvc_shim"),
    "portmap": ("oncrpc",),
    "nfsstat": ("oncrpc", "nfssvc_shim"),
    "lockd": ("oncrpc", "nfssvc_shim"),
    "statd": ("oncrpc", "nfssvc_shim"),
}
# Workers are many and start while clients wait: the standard library and our own code only.
FOREIGN_TO_WORKERS = ("pyroute2", "rich", "prometheus_client", "numpy")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Dotted names of all imports in a file, those inside functions too; relative ones made absolute."""
    package = ".".join(path.relative_to(ROOT).parts[:-1])
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(filter(None, [*package.split(".")[:len(package.split(".")) - node.level + 1], base]))
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def allowed(name: str, package: str) -> bool:
    return any(f"{name}.".startswith(f"{prefix}.") for prefix in (package, *MAY_IMPORT[package]))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_of_ours_stay_within_the_table(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    ours = {name for name in imported(path) if name.split(".")[0] in PACKAGES}
    assert {name for name in ours if not allowed(name, package)} == set()


@pytest.mark.parametrize("path", [path for path in FILES if path.relative_to(ROOT).parts[0] in ("oncrpc", "nfsserver")],
                         ids=lambda path: str(path.relative_to(ROOT)))
def test_workers_import_the_standard_library_and_our_own_code(path: Path) -> None:
    if path.name == "_build.py":
        pytest.skip("a build script: not imported by workers")
    known = sys.stdlib_module_names | set(PACKAGES) | {"__future__", "_cffi_backend"}
    assert {name.split(".")[0] for name in imported(path)} - known <= OPTIONAL


# python-prctl gives a worker its name in ps; it is small, and absent on no supported machine.
OPTIONAL = {"prctl"}


def test_a_worker_loads_nothing_heavy() -> None:
    code = ("import sys, nfsserver.worker; "
            f"print(*(name for name in {FOREIGN_TO_WORKERS!r} + ('asyncio', 'email', 'http') if name in sys.modules))")
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert ran.stdout.split() == []
