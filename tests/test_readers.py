"""Reading persons: the crop takes its landmarks along, clips are found, damage is named."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SHARED, assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from spots import cut, mesh, spot, spot_centres, write_frames, write_video

from pgn import PgnError
from pgn.avatar.landmarks import GROUPS, MESH_POINTS, POINTS
from pgn.avatar.readers import person_names, read_people
from pgn.errors import MissingExtraError

SIZE = 32
IDENTITY_MATRIX = np.array([1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30], ">i4")  # of MP4
QUARTER_TURN = np.array([0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30], ">i4")  # clockwise


def test_frames_and_landmarks_of_a_folder(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    landmarks = random.random((3, MESH_POINTS, 2))
    folder = write_frames(tmp_path / "anna", 3, landmarks)
    for index, array in enumerate(pixels):
        Image.fromarray(array).save(folder / f"{index:03}.png")
    (anna,) = read_people(tmp_path, SIZE)
    wanted = torch.from_numpy(pixels).permute(0, 3, 1, 2).double()
    wanted = F.interpolate(wanted, (SIZE, SIZE), mode="bicubic", antialias=True).clamp(0, 255)
    assert anna.images.dtype == torch.uint8 and anna.images.is_contiguous()
    assert_close(anna.images, wanted, 0.01)  # Pillow rounds between its two passes
    assert_close(anna.landmarks, landmarks[:, list(POINTS)], 1e-6)
    assert anna.landmarks.dtype == torch.float32 and not anna.skipped
    np.savez(folder / "landmarks.npz", landmarks=landmarks[:, list(POINTS)].astype(np.float16))
    (anna,) = read_people(folder, SIZE)
    assert_close(anna.landmarks, landmarks[:, list(POINTS)], 1e-3)


@settings(max_examples=25, deadline=None)
@given(width=st.integers(40, 91), height=st.integers(40, 91), size=st.integers(32, 70))
def test_landmarks_follow_the_crop(
    width: int, height: int, size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("anna")
    centres = np.array([(0.5, 0.5), (0.46, 0.53)])
    for index, (x, y) in enumerate(centres):
        Image.fromarray(spot(width, height, x, y)).save(folder / f"{index}.png")
    np.savez(folder / "landmarks.npz", landmarks=mesh(centres))
    (anna,) = read_people(folder, size)
    found = spot_centres(anna.images)[:, None].expand(-1, len(POINTS), -1)
    assert_close(anna.landmarks * size, found * size, 0.1 / size)


def test_a_person_is_called_as_its_folder_however_that_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_frames(tmp_path / "anna", 2)
    (tmp_path / "linked").symlink_to(folder)
    (folder / "notes").mkdir()
    monkeypatch.chdir(folder)
    for source in (".", "notes/..", folder, Path("../anna")):
        assert person_names(source) == read_people(source, SIZE).names == ["anna"]
    assert person_names(tmp_path) == ["anna", "linked"]


def test_a_video_is_read_upright(tmp_path: Path) -> None:
    path = write_video(tmp_path / "anna.mp4", 5)
    (anna,) = read_people(path, SIZE)
    assert anna.name == "anna" and anna.images.shape == (5, 3, SIZE, SIZE)
    assert_close(anna.landmarks[:, 0] * SIZE, spot_centres(anna.images) * SIZE, 0.2 / SIZE)

    film = path.read_bytes()
    start = film.rindex(IDENTITY_MATRIX.tobytes())  # the last is the track's
    turned = QUARTER_TURN.tobytes()
    path.write_bytes(film[:start] + turned + film[start + len(turned) :])
    centres = np.load(path.with_suffix(".npz"))["landmarks"]
    np.savez(
        path.with_suffix(".npz"), landmarks=np.stack([1 - centres[..., 1], centres[..., 0]], 2)
    )
    (rotated,) = read_people(path, SIZE)
    assert_close(rotated.images, anna.images.rot90(-1, (2, 3)), 0.02)
    assert_close(rotated.landmarks[:, 0] * SIZE, spot_centres(rotated.images) * SIZE, 0.2 / SIZE)


def test_all_clips_below_a_folder_are_one_persons(tmp_path: Path) -> None:
    """VoxCeleb2's layout, and a clip that was taken apart into frames."""
    write_video(tmp_path / "id1" / "video1" / "00001.mp4", 6)
    write_video(tmp_path / "id1" / "video1" / "00002.mp4", 3)
    write_frames(tmp_path / "id1" / "video2" / "00001", 2)
    write_frames(tmp_path / "id1" / "video2" / "00002", 1)
    write_frames(tmp_path / "id2" / "video3" / "00001", 4)
    write_frames(tmp_path / ".cache" / "video", 4)
    (tmp_path / "id2" / "video3" / "00001" / "._000.png").write_bytes(b"of a Mac")
    (tmp_path / "id2" / "video3" / "00001" / ".thumbnails").mkdir()
    (tmp_path / "id2" / "video3" / "00001" / ".thumbnails" / "000.png").write_bytes(b"small")
    people = read_people(tmp_path, SIZE)
    assert people.names == ["id1", "id2"]
    first, second = people
    assert (len(first.images), len(second.images), people.skipped) == (12, 4, [])
    few = read_people(tmp_path, SIZE, frames=4)[0]
    assert torch.equal(few.images, first.images[[0, 4, 7, 11]])
    assert torch.equal(few.landmarks, first.landmarks[[0, 4, 7, 11]])


