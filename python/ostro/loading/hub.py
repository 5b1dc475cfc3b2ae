"""Downloads from the Hugging Face hub, or takes from its cache, what a model needs and nothing else.

HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE are honoured by the huggingface_hub library. It is imported
on first use: it takes longer to import than a small model takes to load.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ostro.errors import CorruptFile, GatedModel, HubError, ModelNotFound, Offline, UnsupportedModel
from ostro.loading.gguf_checkpoint import part_paths
from ostro.loading.hf_checkpoint import shard_names
from ostro.loading.hub_progress import bar_class
from ostro.loading.layout import SIDE_FILES, TOKENIZER, GgufLayout, find_layout, find_mmproj
from ostro.loading.token_source import GRAMMAR, resolve_token
from ostro.loading.uqff import RESIDUAL
from ostro.loading.uqff_files import UqffLayout

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from ostro.loading.checkpoint import Progress

    Choice = Callable[[Collection[str]], list[str]]

logger = logging.getLogger(__name__)


class HubRepository:
    """A model repository, "organisation/name", at one revision (None: its main branch).

    token_source: see `resolve_token`. cache_dir: in place of the hub's own cache folder. progress: told about
    the bytes of each file that is downloaded. Methods raise the errors under HubError.
    """

    def __init__(
        self,
        repo_id: str,
        *,
        revision: str | None = None,
        token_source: str = "cache",
        cache_dir: Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.repo_id = repo_id
        self._revision = revision
        self._token = resolve_token(token_source)
        self._cache_dir = cache_dir
        self._progress = progress

    def model(
        self,
        gguf_file: str | None,
        mmproj_file: str | Path | None = None,
        uqff_files: Sequence[str] = (),
    ) -> tuple[Path, Path | None]:
        """Get what `find_layout` and `find_mmproj` choose.

        Returns a local folder, or a local GGUF file (one of a split one), and the file with its image half.
        """
        folder, files = self._snapshot(
            lambda names: _model_files(names, gguf_file, mmproj_file, uqff_files, self.repo_id)
        )
        if not _is_gguf(files[-1]):
            return folder, None
        mmproj = find_mmproj(files, GgufLayout(files[-1], ()), mmproj_file, self.repo_id)
        return folder / files[-1], None if mmproj is None else folder / mmproj

    def tokenizer(self) -> Path:
        """A local folder with tokenizer.json and the small files beside it."""
        return self._snapshot(lambda names: _tokenizer_files(names, self.repo_id))[0]

    def _snapshot(self, choose: Choice) -> tuple[Path, list[str]]:
        """A local folder and the files in it that were chosen from the repository's names."""
        from huggingface_hub import HfApi, constants

        try:
            info = HfApi(token=self._token).model_info(
                self.repo_id, revision=self._revision, timeout=constants.HF_HUB_ETAG_TIMEOUT
            )
        except Exception as error:
            # The library's errors have no common root; which HTTP client is beneath depends on its version.
            cached = self._cached(choose)
            if cached is None:
                self._refuse(error)
            if not constants.HF_HUB_OFFLINE:
                logger.warning(
                    "%s: using the cached copy, since the hub failed: %s", self.repo_id, _brief(error)
                )
            return cached
        names = {sibling.rfilename for sibling in info.siblings or ()}
        files = choose(names)
        folder = self._fetch(files[0], self._revision)
        for name in files[1:]:
            self._fetch(name, folder.name)
        for shard in _shards(folder, files):
            if shard not in names:
                raise CorruptFile(
                    f"{self.repo_id}: the index of its weights names {shard!r}, which is not there"
                )
            self._fetch(shard, folder.name)
        return folder, files

    def _fetch(self, name: str, revision: str | None) -> Path:
        """Get one file, from the cache if it is there; return the snapshot's folder."""
        from huggingface_hub import hf_hub_download

        try:
            path = hf_hub_download(
                self.repo_id,
                name,
                revision=revision,
                cache_dir=self._cache_dir,
                token=self._token,
                tqdm_class=bar_class(name, self._progress),
            )
        except Exception as error:
            self._refuse(error)
        return Path(path).parents[name.count("/")]

    def _cached(self, choose: Choice) -> tuple[Path, list[str]] | None:
        """The same from a complete cached copy."""
        from huggingface_hub import snapshot_download

        try:
            folder = Path(
                snapshot_download(
                    self.repo_id, revision=self._revision, cache_dir=self._cache_dir, local_files_only=True
                )
            )
        except Exception as error:
            # Incomplete as a repository may still be complete as a model.
            partial = getattr(error, "snapshot_path", None)
            if partial is None:
                return None
            folder = Path(partial)
        try:
            files = choose(
                {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
            )
            shards = _shards(folder, files)
            if _is_gguf(files[-1]):
                part_paths(folder / files[-1])
        except (ModelNotFound, UnsupportedModel, CorruptFile):
            return None
        return (folder, files) if all((folder / shard).is_file() for shard in shards) else None

    def _refuse(self, error: Exception) -> NoReturn:
        """Raise our error for the library's."""
        from huggingface_hub import constants, errors

        response: Any = getattr(error, "response", None)
        status = getattr(response, "status_code", None)
        code = "" if response is None else response.headers.get("X-Error-Code", "")
        page = f"{constants.ENDPOINT}/{self.repo_id}"
        give = f"set HF_TOKEN, run `hf auth login`, or give a token_source ({GRAMMAR})"
        if isinstance(error, errors.GatedRepoError) or (status in (401, 403) and code != "RepoNotFound"):
            raise GatedModel(
                f"{self.repo_id} is gated (HTTP {status}): accept its licence at {page}, then give an access "
                f"token of that account: {give}"
            ) from error
        if isinstance(error, errors.RevisionNotFoundError):
            raise ModelNotFound(
                f"{self.repo_id} has no revision {self._revision!r} on {constants.ENDPOINT}"
            ) from error
        if isinstance(error, errors.HFValidationError) or status == 404 or code == "RepoNotFound":
            raise ModelNotFound(
                f"{self.repo_id}: there is no local file or folder of that name, and no such model at {page}."
                f" If it is private: {give}"
            ) from error
        if isinstance(error, errors.OfflineModeIsEnabled) or constants.HF_HUB_OFFLINE:
            raise Offline(
                f"{self.repo_id} is not completely in the local cache, and HF_HUB_OFFLINE forbids a download"
            ) from error
        raise HubError(f"{self.repo_id}: {constants.ENDPOINT} did not deliver: {_brief(error)}") from error


def _model_files(
    names: Collection[str],
    gguf_file: str | None,
    mmproj_file: str | Path | None,
    uqff_files: Sequence[str],
    repo_id: str,
) -> list[str]:
    """Weights last: a copy that has its weights is complete."""
    layout = find_layout([name for name in names if name != mmproj_file], gguf_file, repo_id, uqff_files)
    mmproj = find_mmproj(names, layout, mmproj_file, repo_id)
    if isinstance(layout, GgufLayout):
        return [*(() if mmproj is None else (mmproj,)), *layout.files]
    side = ["config.json", *(name for name in SIDE_FILES if name in names)]
    if isinstance(layout, UqffLayout):
        return [*side, RESIDUAL, *layout.files]
    return [*side, *(() if layout.index is None else (layout.index,)), *layout.weights]


def _is_gguf(name: str) -> bool:
    return name.lower().endswith(".gguf")


def _tokenizer_files(names: Collection[str], repo_id: str) -> list[str]:
    if TOKENIZER not in names:
        raise ModelNotFound(f"{repo_id} has no {TOKENIZER}")
    return [name for name in SIDE_FILES if name in names]


def _shards(folder: Path, files: list[str]) -> tuple[str, ...]:
    index = next((name for name in files if name.endswith(".index.json")), None)
    return () if index is None else shard_names(folder / index)


def _brief(error: BaseException) -> str:
    """The kind of an error and of what caused it, with the first words of its message."""
    root = error.__cause__ or error
    kind = type(root).__name__
    return f"{kind}: {' '.join(str(root).split())[:200]}"
