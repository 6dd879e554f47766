"""What the pages say can be run, and every number stands beside what gives it."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(p.relative_to(ROOT).as_posix() for p in ROOT.glob("**/README.md"))
PAGES = [p for p in PAGES if not any(part.startswith((".", "runs")) for part in p.split("/"))]


def sections(text):
  """The text between two headings each, code blocks apart from headings."""
  out, code = [""], False
  for line in text.splitlines():
    code ^= line.startswith("```")
    if line.startswith("#") and not code:
      out.append("")
    out[-1] += line + "\n"
  return out


def rows(section):
  """The cells of the table rows of a section, without heads."""
  found = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
  return found[1:]


def without_command(text):
  """Rows with measured numbers (decimals) beside no command, in a section without code."""
  out = []
  for section in sections(re.sub(r"CC BY(-\w+)? \d\.\d", "", text)):
    found = rows(section)
    shown = re.search(r"^```(?:bash|python)\n", section, re.M)
    for cells in found:
      measured = any(re.search(r"(?<![\w.])\d*\.\d|\d ms\b|crops/s", c) for c in cells[1:])
      beside = any(re.search(r"`python -m|the same|the first command", c) for c in cells)
      if measured and not beside and not shown:
        out.append(cells)
  return out


def test_pages_are_found():
  assert {"README.md", "tests/README.md", "big_audio/datasets/README.md"} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_measured_numbers_have_their_command(page):
  assert without_command((ROOT / page).read_text()) == []


def test_a_number_without_a_command_is_found():
  table = "## A\n| what | FID |\n|---|---|\n| ours | 4.25 |\n"
  assert without_command(table) == [["ours", "4.25"]]
  assert without_command(table + "```bash\npython -m x.y\n```\n") == []
  assert len(without_command(table + "## B\n```bash\npython -m x.y\n```\n")) == 1
  assert without_command(table.replace("ours", "ours, `python -m x`")) == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_files_exist(page):
  text = (ROOT / page).read_text()
  for module in set(re.findall(r"python -m ((?:big_audio|proj|tests)[\w.]*)", text)):
    assert importlib.util.find_spec(module.rstrip(".")), module
  for path in set(re.findall(r"\bconfigs/[\w/]+\.py", text)):
    assert (ROOT / path).is_file(), path


def test_the_tests_of_known_defects_exist():
  text = (ROOT / "tests/README.md").read_text()
  listed = [cells for cells in rows(text) if cells[-1] != "caught by"]
  numbers = [cells[0] for cells in listed]
  of = lambda mark, count: [f"{mark}{i}" for i in range(1, count + 1)]
  assert numbers == of("", 10) + of("V", 13) + of("S", 12)
  for cells in listed:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", cells[2])
    assert named, cells
    for path, name in named:
      assert f"\ndef {name}(" in (ROOT / "tests" / path).read_text(), f"{path}::{name}"
