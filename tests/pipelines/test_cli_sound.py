"""`mtl extract --audio` and what follows: heads on faces and sound, and what cannot be done without sound."""

import json
from pathlib import Path

import pytest
from PIL import Image

from helpers.cli import call, refused, typed
from helpers.made_project import Made
from helpers.sound_files import steps_of, write_silent, write_sound

SECTION = '\n[backbones.sound]\nmodel = "audio:log-mel"\n'


@pytest.fixture
def sounding(project: Path, made: Made) -> Path:
    """The project with a sound file per video, but for one without a track."""
    with open(project / "mtl.toml", "a") as file:
        file.write(SECTION)
    silent, *others = made.frames["video"].unique().sort()
    write_silent(project / "videos" / f"{silent}.mp4")
    for video in others:
        write_sound(project / "videos" / f"{video}.wav", steps_of(300, 2000), 9)
    return project


def test_from_sound_tracks_to_predictions(sounding: Path) -> None:
    (sounding / "videos" / "clip3.wav").write_bytes(b"no sound")
    code, out, err = typed("extract", "--audio")
    assert (code, out.splitlines()[0].partition(" in ")[0]) == (1, "360 frames into 1 stream (sound)")
    assert "sound: 1 video with no sound track; frames without sound have no row: 1" in out
    assert "60 frames failed:\n  clip3 (60 frames): its sound cannot be read (" in err
    write_sound(sounding / "videos" / "clip3.wav", steps_of(300, 2000), 9)
    said = json.loads(call("extract", "--audio", "--json"))
    assert (said["streams"], said["num_done"], said["failed"]) == (["sound"], 360, [])
    assert typed("extract", "--audio").out == "360 frames were in 1 stream (sound) already\n"
    words = ("--set", 'head.streams=["va", "sound"]', "--fusion", "cross-attention")
    call("train-head", "--name", "heard", "--tasks", "va", *words)
    call("predict", "heard", "--split", "test")
    (sounding / "faces").mkdir()
    Image.new("RGB", (32, 32)).save(sounding / "faces" / "1.jpg")
    assert "its stream sound was made from sound tracks" in refused("predict", "heard", "faces")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--audio", "--backbone", "va"), "--audio and --backbone both say what to extract"),
        (("--audio", "--set", "data.videos=nowhere"), "nowhere: no such folder of videos"),
        (
            ("--audio", "--set", "backbones.sound.size_px=32"),
            "[backbones.sound] size_px does not go with audio:log-mel",
        ),
        (("--audio", "--set", 'backbones.sound.model="audio:x"'), "model 'audio:x' is unknown; known: audio:log-mel"),
        (("--audio", "--set", 'backbones.sound.model="test_vit"'), "--audio: mtl.toml has no backbone of sound"),
    ],
)
def test_one_line_errors(sounding: Path, words: tuple[str, ...], says: str) -> None:
    assert says in refused("extract", *words)
