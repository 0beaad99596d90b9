"""The files of a run, as its users ask for them: list, download, upload, register."""

from __future__ import annotations

import os

from launcher.jobs.recorder import Recorder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from launcher.jobs.model import Model


class RunFiles(Recorder):
    """The part of a run that has files."""

    def get_file_names(self) -> list[str]:
        """Return the names of its files: outputs, logs, pictures and what was uploaded."""
        from launcher.jobs import files

        return files.names_of(self._folder, self._asked)

    def download_file(
        self, name: str, output_file_path: str | None = None, _validate_checksum: bool = False
    ) -> None:
        """Copy one of its files here, or to a path; to a folder under its own name."""
        from launcher.jobs import files

        target = output_file_path or os.path.basename(name)
        if output_file_path and (target.endswith(os.sep) or os.path.isdir(target)):
            target = os.path.join(target, os.path.basename(name))
        files.save(self._folder, self._asked, name, target)

    def download_files(
        self,
        prefix: str | None = None,
        output_directory: str | None = None,
        output_paths: Sequence[str] | None = None,
        batch_size: int = 100,
        append_prefix: bool = True,
    ) -> None:
        """Copy all files whose names begin with `prefix`."""
        from launcher.jobs import files

        start = files.clean_name(prefix) if prefix else ""
        names = [name for name in self.get_file_names() if name.startswith(start)]
        for index, name in enumerate(names):
            if output_paths is not None:
                target = output_paths[index]
            else:
                below = name if append_prefix else os.path.relpath(name, start or ".")
                target = os.path.join(output_directory or ".", below)
            files.save(self._folder, self._asked, name, target)

    def upload_file(self, name: str, path_or_stream: Any) -> None:
        """Keep a file with the run, under this name."""
        from launcher.jobs import files

        files.add(self._folder, name, path_or_stream)

    def upload_files(self, names: Sequence[str], paths: Sequence[Any]) -> None:
        """Keep several files with the run."""
        for name, path in zip(names, paths, strict=True):
            self.upload_file(name, path)

    def upload_folder(self, name: str, path: str) -> None:
        """Keep all files of a folder with the run, below this name."""
        for folder, _, names in os.walk(path):
            below = os.path.relpath(folder, path)
            for file in names:
                self.upload_file(
                    os.path.normpath(os.path.join(name, below, file)), os.path.join(folder, file)
                )

    def get_all_logs(self, destination: str | None = None) -> list[str]:
        """Write all logs into a folder; return their paths."""
        from launcher.jobs import files

        folder = destination or "."
        paths = []
        for name in files.log_names(self._folder, self._asked):
            paths.append(os.path.join(folder, name))
            files.save(self._folder, self._asked, name, paths[-1])
        return paths

    def register_model(
        self,
        model_name: str,
        model_path: str | None = None,
        tags: dict[str, Any] | None = None,
        properties: dict[str, Any] | None = None,
        model_framework: object = None,
        model_framework_version: str | None = None,
        description: str | None = None,
        **more: object,
    ) -> Model:
        """Register a file or folder of the run's outputs as the next version of a model."""
        from launcher.jobs.model import register_from_run

        return register_from_run(
            self._folder,
            model_name,
            model_path,
            tags=tags,
            properties=properties,
            framework=model_framework,
            framework_version=model_framework_version,
            description=description,
        )
