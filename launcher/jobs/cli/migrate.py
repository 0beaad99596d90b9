"""The command `migrate`: import lines of Azure ML's SDK become those of `launcher.jobs`."""

from __future__ import annotations

import json
import re

from launcher.errors import UsageError
from launcher.jobs import names
from launcher.jobs.cli.answer import Answer

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

_FROM = re.compile(r"^([ \t]*from[ \t]+)azureml\b([\w.]*)(?=[ \t]+import\b)", re.MULTILINE)
_IMPORT = re.compile(r"^([ \t]*import[ \t]+)([^\n#;]*\bazureml\b[^\n#;]*)", re.MULTILINE)

# What a `from` line names: in brackets over many lines, or up to the end of its own.
_NAMES_OF = re.compile(
    r"^[ \t]*from[ \t]+azureml\b\.?([\w.]*)[ \t]+import[ \t]*"
    r"(?:\(([^)]*)\)|((?:[^\n\\;]|\\\n)*))",
    re.MULTILINE,
)


def migrate(options: argparse.Namespace) -> Answer:
    """Rewrite the import lines of a script or notebook, and name what has no counterpart."""
    try:
        with open(options.file, encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise UsageError(f"{options.file} cannot be read: {error.strerror}.") from None
    if options.file.endswith(".ipynb"):
        try:
            new, count, missing = _migrate_notebook(text)
        except ValueError:
            raise UsageError(f"{options.file} is no notebook: it holds no JSON object.") from None
    else:
        new, count, missing = migrate_text(text)
    if options.write:
        with open(options.file, "w", encoding="utf-8") as file:
            file.write(new)
    lines = [
        f"{count} import lines of {options.file} "
        + ("rewritten" if options.write else "would be rewritten; --write does it")
    ]
    lines += [f"no counterpart: {name}" for name in missing]
    return Answer("\n".join(lines), {"lines": count, "missing": missing}, 1 if missing else 0)


def migrate_text(text: str) -> tuple[str, int, list[str]]:
    """Return code with its import lines rewritten, how many, and what has no counterpart."""
    missing = [
        f"azureml.{module}.{name}".replace("..", ".")
        for module, inside, rest in _NAMES_OF.findall(text)
        for name in _split_names(inside or rest)
        if not names.has(module, name)
    ]
    for _, modules in _IMPORT.findall(text):
        for name in _split_names(modules):
            below = name.removeprefix("azureml").strip(".")
            if name.partition(".")[0] == "azureml" and below and not names.has("", below):
                missing.append(name)
    new, num_from = _FROM.subn(r"\1launcher.jobs\2", text)
    new, num_import = _IMPORT.subn(_rewrite_import, new)
    return new, num_from + num_import, missing


def _split_names(text: str) -> list[str]:
    """Return the names in the tail of an import line, without comments and `as`."""
    plain = re.sub(r"#[^\n]*", "", text).replace("\\", "")
    return [part.split()[0] for part in plain.split(",") if part.strip()]


def _rewrite_import(match: re.Match[str]) -> str:
    """Return an `import` line; `azureml.core.VERSION` below it goes on meaning something."""
    parts = []
    is_named = False
    for part in match[2].rstrip().split(","):
        name, _, alias = part.strip().partition(" ")
        top, _, below = name.partition(".")
        if top == "azureml":
            is_named = is_named or not alias
            if alias or below:
                parts.append(f"launcher.jobs.{below}".rstrip(".") + f" {alias}".rstrip())
        else:
            parts.append(part.strip())
    parts += ["launcher.jobs as azureml"] if is_named else []
    behind = match[2][len(match[2].rstrip()) :]
    return f"{match[1]}{', '.join(parts)}{behind}"


def _migrate_notebook(text: str) -> tuple[str, int, list[str]]:
    notebook = json.loads(text)
    if not isinstance(notebook, dict):
        raise ValueError("not an object")
    total, missing = 0, []
    for cell in notebook.get("cells", []):
        if cell.get("cell_type") != "code":
            continue
        source = cell.get("source", "")
        new, count, more = migrate_text("".join(source))
        total += count
        missing += more
        if count:
            cell["source"] = new.splitlines(keepends=True) if isinstance(source, list) else new
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", total, missing
