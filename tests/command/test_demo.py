import gzip
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from findlr import FileFormatError, Finding
from findlr.command import demo
from findlr.command.demo import read_idx


def idx(array):
    array = np.asarray(array, dtype=np.uint8)
    return bytes((0, 0, 8, array.ndim)) + np.array(array.shape, dtype=">u4").tobytes() + array.tobytes()


@pytest.fixture
def mnist(tmp_path):
    """A folder like MNIST's, small: 320 images of 6 x 6 to train on, 64 held out; the class is where the light is."""
    random = np.random.default_rng(0)
    for part, count in (("train", 320), ("t10k", 64)):
        labels = random.integers(0, 10, count)
        images = random.integers(0, 60, (count, 36))
        images[np.arange(count), labels * 3] = 255
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(images.reshape(count, 6, 6)))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return tmp_path


class TestData:
    def test_digits_are_split_normalised_and_always_the_same(self):
        first, second = demo.digits(), demo.digits()
        assert len(first.train[0]) + len(first.held_out[0]) == 1797
        assert len(first.held_out[0]) == 1797 // 5
        assert abs(first.train[0].mean()) < 1e-4
        assert abs(first.train[0].std() - 1) < 1e-3
        assert all(
            torch.equal(a, b) for a, b in zip(first.train + first.held_out, second.train + second.held_out, strict=True)
        )

    def test_no_digit_is_both_trained_on_and_held_out(self):
        data = demo.digits()
        trained = {row.numpy().tobytes() for row in data.train[0]}
        assert not any(row.numpy().tobytes() in trained for row in data.held_out[0])

    def test_mnist_is_read_gzipped_or_not(self, mnist):
        data = demo.mnist(mnist)
        assert data.train[0].shape == (320, 36)
        assert data.held_out[1].shape == (64,)
        assert abs(data.train[0].mean()) < 1e-4
        assert (data.num_steps, data.epochs) == ("epoch", 1)
        lit = data.train[0].argmax(dim=1) // 3
        assert torch.equal(lit, data.train[1])

    def test_a_missing_file_is_named(self, mnist):
        (mnist / "t10k-labels-idx1-ubyte.gz").unlink()
        with pytest.raises(FileFormatError, match=r"t10k-labels-idx1-ubyte is missing.*give the folder with MNIST's"):
            demo.mnist(mnist)

    def test_labels_must_fit_the_images(self, mnist):
        (mnist / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(319))))
        with pytest.raises(FileFormatError, match="one label from 0 to 9 for each of the 320 images, has 319"):
            demo.mnist(mnist)
        (mnist / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.full(320, 10))))
        with pytest.raises(FileFormatError, match="labels up to 10"):
            demo.mnist(mnist)

    def test_both_parts_must_have_the_same_size(self, mnist):
        (mnist / "t10k-images-idx3-ubyte").write_bytes(idx(np.zeros((64, 5, 5))))
        with pytest.raises(FileFormatError, match="differ in size"):
            demo.mnist(mnist)


class TestIdx:
    def test_what_is_written_is_read(self, tmp_path):
        array = np.arange(24).reshape(2, 3, 4)
        (tmp_path / "a").write_bytes(idx(array))
        assert np.array_equal(read_idx(tmp_path / "a", dimensions=3), array)

    @pytest.mark.parametrize("cut", [0, 1, 3, 4, 9, 15, 16, 39])
    def test_a_truncated_file_is_refused(self, tmp_path, cut):
        (tmp_path / "a").write_bytes(idx(np.zeros((2, 3, 4)))[:cut])
        with pytest.raises(FileFormatError, match=f"{tmp_path / 'a'} is "):
            read_idx(tmp_path / "a", dimensions=3)

    @pytest.mark.parametrize("cut", [0, 5, 20, -4])
    def test_a_truncated_archive_is_refused(self, tmp_path, cut):
        random = np.random.default_rng(0).integers(0, 255, (4, 5, 5))
        (tmp_path / "a.gz").write_bytes(gzip.compress(idx(random))[:cut])
        with pytest.raises(FileFormatError, match=r"a\.gz is "):
            read_idx(tmp_path / "a", dimensions=3)

    def test_a_damaged_archive_is_refused(self, tmp_path):
        content = bytearray(gzip.compress(idx(np.random.default_rng(0).integers(0, 255, (4, 5, 5)))))
        content[30] ^= 0xFF
        (tmp_path / "a.gz").write_bytes(content)
        with pytest.raises(FileFormatError, match=r"a\.gz is damaged .*download it again"):
            read_idx(tmp_path / "a", dimensions=3)

    @pytest.mark.parametrize(
        "start",
        [b"\0\0\x08\x01", b"\0\0\x0d\x03", b"PK\x03\x04", b"\x1f\x8b\x08\0"],
        ids=["1-D", "floats", "zip", "gzip"],
    )
    def test_another_magic_number_is_refused(self, tmp_path, start):
        (tmp_path / "a").write_bytes(start + idx(np.zeros((2, 3, 4)))[4:])
        with pytest.raises(FileFormatError, match=f"no idx file of 3-D bytes: it starts with {start.hex(' ')}"):
            read_idx(tmp_path / "a", dimensions=3)

    @pytest.mark.parametrize("shape", [(0, 3, 4), (2**32 - 1, 2**32 - 1, 2**32 - 1), (2, 3, 5), (2, 3, 3)])
    def test_sizes_that_do_not_fit_are_refused(self, tmp_path, shape):
        header = bytes((0, 0, 8, 3)) + np.array(shape, dtype=">u4").tobytes()
        (tmp_path / "a").write_bytes(header + bytes(24))
        with pytest.raises(FileFormatError, match="damaged: it announces"):
            read_idx(tmp_path / "a", dimensions=3)


