"""What a path of data names: folders by a rule, and data sets of the Hub as they lie in its cache. No network."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from configs.data_paths import HubDataSet, hub_data_set, local_files
from configs.schema import SourceConfig
from tokenization.errors import DataError
from trainer.data import sources
from trainer.data.sources import Source, open_source

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def opened(path: Path | str) -> Source:
    return open_source(SourceConfig(name="mine", path=str(path), role="agent"))


def names(source: Source, root: Path) -> list[str]:
    return [str(Path(stamp.path).relative_to(root)) for stamp in source.files]


def fill(folder: Path, *files: str) -> Path:
    for n, file in enumerate(files):
        place = folder / file
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"{n}\n")
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The snapshot of a data set `owner/name` in a cache of the Hub, without a network, nothing in the folder."""
    from huggingface_hub import constants

    cache = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    data_set = cache / "datasets--owner--name"
    for revision in ("refs/main", "refs/v1"):
        (data_set / revision).parent.mkdir(parents=True, exist_ok=True)
        (data_set / revision).write_text(COMMIT)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return data_set / "snapshots" / COMMIT


# --- folders ---


@pytest.mark.parametrize(
    ("files", "taken"),
    [
        (["b.json", "a.jsonl", "c/d.jsonl"], ["a.jsonl", "c/d.jsonl"]),
        (["b.json", "a/c.json", "dataset_infos.json", "x.config.json", "notes.txt"], ["a/c.json", "b.json"]),
        (["train.jsonl", ".hidden.jsonl", ".cache/x.jsonl"], ["train.jsonl"]),
        (["train-0.jsonl", "test-0.jsonl", "valid.jsonl", "a_dev.jsonl"], ["train-0.jsonl"]),
        (["data/train/0.json", "data/eval/0.json", "Validation/0.json"], ["data/train/0.json"]),
        (
            ["latest.json", "contest/evaluated.json", "devices.json"],
            ["contest/evaluated.json", "devices.json", "latest.json"],
        ),
        (["train.json", "test.jsonl"], ["train.json"]),
    ],
)
def test_a_folder_is_its_data_files(tmp_path: Path, files: list[str], taken: list[str]):
    """Of one kind, without what is hidden, held out by its name, or about data."""
    folder = fill(tmp_path / "test", *files)  # the folder's own name says nothing
    assert names(opened(folder), folder) == taken


def test_parquet_goes_before_the_rest(tmp_path: Path):
    folder = fill(tmp_path, "a.jsonl", "b.json", "c.parquet")
    assert local_files(str(folder)).files == (str(folder / "c.parquet"),)


def test_what_is_left_out_is_said_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    fill(tmp_path, "train.jsonl", "test.jsonl", "dev/a.jsonl")
    for _ in range(2):
        opened(tmp_path)
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    for part in ("'mine'", "2 file(s)", str(tmp_path / "test.jsonl"), "name them with a glob"):
        assert part in said
    assert names(opened(tmp_path / "t*.jsonl"), tmp_path) == ["test.jsonl", "train.jsonl"]
    assert capfd.readouterr().err == ""


def test_a_folder_of_held_out_files_alone_has_none(tmp_path: Path):
    with pytest.raises(DataError, match="no file matches path"):
        opened(fill(tmp_path, "test.jsonl"))


# --- the Hub ---


@pytest.mark.parametrize(
    ("path", "taken"),
    [
        ("owner/name", ["data/train-0.jsonl", "data/train-1.jsonl"]),
        ("hf://datasets/owner/name", ["data/train-0.jsonl", "data/train-1.jsonl"]),
        ("hf://datasets/owner/name@v1", ["data/train-0.jsonl", "data/train-1.jsonl"]),
        (f"hf://datasets/owner/name@{COMMIT}", ["data/train-0.jsonl", "data/train-1.jsonl"]),
        ("hf://datasets/owner/name/data/*-1.jsonl", ["data/test-1.jsonl", "data/train-1.jsonl"]),
        ("hf://datasets/owner/name@v1/**/test-1.jsonl", ["data/test-1.jsonl"]),
        ("hf://datasets/owner/name/**/top.json", ["top.json"]),
        ("hf://datasets/owner/name/data", ["data/train-0.jsonl", "data/train-1.jsonl"]),
        ("hf://datasets/owner/name/top.json", ["top.json"]),
    ],
)
def test_a_data_set_is_taken_from_the_cache(hub: Path, path: str, taken: list[str]):
    fill(hub, "data/train-1.jsonl", "data/train-0.jsonl", "data/test-1.jsonl", "top.json", "README.md")
    assert names(opened(path), hub) == taken


