"""The index of a store: what lists and searches read instead of thousands of folders.

May be deleted at any time; it is made again from the folders. Brought up to date when somebody
reads: new folders, runs that had not ended, and those to which something was added since. Where it
cannot be written, the same tables are made in memory.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import time

from launcher.jobs import metrics, state
from launcher.jobs.store import Store, cache_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any, TypeVar

    T = TypeVar("T")

_VERSION = 1

_TABLES = """
CREATE TABLE run (
  id TEXT PRIMARY KEY, experiment TEXT, parent TEXT, type TEXT, display_name TEXT,
  description TEXT, status TEXT, reason TEXT, created REAL, started REAL, ended REAL, target TEXT,
  host TEXT, exit_code INTEGER, snapshot TEXT, git_commit TEXT, command TEXT, user TEXT,
  nodes INTEGER, processes INTEGER, bytes INTEGER, is_over INTEGER
) WITHOUT ROWID;
CREATE INDEX run_by_time ON run (created);
CREATE INDEX run_by_experiment ON run (experiment, created);
CREATE INDEX run_by_parent ON run (parent);
CREATE INDEX run_by_end ON run (is_over);
CREATE TABLE tag (run TEXT, key TEXT, value TEXT, PRIMARY KEY (run, key)) WITHOUT ROWID;
CREATE INDEX tag_by_key ON tag (key, value);
CREATE TABLE property (run TEXT, key TEXT, value TEXT, PRIMARY KEY (run, key)) WITHOUT ROWID;
CREATE TABLE argument (run TEXT, name TEXT, value, PRIMARY KEY (run, name)) WITHOUT ROWID;
CREATE TABLE metric (
  run TEXT, name TEXT, count INTEGER, last, min, max, PRIMARY KEY (run, name)
) WITHOUT ROWID;
CREATE INDEX metric_by_name ON metric (name, last);
CREATE TABLE seen (host TEXT PRIMARY KEY, offset INTEGER) WITHOUT ROWID;
"""

# Write-ahead logging needs memory that all readers share, which no network file system has.
_NETWORK = ("nfs", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb", "fuse", "9p", "afs")

# How much of the metrics of a run that goes on is read for a list: what it logged last.
_TAIL_BYTES = 64 << 10

# How long a reader waits for another's transaction before it reads what is there.
_BUSY_S = 10.0


def place(store: Store) -> str:
    """Return where the index lies: in the store, or on this host for one on a network."""
    kind = _file_system(store.root)
    if not kind.startswith(_NETWORK):
        return store.join("index.db")
    folder = os.path.join(cache_root(), "index")
    os.makedirs(folder, exist_ok=True)
    return os.path.join(folder, f"{store.info.get('id', 'unknown')}.db")


def _file_system(path: str) -> str:
    """Return the type of the file system on which a path lies."""
    path = os.path.realpath(path)
    best, kind = "", ""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                fields, _, behind = line.partition(" - ")
                mount = fields.split()[4]
                is_above = path == mount or path.startswith(mount.rstrip("/") + "/")
                if is_above and len(mount) >= len(best):
                    best, kind = mount, behind.split()[0]
    except (OSError, IndexError):
        pass
    return kind


def read(store: Store, query: Callable[[sqlite3.Connection], T]) -> T:
    """Bring the index up to date and ask it; there is an answer whatever is wrong with it."""
    for attempt in range(3):
        try:
            connection = _open(place(store))
            try:
                _update(store, connection)
                return query(connection)
            finally:
                connection.close()
        except (sqlite3.Error, OSError) as error:
            if "malformed" in str(error) or "not a database" in str(error):
                delete(store)
            elif "locked" not in str(error) and "busy" not in str(error):
                break
            time.sleep(random.uniform(0.01, 0.05) * (attempt + 1))
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        connection.executescript(_TABLES)
        _update(store, connection)
        return query(connection)
    finally:
        connection.close()


def delete(store: Store) -> None:
    """Remove the index; the next reader makes it again."""
    for ending in ("", "-wal", "-shm"):
        try:
            os.unlink(place(store) + ending)
        except OSError:
            pass


def _open(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("BEGIN IMMEDIATE")
            if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                for statement in _TABLES.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version={_VERSION}")
            connection.execute("COMMIT")
        elif version != _VERSION:
            raise sqlite3.DatabaseError(f"the index has version {version}")
        connection.execute("PRAGMA synchronous=NORMAL")
    except BaseException:
        connection.close()
        raise
    return connection


def _update(store: Store, connection: sqlite3.Connection) -> None:
    """Read what is new in the folders into the tables."""
    there = set(store.run_ids())
    known = dict(connection.execute("SELECT id, is_over FROM run"))
    gone = [run_id for run_id in known if run_id not in there]
    new = [run_id for run_id in there if run_id not in known]
    open_runs = [run_id for run_id, is_over in known.items() if not is_over and run_id in there]
    offsets = dict(connection.execute("SELECT host, offset FROM seen"))
    touched, now_seen = _read_changes(store, offsets)
    wanted = [*new, *open_runs, *(touched & there - set(new) - set(open_runs))]
    if not (gone or wanted or now_seen != offsets):
        return
    rows = [row for row in map(_Row.read, (store.run(run_id).path for run_id in wanted)) if row]
    connection.execute("BEGIN IMMEDIATE")
    try:
        for run_id in gone:
            _forget(connection, run_id)
        for row in rows:
            row.write(connection, is_new=row.run_id not in known)
        connection.executemany("INSERT OR REPLACE INTO seen VALUES (?, ?)", now_seen.items())
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _read_changes(store: Store, offsets: dict[str, int]) -> tuple[set[str], dict[str, int]]:
    """Return the runs to which something was added since, and how far was read."""
    touched: set[str] = set()
    seen = dict(offsets)
    try:
        hosts = os.listdir(store.join("changes"))
    except OSError:
        return touched, seen
    for host in hosts:
        path = store.join("changes", host)
        offset = offsets.get(host, 0)
        size = os.stat(path).st_size
        if size == offset:
            continue
        with open(path, "rb") as file:
            file.seek(offset if size > offset else 0)
            data = file.read()
        data = data[: data.rfind(b"\n") + 1]
        touched.update(data.decode(errors="replace").split())
        seen[host] = (offset if size > offset else 0) + len(data)
    return touched, seen


def _forget(connection: sqlite3.Connection, run_id: str) -> None:
    connection.execute("DELETE FROM run WHERE id = ?", (run_id,))
    _forget_details(connection, run_id)


def _forget_details(connection: sqlite3.Connection, run_id: str) -> None:
    for table in ("tag", "property", "argument", "metric"):
        connection.execute(f"DELETE FROM {table} WHERE run = ?", (run_id,))


class _Row:
    """One run as the tables hold it."""

    def __init__(self, record: state.Record) -> None:
        self.run_id = record.run.run_id
        self._record = record
        if record.end is not None:
            self._metrics = record.end.get("metrics") or {}
        else:
            self._metrics = metrics.summarize(metrics.read(record.run.metrics, _TAIL_BYTES))

    @classmethod
    def read(cls, path: str) -> _Row | None:
        """Look at a run's folder; None where there is no run in it."""
        from launcher.jobs.store import RunFolder

        record = state.look(RunFolder(path))
        return None if record is None else cls(record)

    def write(self, connection: sqlite3.Connection, *, is_new: bool) -> None:
        """Put the run into the tables."""
        if not is_new:
            _forget_details(connection, self.run_id)
        columns = self._columns()
        marks = ", ".join("?" * len(columns))
        connection.execute(f"INSERT OR REPLACE INTO run VALUES ({marks})", columns)
        added = self._record.added
        _insert(connection, "tag", self.run_id, _as_text(added.tags))
        _insert(connection, "property", self.run_id, _as_text(added.properties))
        definition = self._record.asked.get("definition") or {}
        arguments = read_arguments(definition.get("arguments") or [])
        _insert(connection, "argument", self.run_id, arguments)
        connection.executemany(
            "INSERT OR REPLACE INTO metric VALUES (?, ?, ?, ?, ?, ?)",
            [
                (self.run_id, name, entry["count"], entry["last"], entry["min"], entry["max"])
                for name, entry in self._metrics.items()
            ],
        )

    def _columns(self) -> Sequence[Any]:
        from launcher.jobs.configuration import shape_of

        record, asked = self._record, self._record.asked
        definition = asked.get("definition") or {}
        shape = shape_of(definition)
        end = record.end or {}
        return (
            self.run_id,
            asked.get("experiment"),
            asked.get("parent"),
            asked.get("type"),
            record.added.display_name,
            record.added.description,
            record.status,
            record.reason,
            record.created,
            record.started,
            record.ended,
            definition.get("target") or "local",
            (asked.get("submitter") or {}).get("host"),
            end.get("exit_code"),
            asked.get("snapshot"),
            (asked.get("git") or {}).get("commit"),
            command_of(definition),
            asked.get("user"),
            shape.num_nodes,
            shape.num_processes,
            end.get("bytes"),
            int(record.is_over),
        )


