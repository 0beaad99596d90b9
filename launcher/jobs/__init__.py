"""The run layer, by its public names: submit, follow, compare and keep runs on your own machines.

Owns where each name lives; all are resolved at first use, because every rank that logs a metric
imports this package.
"""

from launcher.jobs import names

__all__ = sorted(names.HOME)


def __getattr__(name: str) -> object:
    value = names.resolve(name)
    globals()[name] = value  # the next use does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


names.install("launcher.jobs")
