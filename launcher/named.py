"""`NamedTuple` as `typing` has it, made fast: each start of a launcher makes fifty such classes.

There, each annotation and each constructor is compiled when the class is made: a fifth of the
supervisor's start. Here nothing is compiled, for which an object costs a microsecond more. To type
checkers it is the same.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple as NamedTuple
else:
    from _collections import _tuplegetter

    class _Meta(type):
        """Makes a class with `name: type = default` lines into one of tuples."""

        def __new__(cls, name, bases, namespace):
            if bases and bases[0].__class__ is cls and not bases[0]._fields:
                fields = tuple(namespace.get("__annotations__", ()))
                defaults = {field: namespace[field] for field in fields if field in namespace}
                if tuple(defaults) != fields[len(fields) - len(defaults) :]:
                    raise TypeError(f"{name}: a field without a default follows one that has it")
                for place, field in enumerate(fields):
                    namespace[field] = _tuplegetter(place, "")
                namespace.update(
                    _fields=fields, _field_defaults=defaults, __match_args__=fields, __slots__=()
                )
            return super().__new__(cls, name, bases, namespace)

        @property
        def __signature__(cls):
            from inspect import Parameter, Signature

            return Signature(
                [
                    Parameter(
                        field,
                        Parameter.POSITIONAL_OR_KEYWORD,
                        default=cls._field_defaults.get(field, Parameter.empty),
                        annotation=cls.__annotations__[field],
                    )
                    for field in cls._fields
                ]
            )

    class NamedTuple(tuple, metaclass=_Meta):
        """A tuple whose places have names, types and defaults."""

        __slots__ = ()
        _fields = ()
        _field_defaults = {}  # noqa: RUF012 - nobody changes it

        def __new__(cls, *values, **named):
            fields = cls._fields
            if named or len(values) != len(fields):
                if len(values) > len(fields):
                    raise TypeError(f"{cls.__name__} has only {len(fields)} fields")
                values = [*values]
                defaults = cls._field_defaults
                for field in fields[len(values) :]:
                    if field in named:
                        values.append(named.pop(field))
                    elif field in defaults:
                        values.append(defaults[field])
                    else:
                        raise TypeError(f"{cls.__name__} is made without `{field}`")
                if named:
                    what = "twice" if next(iter(named)) in fields else "which is none of its fields"
                    raise TypeError(f"{cls.__name__} is given `{next(iter(named))}`, {what}")
            return tuple.__new__(cls, values)

        @classmethod
        def _make(cls, values):
            return cls(*values)

        def _replace(self, **named):
            return self.__class__(**{**self._asdict(), **named})

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def __repr__(self):
            fields = (f"{field}={value!r}" for field, value in zip(self._fields, self, strict=True))
            return f"{self.__class__.__name__}({', '.join(fields)})"

        def __getnewargs__(self):
            return tuple(self)