def _insert(connection: sqlite3.Connection, table: str, run_id: str, items: dict[str, Any]) -> None:
    connection.executemany(
        f"INSERT OR REPLACE INTO {table} VALUES (?, ?, ?)",
        [(run_id, key, value) for key, value in items.items()],
    )


def _as_text(items: dict[str, Any]) -> dict[str, str | None]:
    return {
        key: value if value is None or isinstance(value, str) else json.dumps(value)
        for key, value in items.items()
    }


def command_of(definition: dict[str, Any]) -> str:
    """Return what a definition runs, in one line."""
    if definition.get("command"):
        return str(definition["command"])
    return " ".join([str(definition.get("script") or ""), *(definition.get("arguments") or [])])


def read_arguments(words: Iterable[str]) -> dict[str, Any]:
    """Return the options among arguments: `--lr 0.1`, `--lr=0.1` and `lr=0.1` are lr."""
    found: dict[str, Any] = {}
    name = ""
    for word in words:
        if word.startswith("-") and not _is_number(word):
            name, equals, value = word.lstrip("-").partition("=")
            found[name] = as_number(value) if equals else ""
            name = "" if equals else name
        elif name:
            found[name] = as_number(word)
            name = ""
        elif "=" in word:
            key, _, value = word.partition("=")
            found[key] = as_number(value)
    return found


def _is_number(text: str) -> bool:
    return isinstance(as_number(text), (int, float))


def as_number(text: str) -> Any:
    """Return the number that a text is; any other text as it is."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
