"""Which versions a base path has, and which a policy wants of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.server.sources import All, Latest, Policy, Source, Specific, is_relative, local_folder, look, parse_version
from serving.server.status import Code, StatusError


def folder_with(path: Path, *children: str) -> Path:
    for child in children:
        (path / child).mkdir(parents=True)
    return path


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("1", 1),
        ("00012", 12),
        ("-5", -5),
        ("+5", 5),
        (" 7 ", 7),
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775808", None),
        ("-9223372036854775808", -(2**63)),
        ("1.0", None),
        ("1e3", None),
        ("0x1", None),
        ("1_0", None),
        ("٣", None),
        ("", None),
        ("-", None),
        (".publishing-3", None),
        ("3.tmp", None),
        ("saved_model.pb", None),
    ],
)
def test_names_that_parse_as_int64_are_versions(name: str, number: int | None) -> None:
    assert parse_version(name) == number


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_int64_is_a_version(number: int) -> None:
    assert parse_version(str(number)) == number


@pytest.mark.parametrize(
    ("policy", "numbers"),
    [
        (Latest(), [10]),
        (Latest(0), [10]),
        (Latest(2), [9, 10]),
        (Latest(9), [2, 9, 10]),
        (All(), [2, 9, 10]),
        (Specific(frozenset({2, 9})), [2, 9]),
        (Specific(frozenset({3})), []),
    ],
)
def test_policies(tmp_path: Path, policy: Policy, numbers: list[int]) -> None:
    folder_with(tmp_path, "2", "9", "10", "tmp", ".11.staging")
    found = look(Source("m", str(tmp_path), policy))
    assert found.wanted == {number: tmp_path / str(number) for number in numbers}
    assert not found.empty


def test_a_missing_base_path_is_an_error_and_an_empty_one_is_not(tmp_path: Path) -> None:
    missing = tmp_path / "gone"
    with pytest.raises(StatusError) as caught:
        look(Source("m", str(missing)))
    assert caught.value.code == Code.INVALID_ARGUMENT
    assert caught.value.message == f"Could not find base path {missing} for servable m with error NOT_FOUND: {missing} not found"
    found = look(Source("m", str(folder_with(tmp_path, "notes"))))
    assert found.wanted == {}
    assert found.empty
    assert found.remarks == [
        f"No versions of servable m found under base path {tmp_path}. Did you forget to name your leaf directory as a number "
        "(eg. '/1/')?"
    ]


@pytest.mark.parametrize("spoil", ["file", "null byte"])
def test_what_cannot_be_listed_is_an_error(tmp_path: Path, spoil: str) -> None:
    (tmp_path / "f").write_text("")
    path = f"{tmp_path}/f" if spoil == "file" else f"{tmp_path}/\0"
    with pytest.raises(StatusError, match="Could not find base path"):
        look(Source("m", path))


def test_of_two_names_for_a_version_the_last_one_counts(tmp_path: Path) -> None:
    found = look(Source("m", str(folder_with(tmp_path, "01", "1", "001")), All()))
    assert found.wanted == {1: tmp_path / "1"}
    assert found.remarks == [
        "Duplicate version directories of servable m detected. Version 1 will be loaded from 01, 001 will be ignored.",
        "Duplicate version directories of servable m detected. Version 1 will be loaded from 1, 01 will be ignored.",
    ]


def test_specific_versions_that_are_missing_are_remarked(tmp_path: Path) -> None:
    found = look(Source("m", str(folder_with(tmp_path, "1")), Specific(frozenset({1, 4}))))
    assert found.wanted == {1: tmp_path / "1"}
    assert found.remarks == [
        "Version 4 of servable m, which was requested to be served as a 'specific' version in the servable's version policy, "
        "was not found in the file system"
    ]


def test_a_folder_with_half_a_model_and_a_file_are_versions_all_the_same(tmp_path: Path) -> None:
    folder_with(tmp_path, "3/variables")
    (tmp_path / "4").write_text("")
    assert set(look(Source("m", str(tmp_path), All())).wanted) == {3, 4}


@pytest.mark.parametrize("name", ["../../etc", "/etc", "a/b", "", "\0"])
def test_a_models_name_is_never_part_of_a_path(tmp_path: Path, name: str) -> None:
    assert look(Source(name, str(folder_with(tmp_path, "1")))).wanted == {1: tmp_path / "1"}


@pytest.mark.parametrize(
    ("path", "relative"),
    [
        ("/models/m", False),
        ("models/m", True),
        ("./m", True),
        ("", True),
        ("~/m", True),
        ("gs://b/m", False),
        ("file:///m", False),
        ("C:m", True),
    ],
)
def test_relative_paths_are_told_from_absolute_ones_and_uris(path: str, relative: bool) -> None:
    assert is_relative(path) is relative


def test_a_file_uri_is_a_folder(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "a b", "1").as_uri()
    assert "%20" in folder
    assert look(Source("m", folder)).wanted == {1: tmp_path / "a b" / "1"}


def test_buckets_have_to_be_mounted() -> None:
    with pytest.raises(StatusError, match=r"File system scheme 'gs' not implemented \(file: 'gs://bucket/m'\)") as caught:
        local_folder("gs://bucket/m")
    assert caught.value.code == Code.UNIMPLEMENTED
