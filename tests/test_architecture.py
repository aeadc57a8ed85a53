"""The rule of layers: an import only ever points down, and the lower half does no I/O."""

import ast
from pathlib import Path

import pytest

import qpsmtpd

ROOT = Path(qpsmtpd.__file__).parent

LAYERS = {  # from the top; a module may import its own layer and those below
    "cli": 4, "__main__": 4, "certificates": 4, "passwords": 2, "daemon": 4, "sample": 4, "testing": 4,
    "supervisor": 4, "crew": 4, "slots": 4, "processes": 4, "options": 4, "recording": 4, "compare": 4, "explain": 4, "fuzz": 4, "shadow": 4,
    "transports": 3,
    "session": 2, "plugin": 2, "loader": 2, "config": 2, "networks": 2, "plugins": 2, "site": 2, "resolver": 2, "store": 2, "census": 2, "logs": 2, "dsn": 2,
    "protocol": 1, "": 1,
}  # fmt: skip

FORBIDDEN_IN_SESSION = {"asyncio", "trio", "anyio", "threading", "selectors", "select", "concurrent"}


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            if node.module in {"qpsmtpd", "qpsmtpd.transports", "qpsmtpd.protocol"}:
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part(module: str) -> str:
    words = module.split(".")
    return words[1] if len(words) > 1 and words[1] in LAYERS else ""


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if own == "__init__":
        return  # the package itself only re-exports, when asked
    for module in imports(path):
        if module.split(".")[0] == "qpsmtpd":
            assert LAYERS[part(module)] <= LAYERS[own], f"{path} imports {module}"


@pytest.mark.parametrize(
    "path",
    [p for p in modules() if LAYERS.get(p.relative_to(ROOT).parts[0].removesuffix(".py")) == 2],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_a_session_has_no_loop_and_no_thread(path):
    forbidden = {module.split(".")[0] for module in imports(path)} & FORBIDDEN_IN_SESSION
    if path.name in {"census.py", "store.py"} or "plugins" in path.parts:  # shared by the threads of a driver
        assert path.read_text().count("threading.") == path.read_text().count("threading.Lock()")  # and starting none
        forbidden -= {"threading", "concurrent"}
        assert "Executor" not in path.read_text()
    if path.name == "resolver.py" or "plugins" in path.parts:  # what plugins wait for is anyio's, on any loop
        forbidden -= {"anyio"}
    assert not forbidden


@pytest.mark.parametrize("path", sorted((ROOT / "transports").glob("*.py")), ids=lambda path: path.name)
def test_a_transport_knows_no_smtp(path):
    text = path.read_text()
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith(("#", '"""')))
    for word in ("EHLO", "STARTTLS", "Reply", "protocol", "verdict", "b'", "CRLF"):
        assert word not in code, f"{path.name} speaks of {word}"
    assert not [module for module in imports(path) if module.startswith("qpsmtpd.protocol")]
