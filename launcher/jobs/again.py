"""The same run once more: same code, arguments, environment."""

from __future__ import annotations

import os
import shutil
from functools import partial

from launcher.jobs.errors import JobsError
from launcher.jobs.store import RunFolder, Store
from launcher.jobs.submit import check_target, submit_snapshot

TYPE_CHECKING = False
if TYPE_CHECKING:
    from launcher.jobs.state import Record


def submit_again(old: Record, *, is_resumed: bool = False) -> RunFolder:
    """Submit what a run was asked for as a new run.

    is_resumed: the outputs of the old one are where LAUNCHER_RESUME_FROM points.
    """
    asked = old.asked
    if not asked.get("snapshot"):
        raise JobsError(f"{old.run.run_id} ran in a process of its own: there is nothing to start.")
    store = Store(os.path.dirname(os.path.dirname(old.run.path)))
    check_target(store, asked["definition"])
    kind = "resume_of" if is_resumed else "retry_of"
    kept = (
        "display_name",
        "launcher_options",
        "source_directory",
        "git",
        "interpreter",
        "warnings",
    )
    return submit_snapshot(
        store,
        asked["experiment"],
        asked["definition"],
        asked["snapshot"],
        save_diff=partial(shutil.copyfile, old.run.diff) if os.path.exists(old.run.diff) else None,
        tags=old.added.tags,
        properties={kind: old.run.run_id},
        resume_from=old.run.join("outputs") if is_resumed else asked.get("resume_from"),
        **{key: asked[key] for key in kept if key in asked},
    )
