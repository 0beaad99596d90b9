"""Options that are declared once: a class lists its fields, all else is derived from them.

A field is `name: type = option("--flag", default=..., help=...)`. From it follow both spellings of
the flag, the `PET_NAME` variable, the conversion of text, the help line, and the way back to an
argument list. It is no dataclass, because `dataclasses` imports `inspect`, which costs more than
parsing a command line. This file knows no single option. The environment is an
argument; `argparse` is left to `help.py`.
"""

from __future__ import annotations

from launcher.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from typing import Any, ClassVar, TypeVar

    from typing_extensions import Self, dataclass_transform

    _T = TypeVar("_T")
    # The flag as it was typed, or the variable, and the text of its value; True for a switch.
    Given = tuple[str, str | bool]
else:

    def dataclass_transform(**_):
        """Do nothing: only type checkers look at it."""
        return lambda cls: cls


PROG = "python -m launcher"

_REQUIRED: Any = object()


class Option:
    """One field of an `Options` class, with everything that is known about it."""

    def __init__(
        self,
        *flags: str,
        default: object = _REQUIRED,
        help: str = "",  # noqa: A002  (the word that argparse has for it)
        group: str = "",
        metavar: str = "",
        choices: tuple[str, ...] = (),
        example: str = "",
        minimum: float | None = None,
        also_env: str = "",
        ignored: str = "",
    ) -> None:
        self.flags = flags
        self.default = default
        self.help = help
        self.group = group
        self.metavar = metavar
        self.choices = choices
        self.example = example
        self.minimum = minimum
        self.also_env = also_env
        self.ignored = ignored
        self.name = ""
        self.kind = "str"

    def bind(self, name: str, kind: str) -> None:
        """Learn the field's name, and its type as in the source, which annotations keep."""
        self.name = name
        self.kind = kind.replace(" | None", "")

    @property
    def is_list(self) -> bool:
        """Whether it may be given several times, and then all of it counts."""
        return self.kind.startswith("tuple")

    @property
    def flag(self) -> str:
        """The spelling to show: the long one with hyphens."""
        return self.flags[-1]

    @property
    def spellings(self) -> tuple[str, ...]:
        """Every option string that is accepted; torchrun's older spelling has underscores."""
        underscored = "--" + self.flag[2:].replace("-", "_")
        return self.flags if underscored == self.flag else (*self.flags, underscored)

    @property
    def env(self) -> str:
        """The environment variable that stands for this option."""
        return f"PET_{self.name.upper()}"

    @property
    def is_switch(self) -> bool:
        """Whether the flag takes no value."""
        return self.kind == "bool"

    def parse(self, text: str | bool, source: str) -> object:
        """Convert the text behind the flag or in the variable `source`; UsageError if not valid."""
        if isinstance(text, bool):
            return text
        try:
            value = _PARSERS[self.kind](text)
        except ValueError:
            raise self.error(source, text, f"must be {_NAMES[self.kind]}") from None
        self.check(value, source)
        return value

    def check(self, value: object, source: str) -> None:
        """Raise UsageError when the value is outside of the choices or below the minimum."""
        if self.choices and value is not None and value not in self.choices:
            raise self.error(source, value, f"must be one of: {', '.join(self.choices)}")
        if (
            self.minimum is not None
            and isinstance(value, (int, float))
            and not value >= self.minimum
        ):
            raise self.error(source, value, f"must be {self.minimum:g} or more")

    def coerce(self, value: object) -> object:
        """Return a value given by a program as the field's type; UsageError for another type."""
        if value is None and self.default is None:
            return None
        if self.kind in ("str", "float") and type(value) is int:
            return _PARSERS[self.kind](str(value))
        if self.kind.startswith("tuple") and isinstance(value, list):
            return tuple(value)
        if self.kind in _TYPES and type(value) is not _TYPES[self.kind]:
            wanted = _TYPES[self.kind].__name__
            raise UsageError(
                f"{self.name}={value!r}: must be of type {wanted}, not {type(value).__name__}."
            )
        return value

    def error(self, source: str, value: object, problem: str) -> UsageError:
        """Return the error that names the flag or variable, its value, and what to type."""
        text = self.unparse(value)
        if source.startswith("-"):
            shown = f"{source} {text or repr(text)}"
            hint = f"Type for example: {PROG} {self.flag} {self._example()} SCRIPT"
        else:
            shown = f"{source}={text}"
            hint = f"Type for example: export {source}={self._example()}"
        return UsageError(f"{shown}: {problem}.", hint=hint)

    def _example(self) -> str:
        if self.example or self.choices:
            return self.example or self.choices[0]
        return "1" if self.is_switch else self.unparse(self.default)

    def unparse(self, value: object) -> str:
        """Return the value as it is typed on a command line."""
        if isinstance(value, tuple):
            return ",".join(value)
        if isinstance(value, bool):
            return str(int(value))
        return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def option(*flags: str, default: _T = _REQUIRED, **details: Any) -> _T:
    """Declare a field; without flags it is a plain value, without default it must be given.

    `details` are those of `Option`: help, group, metavar, choices, example (a value that works, for
    error messages), minimum, also_env (a variable that counts when the PET_ one is not set),
    ignored (why the option is accepted but has no meaning here).
    """
    # The class replaces it by the field's value.
    return Option(*flags, default=default, **details)  # type: ignore[return-value]


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(option,))
class Options:
    """Base of a frozen value object whose fields are options; a subclass lists them."""

    options: ClassVar[dict[str, Option]] = {}

    def __init_subclass__(cls) -> None:
        cls.options = dict(cls.options)
        for name, kind in cls.__annotations__.items():
            declared = cls.__dict__.get(name)
            if isinstance(declared, Option):
                declared.bind(name, kind)
                cls.options[name] = declared
                delattr(cls, name)

    def __init__(self, **values: object) -> None:
        state = vars(self)
        for name, field in self.options.items():
            value = values.pop(name, field.default)
            if value is _REQUIRED:
                raise TypeError(f"{type(self).__name__} needs {name}=")
            state[name] = field.coerce(value)
        if values:
            raise TypeError(f"{type(self).__name__} has no field {', '.join(values)}")
        for name, field in self.options.items():
            field.check(state[name], self.find_source(name))
        self.validate()

    def validate(self) -> None:
        """Raise UsageError when values contradict each other; called once, when all are set."""

    def find_source(self, name: str) -> str:
        """Return the flag or variable that a value came from; the flag for a default."""
        source = vars(self).get("provenance", {}).get(name, "default")
        return (
            source
            if source != "default" or not self.options[name].flags
            else self.options[name].flag
        )

    def error(self, name: str, problem: str, hint: str = "") -> UsageError:
        """Return the error for one field, named as the user gave it, with `hint` or an example."""
        error = self.options[name].error(self.find_source(name), getattr(self, name), problem)
        return UsageError(error.message, hint=hint or error.hint)

    def to_argv(self, always: Collection[str] = ()) -> list[str]:
        """Return the options that differ from their default as arguments: parsing reversed.

        always: names of options that are given also where they do not differ.
        """
        argv: list[str] = []
        for name, field in self.options.items():
            value = getattr(self, name)
            if field.flags and (value != field.default or name in always):
                argv.append(
                    field.flag if field.is_switch else f"{field.flag}={field.unparse(value)}"
                )
        return argv

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen; use replace({name}=...)")

    def replace(self, **changes: object) -> Self:
        """Return a copy with some fields changed, validated anew."""
        return type(self)(**{**vars(self), **changes})

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._compared() == other._compared()

    def __hash__(self) -> int:
        return hash(tuple(self._compared().values()))

    def _compared(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "provenance"}

    def __repr__(self) -> str:
        changed = (
            f"{n}={v!r}" for n, v in self._compared().items() if v != self.options[n].default
        )
        return f"{type(self).__name__}({', '.join(changed)})"

    @classmethod
    def from_sources(
        cls, given: Mapping[str, Given], environ: Mapping[str, str], **plain: object
    ) -> Self:
        """Build from what was typed, else the environment, else the defaults.

        It is remembered which of them gave each value.

        `given` maps a field's name to the flag as typed and its text; `plain` are fields without a
        flag.
        """
        values: dict[str, object] = dict(plain)
        provenance = {}
        for name, field in cls.options.items():
            source, text = given[name] if name in given else _from_environment(field, environ)
            if source != "default":
                values[name] = field.parse(text, source)
            if field.flags:
                provenance[name] = source
        return cls(**values, provenance=provenance)


def _from_environment(field: Option, environ: Mapping[str, str]) -> Given:
    for variable in (field.env, field.also_env) if field.flags else ():
        if variable in environ:
            return variable, environ[variable]
    return "default", ""


def _parse_switch(text: str) -> bool:
    # torchrun reads these variables as numbers: PET_STANDALONE=0 is off, every other number is on.
    return bool(int(text))


def _parse_list(text: str) -> tuple[str, ...]:
    return tuple(item.strip() for item in text.split(",")) if text else ()


_PARSERS: dict[str, Callable[[str], object]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": _parse_switch,
    "tuple[str, ...]": _parse_list,
}
_TYPES = {"str": str, "int": int, "float": float, "bool": bool, "tuple[str, ...]": tuple}
_NAMES = {"int": "a whole number", "float": "a number", "bool": "0 or 1"}
