import subprocess
import sys

import pytest

from findlr import Finding, __version__, find
from findlr.analysis.plan import SCHEDULES
from findlr.command import cli, demo
from findlr.rules import RULES
from findlr.testing import Quadratic


@pytest.fixture
def run(capsys):
    """Run the command here; gives the exit code, and what was printed."""

    def run(*arguments):
        with pytest.raises(SystemExit) as exit_:
            cli.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return exit_.value.code, printed.out, printed.err

    return run


def python(code, *arguments):
    """Run Python elsewhere."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120
    )


def without(package):
    """Code that runs the command where a package is not installed."""
    return f"import sys; sys.modules[{package!r}] = None; from findlr.command.cli import main; main(sys.argv[1:])"


class TestShow:
    def test_prints_a_finding_that_was_saved(self, run, tmp_path):
        finding = find(Quadratic(noise=0.1))
        finding.save(tmp_path / "finding.json")
        code, out, err = run("show", tmp_path / "finding.json")
        assert code == 0
        assert f"suggestion    {finding.lr:.2g} " in out
        assert "learning rate" in out
        assert err == ""

    def test_prints_it_where_the_width_is_not_known(self, run, tmp_path, monkeypatch):
        monkeypatch.setenv("COLUMNS", "0")
        find(Quadratic()).save(tmp_path / "finding.json")
        code, out, _ = run("show", tmp_path / "finding.json")
        assert code == 0
        assert "learning rate" in out

    def test_exits_with_1_if_there_is_no_suggestion(self, run, tmp_path):
        find(Quadratic(), max_lr=1e-4).save(tmp_path / "finding.json")
        code, out, _ = run("show", tmp_path / "finding.json")
        assert code == 1
        assert "STILL_FALLING" in out

    @pytest.mark.parametrize(
        "content", [b"", b"{", b"[]", b"{}", b'{"format": 99}', b'{"format": 1}', b"\xff\xfe\x00", b"[" * 99999]
    )
    def test_exits_with_2_and_one_line_if_the_file_is_no_finding(self, run, tmp_path, content):
        (tmp_path / "finding.json").write_bytes(content)
        code, out, err = run("show", tmp_path / "finding.json")
        assert (code, out) == (2, "")
        assert err.startswith("findlr: ")
        assert err.count("\n") == 1

    def test_exits_with_2_and_one_line_if_there_is_no_file(self, run, tmp_path):
        assert run("show", tmp_path / "no.json") == (
            2,
            "",
            f"findlr: {tmp_path / 'no.json'}: No such file or directory\n",
        )
        assert run("show", tmp_path)[0] == 2


@pytest.fixture
def saved(tmp_path):
    """Two Findings in files, one of them without a suggestion."""
    finding, refused = find(Quadratic(noise=0.1)), find(Quadratic(), max_lr=1e-4)
    finding.save(tmp_path / "good.json")
    refused.save(tmp_path / "poor.json")
    return finding, tmp_path / "good.json", tmp_path / "poor.json"


class TestCompare:
    def test_prints_a_row_for_each(self, run, saved):
        finding, good, poor = saved
        code, out, err = run("compare", good, poor)
        assert (code, err) == (0, "")
        rows = [line.split() for line in out.splitlines()]
        assert rows[1][:2] == ["good", f"{finding.lr:.2g}"]
        assert rows[2][:3] == ["poor", "none", "STILL_FALLING"]

    def test_draws_them_over_each_other(self, run, saved, tmp_path):
        _, good, poor = saved
        assert run("compare", good, poor, "--label", "one", "--label", "two", "-o", tmp_path / "both.svg")[0] == 0
        picture = (tmp_path / "both.svg").read_text()
        assert "<!-- one" in picture
        assert "<!-- two" in picture

    def test_files_of_one_name_are_told_apart(self, run, saved, tmp_path):
        _, good, _ = saved
        (tmp_path / "other").mkdir()
        good.rename(tmp_path / "other" / "good.json")
        find(Quadratic()).save(good)
        code, out, _ = run("compare", good, tmp_path / "other" / "good.json")
        assert code == 0
        names = "".join(line.split("  ")[0] for line in out.splitlines()[1:])
        assert names == f"{good}{tmp_path / 'other' / 'good.json'}"

    @pytest.mark.parametrize("command", [["compare"], ["report", "-o", "page.html"]])
    def test_as_many_labels_as_files(self, run, saved, command):
        code, out, err = run(*command, *saved[1:], "--label", "one")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "got 1 for 2 files" in err

    @pytest.mark.parametrize("name", ["both.xyz", "no/both.png"])
    def test_a_picture_that_cannot_be_written_is_one_line(self, run, saved, name):
        code, _, err = run("compare", *saved[1:], "-o", name)
        assert code == 2
        assert err.count("\n") == 1


class TestReport:
    def test_writes_a_page(self, run, saved, tmp_path):
        _, good, poor = saved
        code, out, err = run("report", good, poor, "--label", "one", "--label", "two", "-o", tmp_path / "page.html")
        assert (code, out, err) == (0, "", "")
        assert (tmp_path / "page.html").read_text().lower().startswith("<!doctype html>")

    @pytest.mark.parametrize("command", ["report", "compare"])
    def test_replaces_no_finding_that_it_shows(self, run, saved, command):
        finding, good, poor = saved
        code, out, err = run(command, poor, good, "-o", good)
        assert (code, out) == (2, "")
        assert err == f"findlr: {good} has another use in this command, and would be lost: name another file\n"
        assert Finding.load(good) == finding

    def test_needs_a_place_and_files_that_are_there(self, run, saved, tmp_path):
        assert "--output" in run("report", saved[1])[2]
        assert "no.json: No such file" in run("report", tmp_path / "no.json", "-o", tmp_path / "page.html")[2]
        assert not (tmp_path / "page.html").exists()


class TestDemo:
    def test_runs_on_digits(self, run, tmp_path, monkeypatch):
        monkeypatch.setattr(demo, "compare", lambda data, lr: iter([demo.Row(1.0, lr, (0.1, 0.2))]))
        code, out, err = run("demo", "-o", tmp_path)
        assert code == 0
        assert "0.1500 +/- 0.0707" in out
        assert err == ""
        assert {path.name for path in tmp_path.iterdir()} == {"curve.png", "finding.json"}

    @pytest.mark.parametrize("arguments", [["--data", "mnist"], ["--data-dir", "."]])
    def test_mnist_and_its_folder_go_together(self, run, arguments):
        code, _, err = run("demo", *arguments)
        assert code == 2
        assert err.startswith("findlr: --data mnist and --data-dir go together")

    def test_a_missing_data_file_is_one_line(self, run, tmp_path):
        code, out, err = run("demo", "--data", "mnist", "--data-dir", tmp_path, "-o", tmp_path / "out")
        assert (code, out) == (2, "")
        assert err.startswith(f"findlr: {tmp_path / 'train-images-idx3-ubyte'} is missing")
        assert err.count("\n") == 1
        assert not (tmp_path / "out").exists()

    def test_an_output_that_cannot_be_written_is_one_line(self, run, tmp_path):
        (tmp_path / "file").write_text("")
        code, _, err = run("demo", "-o", tmp_path / "file")
        assert code == 2
        assert err == f"findlr: {tmp_path / 'file'}: File exists\n"


class TestUsage:
    def test_tells_its_version(self, run):
        assert run("--version") == (0, f"findlr {__version__}\n", "")

    @pytest.mark.parametrize(
        "arguments",
        [["--help"], ["-h"], *([name, "--help"] for name in ("run", "demo", "show", "compare", "report"))],
    )
    def test_help_teaches_by_example(self, run, arguments):
        code, out, _ = run(*arguments)
        assert code == 0
        assert "Example" in out
        assert "  findlr " in out

    @pytest.mark.parametrize(
        "arguments", [["nonsense"], ["show"], ["demo", "--data", "cats"], ["demo", "--nonsense"], []]
    )
    def test_wrong_usage_exits_with_2(self, run, arguments):
        assert run(*arguments)[0] == 2

    @pytest.mark.parametrize("columns", ["80", "120"])
    def test_without_a_word_it_prints_the_help_as_it_is(self, run, monkeypatch, columns):
        monkeypatch.setenv("COLUMNS", columns)
        code, out, err = run()
        assert (code, err) == (2, "")
        assert len(out.splitlines()) > 20

    def test_python_m_findlr_is_findlr(self):
        done = subprocess.run([sys.executable, "-m", "findlr", "--version"], capture_output=True, text=True, check=True)
        assert done.stdout == f"findlr {__version__}\n"

    def test_help_names_every_schedule_and_rule(self, run):
        words = set(run("run", "--help")[1].replace(",", " ").replace(".", " ").split())
        assert words >= {*SCHEDULES, *RULES}


@pytest.mark.parametrize("arguments", [["compare", "finding.json", "--output", "a.png"], ["demo"]])
def test_a_backend_that_matplotlib_does_not_have_is_one_line(arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "nosuch")
    monkeypatch.chdir(tmp_path)
    find(Quadratic()).save("finding.json")
    done = python("from findlr.command.cli import main; import sys; main(sys.argv[1:])", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("findlr: matplotlib can't be loaded: unset or mend MPLBACKEND (Key backend: 'nosuch'")
    assert done.stderr.count("\n") == 1


class TestMissingExtras:
    def test_without_typer(self):
        done = python(without("typer"), "--help")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "findlr: typer is not installed; run: pip install 'findlr[cli]'\n"

    def test_without_rich(self, tmp_path):
        find(Quadratic()).save(tmp_path / "finding.json")
        done = python(without("rich"), "show", tmp_path / "finding.json")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "findlr: rich is not installed; run: pip install 'findlr[cli]'\n"

    @pytest.mark.parametrize(
        ("module", "package"), [("torch", "torch"), ("matplotlib", "matplotlib"), ("sklearn", "scikit-learn")]
    )
    def test_without_what_the_demo_needs(self, module, package, tmp_path):
        done = python(without(module), "demo", "-o", tmp_path / "out")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"findlr: {package} is not installed; run: pip install 'findlr[demo]'\n"
