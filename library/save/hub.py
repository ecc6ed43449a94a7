"""Upload of saved files and state folders to the Hugging Face hub.

The token comes from the environment or as an argument, goes to the client and is kept nowhere else.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from library.config.run_config import HubConfig
from library.util.records import Problem, UserError
from library.util.said import say
from library.util.secrets import mask, reason

if TYPE_CHECKING:
    from huggingface_hub import HfApi

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StatePlace:
    """Where a state folder is on the hub."""

    repo_id: str
    folder: str
    revision: str | None = None
    repo_type: str | None = None

    @classmethod
    def read(cls, typed: str) -> StatePlace:
        """``user/repo/folder[:revision[:repo_type]]``, kohya's spelling; UserError for anything else."""
        place, *rest = typed.split(":")
        user, _, inner = place.partition("/")
        repo, _, folder = inner.partition("/")
        if not (user and repo and folder) or len(rest) > 2:
            raise UserError(Problem("--resume", say('"{typed}" names no state on the hub.', typed=typed),
                                    "With --resume_from_huggingface write user/repository/folder, or "
                                    "user/repository/folder:revision."))
        return cls(f"{user}/{repo}", folder.strip("/"), *rest)


def fetch_state(typed: str, token: str | None = None) -> Path:
    """Download a state folder from the hub and give its place on this machine.

    Raises UserError where the hub has no such folder or cannot be reached.
    """
    from huggingface_hub import snapshot_download

    place = StatePlace.read(typed)
    try:
        root = snapshot_download(place.repo_id, revision=place.revision, repo_type=place.repo_type, token=token,
                                 allow_patterns=f"{place.folder}/**")
    except Exception as error:
        raise UserError(
            Problem(
                f"--resume {typed}",
                say(
                    "The hub did not give it ({kind}: {reason}).",
                    kind=type(error).__name__,
                    reason=reason(error),
                ),
                "Check name and token, or download the folder and give its path without --resume_from_huggingface.",
            )
        ) from error
    folder = Path(root) / place.folder
    if not folder.is_dir():
        raise UserError(
            Problem(
                f"--resume {typed}",
                say("{repo_id} has no folder {folder}.", repo_id=place.repo_id, folder=place.folder),
                "Look at the repository's files for its name.",
            )
        )
    return folder


class Uploader:
    """Sends files to one repository, at once or one after another in the background."""

    def __init__(self, config: HubConfig, token: str | None = None):
        """``token`` None: huggingface_hub's own order (HF_TOKEN, the cached login)."""
        from huggingface_hub import HfApi

        self._config = config
        self._api: HfApi = HfApi(token=token)
        self._pool = ThreadPoolExecutor(max_workers=1) if config.async_upload else None
        self._pending: list[Future[None]] = []

    def prepare(self) -> None:
        """Make the repository unless it is there.

        Raises UserError where the hub refuses: wrong token, no right to write, wrong name.
        """
        try:
            self._api.create_repo(self._config.repo_id, repo_type=self._config.repo_type, exist_ok=True,
                                  private=self._config.visibility == "private")
        except Exception as error:
            raise self._refused(error) from error

    def upload(self, path: Path, in_repo: str | None = None) -> None:
        """Send a file or a folder; a failure is logged and does not end the run."""
        if self._pool is None:
            self._send(path, in_repo)
        else:
            self._pending.append(self._pool.submit(self._send, path, in_repo))

    def finish(self) -> None:
        """Wait for what is still under way."""
        for future in self._pending:
            future.result()
        self._pending.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True)

    def _send(self, path: Path, in_repo: str | None) -> None:
        target = "/".join(part for part in (self._config.path_in_repo, in_repo or path.name) if part)
        where: dict[str, Any] = {"repo_id": self._config.repo_id, "repo_type": self._config.repo_type,
                                 "path_in_repo": target}
        try:
            if path.is_dir():
                self._api.upload_folder(folder_path=str(path), **where)
            else:
                self._api.upload_file(path_or_fileobj=str(path), **where)
        except Exception as error:
            # The network and the hub are foreign; a run of hours must not end because an upload did.
            logger.error("upload of %s to %s failed: %s", path.name, self._config.repo_id, mask(str(error)))
        else:
            logger.info("uploaded %s to %s", path.name, self._config.repo_id)

    def _refused(self, error: Exception) -> UserError:
        return UserError(
            Problem(
                f"--huggingface_repo_id {self._config.repo_id}",
                say("The hub refused it ({kind}: {reason}).", kind=type(error).__name__, reason=reason(error)),
                "Log in with `hf auth login` or set HF_TOKEN to a token that may write to this "
                "repository; check the name (user/repository).",
            )
        )