def landmarks_of(**arrays: NDArray[Any]) -> Callable[[Path], None]:
    return lambda folder: np.savez(folder / "landmarks.npz", **arrays)  # type: ignore[arg-type]


def pickled_landmarks(folder: Path) -> None:
    np.savez(folder / "landmarks.npz", landmarks=np.array([{}, None], object))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            landmarks_of(landmarks=np.zeros((3, 68, 2))),
            r"got float64 of shape \(3, 68, 2\) in ",
        ),
        (landmarks_of(landmarks=np.zeros((3, 478, 3))), r"shape \(3, 478, 3\).*expected floats"),
        (landmarks_of(landmarks=np.ones((3, 478, 2), int)), r"got int64 of shape"),
        (landmarks_of(landmarks=np.full((3, 478, 2), "x")), r"got <U1 of shape \(3, 478, 2\)"),
        (landmarks_of(landmarks=np.zeros((2, 478, 2))), r"got 2 frames in .*npz, expected 3"),
        (landmarks_of(landmarks=np.zeros((4, 478, 2))), r"got 4 frames in .*npz, expected 3"),
        (landmarks_of(landmarks=np.zeros((0, 478, 2))), r"no fractions in all 0 frames"),
        (landmarks_of(landmarks=np.full((3, 478, 2), np.nan)), r"no fractions in all 3 frames"),
        (landmarks_of(landmarks=np.full((3, 478, 2), 1e300)), r"Divide pixels by them"),
        (landmarks_of(landmarks=np.full((3, 478, 2), 90.0)), r"Divide pixels by them"),
        (landmarks_of(points=np.zeros((3, 478, 2))), r"got points in .*expected 'landmarks'"),
        (lambda folder: cut(folder / "landmarks.npz"), r"anna/landmarks.npz is no readable .npz"),
        (pickled_landmarks, r"anna/landmarks.npz is no readable .npz \(Object arrays"),
        (
            lambda folder: (folder / "landmarks.npz").unlink(),
            r"no file .*anna/landmarks.npz, and faces cannot be looked for",
        ),
    ],
)
def test_a_clip_that_cannot_be_used_is_skipped_and_named(
    spoil: Callable[[Path], None], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    spoil(write_frames(tmp_path / "anna", 3))
    write_frames(tmp_path / "ben", 3)
    people = read_people(tmp_path, SIZE)
    assert [one.name for one in people] == ["ben"]
    (told,) = people.skipped
    assert told.startswith("anna (person: got 0 usable frames")
    with pytest.raises(PgnError, match=message):
        people[0]


def test_frames_that_cannot_be_used_are_skipped_and_named(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "anna", 8)
    (whole,) = read_people(tmp_path, SIZE)
    cut(folder / "003.png")
    (folder / "006.png").write_bytes(b"")
    landmarks = np.load(folder / "landmarks.npz")["landmarks"]
    landmarks[5, 7, 1] = np.nan
    landmarks[0, 477, 0] = np.inf
    np.savez(folder / "landmarks.npz", landmarks=landmarks)
    people = read_people(tmp_path, SIZE)
    kept = [1, 2, 4, 7]
    assert torch.equal(people[0].images, whole.images[kept])
    assert torch.equal(people[0].landmarks, whole.landmarks[kept])
    names = [told.split(" (")[0] for told in people.skipped]
    track = folder / "landmarks.npz"
    wanted = [f"{track}, frame 0", f"{track}, frame 5", f"{folder}/003.png", f"{folder}/006.png"]
    assert names == wanted


def test_a_person_of_one_frame_is_skipped_and_named(tmp_path: Path) -> None:
    write_frames(tmp_path / "anna", 1)
    cut(write_frames(tmp_path / "ben", 2) / "001.png")
    people = read_people(tmp_path, SIZE)
    assert list(people) == []
    assert "anna (person: got 1 usable frames" in people.skipped[0]
    assert "ben/001.png (" in people.skipped[1]


def no_pictures(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: cut(path, 900), r"anna.mp4 cannot be decoded"),
        (lambda path: path.write_bytes(b""), r"anna.mp4 cannot be decoded"),
        (lambda path: path.write_bytes(b"text" * 99), r"anna.mp4 cannot be decoded"),
        (no_pictures, r"anna.mp4 holds no pictures"),
        (
            lambda path: np.savez(path.with_suffix(".npz"), landmarks=np.ones((9, 478, 2))),
            r"got 9 frames in .*anna.npz, expected 5, as many as in .*anna.mp4",
        ),
        (lambda path: path.with_suffix(".npz").unlink(), r"no file .*anna.npz"),
    ],
)
def test_a_video_that_cannot_be_used_is_refused(
    spoil: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    path = write_video(tmp_path / "anna.mp4", 5)
    spoil(path)
    with pytest.raises(PgnError, match=message):
        read_people(path, SIZE)[0]


def test_videos_want_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "anna.mp4", 3)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match="av is not installed"):
        read_people(path, SIZE).draw(torch.Generator())


