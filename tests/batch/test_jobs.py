"""Lists of jobs, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tempomask.batch.jobs import Job, read_jobs
from tempomask.batch.places import Place
from tempomask.errors import InputError

FLAGS = {"point": False, "box": False, "end": False, "checkpoint": False, "everything": True,
         "prompts": False, "memory_stride": False}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a.mp4", "b.MP4", "notes.txt"):
        Path("videos", name).parent.mkdir(exist_ok=True)
        Path("videos", name).touch()
    Path("videos/c").mkdir()
    Path("videos/c/0.png").touch()
    Path("videos/b.json").touch()
    Path("out").mkdir()
    Path("out/away").symlink_to("/")
    return tmp_path


def read(text: str, *each: str, suffix: str = "jsonl") -> list[Job]:
    path = Path(f"jobs.{suffix}")
    path.write_text(text)
    return read_jobs(str(path), Place.of("out"), FLAGS, each)


def test_a_folder_and_a_pattern_list_videos(folder: Path) -> None:
    jobs = read_jobs("videos", Place.of("out"), FLAGS, ["everything=true"])
    assert [job.name for job in jobs] == ["a", "b", "c"]
    assert jobs[0].words == ("videos/a.mp4", "--everything")
    assert jobs[1].words == ("videos/b.MP4", "--everything", "--prompts=videos/b.json")
    (one,) = read_jobs("videos/a.*", Place.of("out"), FLAGS, [])
    assert one.words == ("videos/a.mp4",) and one.out == Path("out/a")


def test_columns_become_options(folder: Path) -> None:
    line = '{"source": "videos/a.mp4", "point": [655, 420.5], "end": 60, "everything": false}'
    (job,) = read(line, "end=3", "memory_stride=2")
    assert set(job.words[1:]) == {"--point=655,420.5", "--end=60", "--memory-stride=2"}
    (job,) = read('{"source": "videos/a.mp4", "point": [[1, 2], [3, 4]], "out": "x/y"}')
    assert job.words[1:] == ("--point=1,2", "--point=3,4") and job.out == Path("out/x/y")
    (job,) = read('{"source": "videos/a.mp4", "prompts": [{"object": 2, "points": [[1, 2]]}]}')
    assert job.words[1:] == ('--prompts=[{"object":2,"points":[[1,2]]}]',)
    table = 'source,point,everything,end\nvideos/a.mp4,"1,2",,\nvideos/c,,true,9\n'
    first, second = read(table, suffix="csv")
    assert first.words == ("videos/a.mp4", "--point=1,2")
    assert second.words == ("videos/c", "--everything", "--end=9")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"source": "videos/a.mp4", "pont": [1, 2]}', "line 1: unknown column 'pont'; did you"),
        ('{"point": [1, 2]}', "line 1: has no source"),
        ('\n{"source": "videos/z.mp4"}', "line 2: no such file or folder: videos/z.mp4"),
        ('{"source": "videos/a.mp4"}\n' * 2, "line 2: writes to out/a, as jobs.jsonl line 1 does"),
        (
            '{"source": "videos/a.mp4", "out": "a/masks"}\n{"source": "videos/a.mp4"}',
            "line 1 writes to out/a/masks, inside the folder of jobs.jsonl line 2",
        ),
        ('{"source": "videos/a.mp4", "out": "../x"}', "out ../x is not within the folder"),
        ('{"source": "videos/a.mp4", "out": "."}', "out . is not within the folder"),
        ('{"source": "videos/a.mp4", "out": "a\\u0000b"}', "no file can be called"),
        (f'{{"source": "videos/a.mp4", "out": "{"x" * 300}"}}', "no file can be called"),
        ('{"source": "videos/a.mp4", "out": "away/a"}', "out/away is a link that leads out of out"),
        ('{"source": "videos/a.mp4", "everything": "so"}', 'everything is "so", not true or'),
        ('{"source": "videos/a.mp4", "end": {}}', "end is an object of 0, not a number"),
        ("[1]", "line 1: it is a list of 1"),
        ("{", "line 1 is not JSON"),
        ("", "jobs.jsonl lists no job"),
    ],
)
def test_a_bad_list_is_one_line(folder: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read(text)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_bad_tables_and_places(folder: Path) -> None:
    with pytest.raises(InputError, match="line 2 "):
        read("source,end\nvideos/a.mp4\n", suffix="csv")
    with pytest.raises(InputError, match="--each 'sped'"):
        read('{"source": "videos/a.mp4"}', "sped=1")
    for jobs, message in (("nothing", "is not a folder, pattern"), ("*.avi", "fits no video"),
                          ("no.csv", "cannot read list of jobs")):  # fmt: skip
        with pytest.raises(InputError, match=message):
            read_jobs(jobs, Place.of("out"), FLAGS, [])
