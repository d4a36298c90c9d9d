"""Two modules alone can open raw footage: the anonymizer and the one that subject requests lead to."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = [ROOT / name for name in ("agents", "models", "schemas")]
OPENERS = {"agents/anonymize.py", "agents/footage/reveal.py"}


@cache
def modules() -> tuple[tuple[str, ast.Module], ...]:
    paths = [path for package in PACKAGES for path in sorted(package.rglob("*.py"))]
    return tuple((str(path.relative_to(ROOT)), ast.parse(path.read_text())) for path in paths)


def imported(tree: ast.Module) -> Iterator[str]:
    """Every name that a module imports, in full."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def using(*names: str) -> set[str]:
    return {module for module, tree in modules() if not set(names).isdisjoint(imported(tree))}


def test_no_other_module_imports_what_opens_raw_frames():
    sealing = "sfumato.agents.footage.sealing"
    assert using(f"{sealing}.Opener", f"{sealing}.Ciphers") - {"agents/footage/sealing.py"} == OPENERS
    assert using(sealing, "sfumato.agents.footage.*", f"{sealing}.*") == set()
    whole = using("sfumato.agents.footage.sealing.Sealer", sealing)
    assert whole == {"agents/ingest.py"}, "which seals alone"


def test_no_module_imports_the_package_to_get_at_it_by_name():
    assert using("sfumato.agents.footage.sealing") | using("sfumato.agents.footage") == set()
    dynamic = {
        module
        for module, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", getattr(node.func, "id", "")) in ("import_module", "__import__")
    }
    assert not [module for module in dynamic if module.startswith("agents/")]  # models import no agents


def test_the_bridge_does_not_import_it_even_by_others():
    """What the bridge imports, followed to its end, does not lead to what opens frames."""
    graph = {module: {name for name in imported(tree) if name.startswith("sfumato.")} for module, tree in modules()}
    seen, left = set(), ["agents/bridge.py"]
    while left:
        module = left.pop()
        if module in seen:
            continue
        seen.add(module)
        for name in graph[module]:
            parts = name.removeprefix("sfumato.").split(".")
            for end in range(len(parts), 0, -1):
                path = "/".join(parts[:end]) + ".py"
                if path in graph:
                    left.append(path)
                    break
    assert len(seen) > 50
    assert not seen & {"agents/footage/reveal.py", "agents/subjects/clerk.py", "agents/footage/sealing.py"}


def test_raw_frames_are_consumed_by_these_alone():
    """Besides those that create and check topics, give access to them, or look how long they are kept."""
    topic = "sfumato.schemas.topics.FRAMES_RAW"
    others = {"agents/ingest.py", "agents/app.py", "agents/provision.py", "agents/reveal_commands.py"}
    others |= {"agents/acls.py", "agents/dossier/measures.py", "agents/ledger/account.py"}
    assert using(topic) - others <= OPENERS
    assert "agents/footage/reveal.py" in using(topic)
