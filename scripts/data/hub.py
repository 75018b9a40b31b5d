"""Repositories of the Hugging Face hub, through its own client; what goes wrong there, said in one sentence.

Nothing here decides a commit: who asks for files gives the one that stands in ``config/data.lock``.
"""

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scripts.common.environment import LAUNCH
from scripts.common.errors import UserError
from scripts.components.making import lock_command
from scripts.components.templates import Bos, Join
from scripts.data import encoding
from scripts.store.fingerprint import file_sha256

TOKENIZER_FILES = (*encoding.FILES, "tokenizer.model", "added_tokens.json")


@dataclass(frozen=True)
class Repository:
    """A repository of the hub."""

    kind: Literal["dataset", "model"]
    name: str

    def commit(self) -> str:
        """The commit that ``main`` points to now; where the hub is out of reach, the one that it does in the cache.

        Raises:
            UserError: there is none either, or the hub does not answer.
        """
        with self._plainly():
            from huggingface_hub import HfApi
            from huggingface_hub.errors import OfflineModeIsEnabled

            try:
                return str(HfApi().repo_info(self.name, repo_type=self.kind).sha)
            except (OfflineModeIsEnabled, _http_error()) as error:
                if commit := self._cached_branches(error).get("main"):
                    return commit
                raise

    def branches(self) -> dict[str, str]:
        """Every branch and the commit that it points to now; where the hub is out of reach, those in the cache.

        Raises:
            UserError: there is none either, or the hub does not answer.
        """
        with self._plainly():
            from huggingface_hub import HfApi
            from huggingface_hub.errors import OfflineModeIsEnabled

            try:
                refs = HfApi().list_repo_refs(self.name, repo_type=self.kind)
                return {branch.name: branch.target_commit for branch in refs.branches}
            except (OfflineModeIsEnabled, _http_error()) as error:
                if cached := self._cached_branches(error):
                    return cached
                raise

    def files(self, revision: str) -> dict[str, str | None]:
        """Path of every file at a commit to its SHA-256, as far as the hub knows it (large files).

        Where the hub is out of reach, a listing that the client has in its cache is as good: a commit never changes. Of
        a model the files that are in the cache will do: what it lacks without the others is seen. Not of a dataset,
        which would only have fewer records.

        Raises:
            UserError: neither is there.
        """
        with self._plainly(revision):
            from huggingface_hub import HfApi, get_cached_repo_tree
            from huggingface_hub.errors import CachedRepoTreeNotFoundError, OfflineModeIsEnabled

            try:
                info = HfApi().repo_info(self.name, repo_type=self.kind, revision=revision, files_metadata=True)
            except (OfflineModeIsEnabled, _http_error()):
                with suppress(CachedRepoTreeNotFoundError):
                    tree = get_cached_repo_tree(self.name, repo_type=self.kind, revision=revision)
                    return {file.path: None for file in tree}
                if self.kind == "model" and (paths := self._cached_files(revision)):
                    return dict.fromkeys(paths)
                raise
            siblings = getattr(info, "siblings", None) or []
            return {file.rfilename: file.lfs.sha256 if file.lfs else None for file in siblings}

    def download(self, path: str, revision: str, sha256: str | None, cache: Path | None = None) -> Path:
        """A file at a commit, from the hub's cache where it is in there already.

        Args:
            path: of the file in the repository.
            sha256: what `files` says of it; a file that differs is refused.
            cache: where to put what is not in the hub's own cache; the hub's own, if None.

        Raises:
            UserError: it cannot be had, or is not what the hub says it is.
        """
        with self._plainly(revision, path):
            from huggingface_hub import hf_hub_download, try_to_load_from_cache
            from huggingface_hub.utils.tqdm import disable_progress_bars

            if not sys.stderr.isatty():
                disable_progress_bars()  # a bar would fill the job's log
            cached = try_to_load_from_cache(self.name, path, revision=revision, repo_type=self.kind)
            if isinstance(cached, str):
                cache = None
            file = Path(hf_hub_download(self.name, path, repo_type=self.kind, revision=revision, cache_dir=cache))
        if sha256 is not None and file_sha256(file) != sha256:
            raise UserError(f"{file}: is not the file that the hub describes; delete it and start the command again")
        return file

    def size(self, path: str, revision: str) -> int:
        """Bytes of a file at a commit; 0 of one that is in the hub's cache.

        Raises:
            UserError: the hub cannot be asked, or does not show it.
        """
        with self._plainly(revision, path):
            from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

            if isinstance(try_to_load_from_cache(self.name, path, revision=revision, repo_type=self.kind), str):
                return 0
            url = hf_hub_url(self.name, path, repo_type=self.kind, revision=revision)
            return get_hf_file_metadata(url).size or 0

    def take(self, files: Mapping[str, str | None], revision: str, out: Path, scratch: Path) -> None:
        """Puts files at a commit into `out`, under their own names, without keeping a second copy of anything large.

        What is in the hub's cache already gets a second name (a hard link; a copy where the cache lies on another
        filesystem). The rest is downloaded into `scratch` and gets its second name there: a job that is killed finds
        it again, and the store removes the first name when the product is complete.

        Args:
            files: those of `files` that are wanted, all in the repository's root.
            scratch: a directory on the filesystem of `out` that survives an interrupted job.

        Raises:
            UserError: one of them cannot be had, or is not what the hub says it is.
        """
        found = {}
        for number, (path, sha256) in enumerate(files.items(), start=1):
            print(f"{self}: {path} ({number} of {len(files)})", file=sys.stderr, flush=True)
            found[path] = self.download(path, revision, sha256, scratch).resolve()
        for path, file in found.items():
            try:
                os.link(file, out / path)
            except OSError:  # another filesystem, or one without links
                shutil.copyfile(file, out / path)

    @property
    def _cache(self) -> Path:
        """Where the client keeps the repository: ``refs/BRANCH``, ``snapshots/COMMIT/PATH``, ``trees/COMMIT.json``."""
        from huggingface_hub import constants

        return Path(constants.HF_HUB_CACHE) / f"{self.kind}s--{self.name.replace('/', '--')}"

    def _cached_branches(self, error: Exception) -> dict[str, str]:
        """The branches in the cache; none where the hub was reached, whatever it answered with."""
        from huggingface_hub.errors import HfHubHTTPError

        refs = self._cache / "refs"
        if isinstance(error, HfHubHTTPError) or not refs.is_dir():
            return {}
        found = {
            path.relative_to(refs).as_posix(): path.read_text().strip() for path in refs.rglob("*") if path.is_file()
        }
        print(f"{self}: the hub is out of reach; its commit is the one in {refs}", file=sys.stderr)
        return found

    def _cached_files(self, revision: str) -> list[str]:
        """The files of a commit that are in the cache."""
        snapshot = self._cache / "snapshots" / revision
        found = sorted(path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file())
        if found:
            print(f"{self}: the hub is out of reach; its files are those in {snapshot}", file=sys.stderr)
        return found

    @contextmanager
    def _plainly(self, revision: str = "", path: str = "") -> Iterator[None]:
        """Lets the client reach the hub; its errors become sentences."""
        if LAUNCH in os.environ:
            # A launch keeps its jobs from waiting for a hub (scripts.launch.launch.begin). This one is here to ask it.
            # The client reads the variable when it is imported.
            os.environ["HF_HUB_OFFLINE"] = "0"
        from huggingface_hub import errors

        try:
            yield
        except errors.GatedRepoError as error:
            raise UserError(self._gated(error.response.status_code, revision)) from error
        except errors.RevisionNotFoundError as error:
            raise UserError(
                f"{self}: the hub has no commit {revision[:12] or 'main'} of it; lock it anew with `{lock_command()}`"
            ) from error
        except errors.RemoteEntryNotFoundError as error:
            raise UserError(f"{self}: has no file {path} at the commit {revision[:12]}") from error
        except errors.HfHubHTTPError as error:
            raise UserError(self._refused(error.response.status_code)) from error
        except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, _http_error()) as error:
            cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else error
            if isinstance(cause, errors.HfHubHTTPError):
                raise UserError(self._refused(cause.response.status_code)) from error
            raise UserError(self._unreachable(revision, path, cause)) from error
        except ValueError as error:
            raise UserError(f"{self}: what answers for {self._page} is no hub; is HF_ENDPOINT right?") from error

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    @property
    def _page(self) -> str:
        from huggingface_hub import constants

        return f"{constants.ENDPOINT}/{'datasets/' if self.kind == 'dataset' else ''}{self.name}"

    def _by_hand(self, revision: str) -> str:
        """What fills the cache so that no hub has to be asked: `hf download` writes what a copy of the files lacks."""
        kind = "--repo-type dataset " if self.kind == "dataset" else ""
        at = f" --revision {revision}" if revision else ""
        thing = "a file" if self.kind == "dataset" else "a directory"
        return (
            f"call `hf download {kind}{self.name}{at}` where it can be had and copy {self._cache.name} from the cache "
            f"there into {self._cache.parent} (HF_HOME moves it), or use `source: path` with {thing} of your own"
        )

    def _gated(self, status: int, revision: str) -> str:
        if status == 401:
            return (
                f"{self}: is only for those who accept its licence; accept it at {self._page} and set HF_TOKEN to a "
                f"token of that account, or {self._by_hand(revision)}"
            )
        return (
            f"{self}: the account of the token in HF_TOKEN has not accepted its licence (or waits to be let in); "
            f"accept it at {self._page} with that account, or {self._by_hand(revision)}"
        )

    def _refused(self, status: int) -> str:
        from huggingface_hub import get_token

        match status:
            case 401 if get_token():
                return (
                    f"{self}: the hub does not accept the token in HF_TOKEN (or of `hf auth login`); "
                    "set a valid one, or none where the repository is public"
                )
            case 401:
                return (
                    f"{self}: the hub does not show it to everybody; check the name, "
                    "or set HF_TOKEN to a token of an account that may read it"
                )
            case 403:
                return f"{self}: the token in HF_TOKEN may not read it; give the token that right at {self._page}"
            case 404:
                return f"{self}: the hub has no such repository; check the name in the study"
        return f"{self}: the hub answers with HTTP status {status}; try again later"

    def _unreachable(self, revision: str, path: str, cause: BaseException | None) -> str:
        from huggingface_hub import constants
        from huggingface_hub.errors import OfflineModeIsEnabled

        what = f"{path or 'the list of its files'} at the commit {revision[:12]}" if revision else "its commit"
        missing = f"{what} is not in the cache {self._cache}"
        by_hand = self._by_hand(revision)
        if isinstance(cause, OfflineModeIsEnabled):
            return f"{self}: {missing} and HF_HUB_OFFLINE forbids to ask for it; unset HF_HUB_OFFLINE, or {by_hand}"
        reason = f" ({cause})" if cause is not None and str(cause) else ""
        return (
            f"{self}: {missing} and the hub at {constants.ENDPOINT} cannot be reached{reason}; run this command where "
            f"the network is, or {by_hand}"
        )


