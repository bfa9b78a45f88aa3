"""The state folder, its file and its lock."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from infra.local.errors import StackError, StackInputError
from infra.local.processes import ProcessId
from infra.local.state import RAY_SOCKET_BYTES, SOCKET_PATH_BYTES, Folder, PartState, State, ray_folder, write_private


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path / "home")
    made.create()
    return made


def test_folders_and_files_are_for_their_owner_only(folder: Folder) -> None:
    folder.save(State())
    assert mode(folder.home) == mode(folder.root) == mode(folder.part("s3")) == 0o700
    assert mode(folder.state_file) == 0o600


def test_state_survives_being_saved(folder: Folder) -> None:
    state = State(num_cpus=3)
    state.parts["s3"] = PartState(ports={"s3": 20001}, process=ProcessId(pid=7, created=1795338159.24))
    folder.save(state)
    assert folder.load() == state


def test_no_file_is_a_blank_state(folder: Folder) -> None:
    assert folder.load() == State()


@pytest.mark.parametrize("text", ["", "{", '{"parts": {"s3": {"ports": {"s3": "many"}}}}', '{"surprise": 1}'])
def test_a_damaged_file_is_named_with_the_remedy(folder: Folder, text: str) -> None:
    folder.state_file.write_text(text)
    with pytest.raises(StackInputError, match=r"state\.json: damaged: remove this file and run the command again"):
        folder.load()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_private(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_private(path, "new \ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_home_that_is_a_file_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    with (
        pytest.raises(StackInputError, match=r"ENCNET_HOME: .*home: can't be used as state folder"),
        Folder(tmp_path / "home").locked(lambda: None),
    ):
        pass


def hold_lock(home: Path, held: multiprocessing.synchronize.Event, release: multiprocessing.synchronize.Event) -> None:
    with Folder(home).locked(lambda: None):
        held.set()
        release.wait(30)


def test_the_lock_is_held_by_one_process_at_a_time(folder: Folder) -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    holder = context.Process(target=hold_lock, args=(folder.home, held, release))
    holder.start()
    try:
        assert held.wait(30)
        waits: list[str] = []
        with (
            pytest.raises(StackError, match=r"another `encnet stack` has held .*stack\.lock"),
            folder.locked(lambda: waits.append("waiting"), timeout_s=0.3),
        ):
            pass
        assert waits == ["waiting"]
    finally:
        release.set()
        holder.join()
    with folder.locked(lambda: waits.append("again")):
        assert waits == ["waiting"]


def test_ray_moves_out_of_a_folder_too_deep_for_sockets(tmp_path: Path) -> None:
    fits = "x" * (SOCKET_PATH_BYTES - RAY_SOCKET_BYTES - len("//stack/ray"))
    state = State()
    near, deep = Folder(Path("/") / fits), Folder(Path("/") / f"{fits}x")
    assert ray_folder(near, state) == near.part("ray")
    assert state.ray_folder is None
    moved = ray_folder(deep, state)
    try:
        assert mode(moved) == 0o700
        assert len(os.fsencode(moved)) + RAY_SOCKET_BYTES <= SOCKET_PATH_BYTES
        assert ray_folder(deep, state) == state.ray_folder == moved
    finally:
        moved.rmdir()
    again = ray_folder(deep, state)
    again.rmdir()
    assert again != moved


def test_delete_takes_the_stack_and_leaves_what_is_not_its_own(folder: Folder) -> None:
    other = folder.home / "notes.txt"
    other.touch()
    folder.save(State())
    folder.delete(State())
    assert list(folder.home.iterdir()) == [other]
