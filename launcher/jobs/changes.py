"""What a working tree has that its commit has not, as git says it while a snapshot is taken."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile

from launcher.jobs import repro

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

# With nothing that a repository's own settings would run.
_DIFF = ["git", "-c", "core.fsmonitor=false", "diff", "--no-ext-diff", "--no-textconv"]
_DIFF += ["--no-color", "--relative", "HEAD", "--", "."]

# A repository that takes longer goes without.
_LONGEST_S = 5.0


class Changes:
    """The difference of a folder from its commit: asked for at once, answered when it is needed."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        # Commit, branch and remote; {} without a repository.
        self.facts = repro.git_facts(folder)
        self._process: subprocess.Popen[bytes] | None = None
        self._file: BinaryIO | None = None

    def __enter__(self) -> Changes:
        if self.facts:
            self._file = tempfile.TemporaryFile()
            try:
                self._process = subprocess.Popen(
                    _DIFF,
                    cwd=self._folder,
                    stdin=subprocess.DEVNULL,
                    stdout=self._file,
                    stderr=subprocess.DEVNULL,
                    env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
                )
            except OSError:
                pass  # there is no git
        return self

    def wait(self) -> bool:
        """Wait for git's answer; return whether anything differs."""
        if self._process is None or self._file is None:
            return False
        try:
            code = self._process.wait(_LONGEST_S)
        except subprocess.TimeoutExpired:
            return False
        return code == 0 and os.fstat(self._file.fileno()).st_size > 0

    def save(self, path: str) -> None:
        """Write the difference, in git's words, to a file."""
        if self._file is not None:
            self._file.seek(0)
            with open(path, "wb") as target:
                shutil.copyfileobj(self._file, target)

    def __exit__(self, *exc_info: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._file is not None:
            self._file.close()