class TestComparison:
    def test_starts_and_batches_are_the_same_at_every_rate(self):
        data = replace(demo.digits(), epochs=0)
        starts = [row.losses for row in demo.compare(data, 0.1)]
        assert len(set(starts)) == 1
        assert len(set(starts[0])) == len(demo.SEEDS)
        data = replace(data, epochs=1)
        assert demo.held_out_loss(data, 0.1, seed=3) == demo.held_out_loss(data, 0.1, seed=3)

    def test_a_run_that_diverges_says_so(self):
        row = demo.Row(100.0, 12.0, (2.3, math.nan, math.inf))
        assert row.mean == math.inf
        assert str(row).split() == ["100", "x", "12", "diverged", "in", "2", "of", "3", "runs"]

    def test_a_row_is_a_mean_and_a_spread(self):
        assert str(demo.Row(0.01, 0.0012, (1.0, 2.0, 3.0))).split() == [
            "1/100",
            "x",
            "0.0012",
            "2.0000",
            "+/-",
            "1.0000",
        ]

    @pytest.mark.parametrize(
        ("losses", "sentence"),
        [
            (
                (5, 4, 1, 2, math.nan),
                "Best was the suggestion itself; the suggestion beats 1/100 x, 1/10 x, 10 x, 100 x.",
            ),
            ((5, 4, 2, 1, 9), "Best was 10 x the suggestion; the suggestion beats 1/100 x, 1/10 x, 100 x."),
            ((1, 2, 9, 3, 4), "Best was 1/100 x the suggestion; the suggestion beats none of its multiples."),
        ],
    )
    def test_it_is_honest(self, losses, sentence):
        rows = [demo.Row(multiple, 0.1, (loss,) * 2) for multiple, loss in zip(demo.MULTIPLES, losses, strict=True)]
        assert demo.in_words(rows) == sentence


@pytest.fixture
def threads():
    """The demo sets how many torch uses."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
class TestRun:
    def test_on_digits_the_suggestion_is_good(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr(demo, "SEEDS", range(2))
        finding = demo.run(demo.digits(), tmp_path / "new" / "folder")
        shown = capsys.readouterr().out
        assert f"suggestion    {finding.lr:.2g} " in shown
        (beaten,) = [line for line in shown.splitlines() if line.startswith("Best was")]
        assert beaten.endswith("the suggestion beats 1/100 x, 1/10 x, 10 x, 100 x.")
        assert Finding.load(tmp_path / "new" / "folder" / "finding.json") == finding
        assert (tmp_path / "new" / "folder" / "curve.png").read_bytes().startswith(b"\x89PNG")
        monkeypatch.setattr(demo, "MULTIPLES", (1.0,))
        assert finding == demo.run(demo.digits(), tmp_path)

    def test_mnist_files_are_swept_for_one_epoch(self, mnist, tmp_path, capsys):
        finding = demo.run(demo.mnist(mnist), tmp_path / "out")
        assert finding.curve.num_steps == 320 / demo.BATCH_SIZE
        assert finding.suggestion is None  # five steps are too few
        assert "multiple" not in capsys.readouterr().out
        assert (tmp_path / "out" / "curve.png").is_file()