def _http_error() -> type[Exception]:
    """What the client's HTTP library raises: of connections, and as `HfHubHTTPError` of answers."""
    from huggingface_hub import errors

    error: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]
    return error


def require_tokenizer(
    repository: Repository,
    revision: str,
    files: Mapping[str, str | None],
    embeddings: int | None = None,
    scratch: Path | None = None,
) -> None:
    """Reads the tokenizer of a model repository, without the model.

    Args:
        files: what `Repository.files` says of the commit.
        embeddings: how many tokens the model can read; unchecked, if None.
        scratch: see `Repository.take`; the hub's own cache, if None.

    Raises:
        UserError: it has none that says how a text ends, or one with more tokens than the model can read; or what
            `Repository.download` raises.
    """
    size = encoding.Encoding(_tokenizer_paths(repository, revision, files, scratch), repository).size
    if embeddings is not None and size > embeddings:
        raise UserError(
            f"{repository}: its tokenizer has {size} tokens, but the model of the study has embeddings of {embeddings} "
            "(vocab_size)"
        )


def read_encoding(repository: Repository, revision: str, bos: Bos, join: Join) -> encoding.Encoding:
    """The tokenizer of a model repository, in the hub's own cache; raises UserError as `require_tokenizer` does."""
    paths = _tokenizer_paths(repository, revision, repository.files(revision))
    return encoding.Encoding(paths, repository, bos, join)


