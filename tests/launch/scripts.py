"""The launch scripts, and what their tests pass to them and look for in their commands."""

from tests.commands import ROOT

LAUNCH = ROOT / "launch"
OTHERS = ("gcloud", "kubectl", "xpk", "sbatch", "srun", "git", "pip")
ODD = "--config.data.manifest=my videos/it's $(HOME).csv"  # one word, whatever it goes through


def is_the_command(words: list[str], **expected: str) -> bool:
    """Returns True if words are the package's command with the odd argument in one word."""
    start = words.index("-m")
    assert words[start : start + 2] == ["-m", "cvmae.main"] and ODD in words, words
    return all(f"--{name}={value}" in words for name, value in expected.items())
