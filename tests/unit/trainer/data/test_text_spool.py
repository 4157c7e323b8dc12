from __future__ import annotations

from pathlib import Path

from trainer.data.text_spool import BUFFER_BYTES, SpooledSequence, TextSpool


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_texts_are_read_whether_or_not_they_are_written_yet(tmp_path: Path) -> None:
    spool = TextSpool(tmp_path / "new")
    texts = [b"", b"first", b"x" * (BUFFER_BYTES + 1), b"last"]
    spans = [spool.put(text) for text in texts]
    assert [spool.get(span) for span in spans] == texts
    assert spool.get(spool.put(b"more")) == b"more"


def test_a_spool_leaves_no_file_and_no_descriptor(tmp_path: Path) -> None:
    before = descriptors()
    spool = TextSpool(tmp_path)
    spool.put(b"secret")
    assert not list(tmp_path.iterdir()) and descriptors() == before + 1
    del spool
    assert descriptors() == before


def test_a_spooled_sequence_builds_an_element_each_time_it_is_read(tmp_path: Path) -> None:
    spool = TextSpool(tmp_path)
    built: list[int] = []

    def build(text: bytes) -> int:
        built.append(int(text))
        return built[-1]

    numbers = SpooledSequence(spool, [spool.put(b"%d" % n) for n in range(9)], build)
    assert len(numbers) == 9 and not built
    assert numbers[2] == 2 and numbers[-1] == 8 and built == [2, 8]
    assert list(numbers[3:5]) == [3, 4] and list(numbers) == list(range(9))