def test_files_may_be_links_to_blobs(hub: Path):
    blob = fill(hub.parents[1] / "blobs", "abc") / "abc"
    (hub / "data").mkdir(parents=True)
    (hub / "data" / "train.jsonl").symlink_to(blob)
    source = opened("owner/name")
    assert names(source, hub) == ["data/train.jsonl"]
    assert source.row(0)[0] == 0


def test_what_is_here_goes_before_the_hub(hub: Path):
    fill(hub, "train.jsonl")
    fill(Path("owner/name"), "mine.jsonl")
    assert [stamp.path for stamp in opened("owner/name").files] == ["owner/name/mine.jsonl"]


NO_DATA_SETS = [
    "name",
    "a/b/c",
    "./a/b",
    "/a/b",
    "a/b.json",
    "a/b.jsonl",
    "a/b.parquet",
    "a/*",
    "hf://models/a/b",
    "",
]


@pytest.mark.parametrize("path", NO_DATA_SETS)
def test_other_paths_name_no_data_set(path: str):
    assert hub_data_set(path) is None


@pytest.mark.parametrize(
    ("rest", "revision", "pattern"),
    [
        ("", None, ""),
        ("@v1", "v1", ""),
        ("@refs%2Fpr%2F1/x.json", "refs/pr/1", "x.json"),
        ("@refs/convert/parquet/a/*.parquet", "refs/convert/parquet", "a/*.parquet"),
        ("/a/**/b@c.json", None, "a/**/b@c.json"),
    ],
)
def test_an_address_has_revision_and_pattern(rest: str, revision: str | None, pattern: str):
    assert hub_data_set(f"hf://datasets/own-er/na.me_1{rest}") == HubDataSet(
        "own-er/na.me_1", revision, pattern
    )


def refusal(path: str) -> str:
    with pytest.raises(DataError) as caught:
        opened(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_was_never_fetched_needs_a_network(hub: Path):
    message = refusal("other/name")
    for part in (
        "'mine'",
        "other/name",
        "no such file or folder here",
        str(hub.parents[2]),
        "HF_HUB_OFFLINE",
    ):
        assert part in message


def test_a_pattern_without_files_is_refused(hub: Path):
    fill(hub, "train.jsonl")
    assert "no file matches path" in refusal("hf://datasets/owner/name/none-*.jsonl")
    assert "in the data set" in refusal("hf://datasets/owner/name/none-*.jsonl")


def _failures() -> dict[str, Callable[[], Exception]]:
    from huggingface_hub import errors

    def http(kind: type[errors.HfHubHTTPError]) -> Callable[[], Exception]:
        def make() -> Exception:
            error = kind.__new__(kind)
            Exception.__init__(error, "first line\nsecond line")
            return error

        return make

    return {
        "its owner grants access": http(errors.GatedRepoError),
        "no such file or folder here, and none on the Hub": http(errors.RepositoryNotFoundError),
        "no revision 'v9'": http(errors.RevisionNotFoundError),
        "correct the path, or fetch it with a network": lambda: errors.LocalEntryNotFoundError("no\nnetwork"),
        "none on the Hub; correct the path": lambda: errors.HFValidationError("a\nb"),
        "(HfHubHTTPError: first line); try again": http(errors.HfHubHTTPError),
        "(ConnectionError: proxy); try again": lambda: ConnectionError("proxy\nrefused"),
        "(XetDownloadError: )": errors.XetDownloadError,
    }


@pytest.mark.parametrize("said", _failures())
def test_what_the_hub_says_is_one_line_with_the_remedy(hub: Path, monkeypatch: pytest.MonkeyPatch, said: str):
    import huggingface_hub

    def fail(*args: object, **settings: object) -> None:
        raise _failures()[said]()

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    message = refusal("hf://datasets/owner/name@v9")
    assert message.startswith("source 'mine': data set owner/name: ")
    assert said in message


def test_the_hub_is_asked_for_the_pattern(hub: Path, monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub

    fill(hub, "a/x.jsonl")
    asked: list[dict[str, object]] = []

    def note(name: str, **settings: object) -> str:
        asked.append({"name": name, **settings})
        return str(hub)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", note)
    opened("hf://datasets/owner/name@refs%2Fpr%2F1/**/x.jsonl")
    opened("owner/name")
    assert [(ask["name"], ask["repo_type"], ask["revision"]) for ask in asked] == [
        ("owner/name", "dataset", "refs/pr/1"),
        ("owner/name", "dataset", None),
    ]
    assert asked[0]["allow_patterns"] == ["**/x.jsonl", "x.jsonl", "**/x.jsonl/*"]
    assert asked[1]["allow_patterns"] == ["*.parquet", "*.jsonl", "*.json"]


def test_libraries_that_few_runs_need_are_not_imported():
    code = f"import sys, {sources.__name__}; print([m for m in ('pyarrow', 'huggingface_hub') if m in sys.modules])"
    root = Path(__file__).parents[2]
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root).stdout
        == "[]\n"
    )
