"""What a result says of the code that made it."""

import subprocess

from spikesparse.runs import result


def test_a_package_in_somebody_s_checkout_has_no_commit_of_theirs(tmp_path, monkeypatch):
    def git(*args):
        told = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.org", *args]
        return subprocess.run(told, capture_output=True, text=True, check=True).stdout.strip()

    package = tmp_path / ".venv" / "package"
    package.mkdir(parents=True)
    (package / "result.py").touch()
    (tmp_path / ".gitignore").write_text(".venv\n")
    monkeypatch.setattr(result, "__file__", str(package / "result.py"))
    assert result._commit() == ""  # no repository at all
    git("init", "-q")
    git("add", ".gitignore")
    git("commit", "-q", "-m", "theirs")
    assert result._commit() == ""
    git("add", "--force", ".venv/package/result.py")
    git("commit", "-q", "-m", "ours")
    assert result._commit() == git("rev-parse", "--short", "HEAD")
    (package / "result.py").write_text("changed")
    assert result._commit() == git("rev-parse", "--short", "HEAD") + "-dirty"