def cached_encoding(repository: Repository, bos: Bos, join: Join) -> encoding.Encoding | None:
    """The tokenizer of a model repository as it lies in the hub's cache, the newest commit's there; None without it."""
    from huggingface_hub import try_to_load_from_cache

    found = {name: try_to_load_from_cache(repository.name, name) for name in encoding.FILES}
    paths = {name: Path(path) for name, path in found.items() if isinstance(path, str)}
    return encoding.Encoding(paths, repository, bos, join) if encoding.TOKENIZER in paths else None


def _tokenizer_paths(
    repository: Repository, revision: str, files: Mapping[str, str | None], scratch: Path | None = None
) -> dict[str, Path]:
    """The files that a tokenizer is read from, downloaded."""
    wanted = [name for name in encoding.FILES if name in files]
    return {name: repository.download(name, revision, files[name], scratch) for name in wanted}


def take_tokenizer(repository: Repository, revision: str, out: Path, scratch: Path) -> None:
    """Takes the tokenizer of a model repository, without the model.

    Args:
        scratch: see `Repository.take`.

    Raises:
        UserError: it has none, or what `Repository.take` raises.
    """
    files = repository.files(revision)
    require_tokenizer(repository, revision, files, scratch=scratch)
    repository.take({name: files[name] for name in TOKENIZER_FILES if name in files}, revision, out, scratch)
