"""What the ranks of rank.py say of themselves, to compare the control plane's word with."""

import pathlib


def said_and_shown(truth, rank, mine, logged):
    """Lines of a rank that begin with `mine`: those of its own record, and those in the logs, without what the launcher
    repeats as the last words of a rank that failed."""
    record = truth / f"rank{rank}.lines"
    said = [l for l in record.read_text().splitlines() if l.startswith(mine)] if record.exists() else []
    repeated = lambda l: l[:l.index(mine)].endswith("| ")
    shown = [l[l.index(mine):] for l in logged.splitlines() if mine in l and not repeated(l)]
    return said, shown


def starts(truth, rank):
    """How often the rank has begun to work."""
    file = truth / f"rank{rank}.starts"
    return len(file.read_text().splitlines()) if file.exists() else 0


def check_never_double(truth):
    assert not (truth / "double").exists(), (truth / "double").read_text()


def processes(folder):
    """Those whose record is in this folder, or below."""
    def ours(process):
        try:
            variables = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            return False
        return any(variable.startswith(f"TRUTH={folder}".encode()) for variable in variables)
    return [p.name for p in pathlib.Path("/proc").iterdir() if p.name.isdigit() and ours(p)]
