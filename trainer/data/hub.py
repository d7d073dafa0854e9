"""Data sets of the Hugging Face Hub: fetched into its own cache, or taken from there without a network."""

from __future__ import annotations

from configs.data_paths import SUFFIXES, DataFiles, HubDataSet, local_files
from tokenization.errors import DataError


def fetch(data_set: HubDataSet, source: str) -> DataFiles:
    """The files of a data set as they lie here, fetched where they did not; `source` is named in errors.

    Where to, with whose token and whether a network may be used is for HF_HOME, HF_TOKEN and HF_HUB_OFFLINE to say.
    Without a network a revision fetched before is taken. Raises DataError for what cannot be had.
    """
    # Takes a second to import, and few runs need it.
    from huggingface_hub import constants, errors, snapshot_download

    name, pattern = data_set.name, data_set.pattern
    # The Hub's `*` goes over folders too; its `**/` wants one, that of a glob does not.
    wanted = [pattern, pattern.replace("**/", ""), f"{pattern.rstrip('/')}/*"]
    try:
        folder = snapshot_download(
            name,
            repo_type="dataset",
            revision=data_set.revision,
            allow_patterns=wanted if pattern else [f"*{suffix}" for suffix in SUFFIXES],
        )
    except errors.GatedRepoError:
        fault = f"its owner grants access: ask on https://huggingface.co/datasets/{name}, then set HF_TOKEN"
    except errors.RevisionNotFoundError:
        fault = f"it has no revision {data_set.revision!r}; name a branch, a tag or a commit"
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        fault = "no such file or folder here, and none on the Hub; correct the path, or set HF_TOKEN if it is private"
    except errors.LocalEntryNotFoundError:
        offline = " and without HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else ""
        fault = (
            f"no such file or folder here, and not whole in {constants.HF_HUB_CACHE}; "
            f"correct the path, or fetch it with a network{offline}"
        )
    except Exception as error:  # of whatever lies below: HTTP, TLS, storage
        reason = next(iter(str(error).splitlines()), "")
        fault = (
            f"cannot be fetched ({type(error).__name__}: {reason}); try again, or name files that are here"
        )
    else:
        return local_files(pattern, folder)
    raise DataError(f"source {source!r}: data set {name}: {fault}")