def refuse(*_: object) -> None:
    raise PermissionError(13, "Permission denied")


def test_a_source_that_is_none_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    cases = {
        tmp_path: "no picture and no video in",
        tmp_path / "none": "got .*none, expected a folder",
        tmp_path / "notes.txt": "got .*notes.txt, expected a folder",
        tmp_path / ("long" * 99): "cannot be read \\(File name too long\\)",
    }
    for source, message in cases.items():
        with pytest.raises(PgnError, match=message):
            read_people(source, SIZE)
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(PgnError, match="cannot be read \\(Permission denied\\)"):
        read_people(tmp_path, SIZE)


def test_sizes_that_no_network_takes_are_refused(tmp_path: Path) -> None:
    write_frames(tmp_path / "anna", 3)
    with pytest.raises(PgnError, match="size: got 16, expected 32"):
        read_people(tmp_path, 16)
    with pytest.raises(PgnError, match="frames: got 1, expected 2"):
        read_people(tmp_path, SIZE, frames=1)


def test_real_clips_are_read_as_they_are() -> None:
    clips = SHARED / "data" / "heads"
    if not clips.is_dir():
        pytest.skip(f"{clips} is not here; the tests above on spots are the offline twin")
    people = read_people(clips, 128, frames=4)
    assert len(people) == 9
    names = [name for name, group in GROUPS.items() for _ in group.indices]
    for one in people:
        assert one.images.shape == (4, 3, 128, 128)
        grey = one.images.float().mean(1, keepdim=True)
        seen = F.grid_sample(grey, one.landmarks[:, None] * 2 - 1, align_corners=False)[:, 0, 0]
        iris, nose = (
            seen[:, [part in name for name in names]].mean() for part in ("iris", "nose_bridge")
        )
        assert iris < nose, f"{one.name}: irises {iris:.0f} are not darker than the nose {nose:.0f}"
    assert people.skipped == []
