#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks what the documents say about the software: that links and named files exist, that make
targets, verbs and options are real, that the man page names every option, that version and
accuracies are the same everywhere.
  check-docs.py BITBRANCH"""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = "src|tests|tools|scripts|docs|include|examples|python|bench"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)")
NAMED = re.compile(rf"(?<![\w./-])((?:{FOLDERS})/[\w./-]*[\w/])")
COMMAND = re.compile(r"(?<![\w/])bitbranch +([a-z]+)([^|>#`;\n]*)")
OPTION = re.compile(r"(?<![\w-])(--?[a-z][a-z-]*)")


def documents():
    return [p for pattern in ("*.md", "docs/*.md", "examples/*/*.md") for p in sorted(ROOT.glob(pattern))]


def anchor(heading):
    """The anchor that GitHub gives a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


def anchors(text):
    return {anchor(h) for h in re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.M)}


def check_links(path, text):
    for target in LINK.findall(FENCE.sub("", text)):
        if "://" in target:
            continue
        name, _, part = target.partition("#")
        file = path.parent / name if name else path
        if not file.exists():
            yield f"link to {target}, which does not exist"
        elif part and file.suffix == ".md" and part not in anchors(file.read_text()):
            yield f"link to {target}: no such heading"


def built_programs():
    """Programs that Meson makes out of the source tree: FOLDER/NAME in the build folder."""
    for meson in ROOT.glob("*/**/meson.build"):
        for name in re.findall(r"(?:executable|shared_library)\(\s*'([\w-]+)'", meson.read_text()):
            yield str((meson.parent / name).relative_to(ROOT))
            yield str((meson.parent / f"{name}.so").relative_to(ROOT))


def check_named_files(text, built):
    for name in set(NAMED.findall(text)):
        if not (ROOT / name).exists() and name not in built and not list(ROOT.glob(name + ".*")):
            yield f"names {name}, which does not exist"


def check_identifiers(text, sources):
    """Names of the library are names in its code; bb_room_* stands for all that begin so."""
    for name in set(re.findall(r"\b(?:bb|BB)_\w+", text)):
        if not re.search(rf"\b{name}" + ("" if name.endswith("_") else r"\b"), sources):
            yield f"names {name}, which is nowhere in the code"


def check_make(text):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    shell = "\n".join(body for kind, body in FENCE.findall(text) if kind == "sh")
    spans = "\n".join(re.findall(r"`(make[^`]*)`", FENCE.sub("", text)))
    for line in (shell + "\n" + spans).splitlines():
        words = line.split("#")[0].split()
        if words[:1] != ["make"] or "-C" in words:
            continue
        for word in words[1:]:
            if re.fullmatch(r"[a-z-]+", word) and word not in targets:
                yield f"`make {word}`: no such target"


def help_of(bitbranch, *verb):
    return subprocess.run([bitbranch, *verb, "--help"], check=True, capture_output=True,
                          text=True).stdout


def options_of(bitbranch):
    """VERB -> the options that its --help lists."""
    verbs = re.findall(r"^  ([a-z]+) ", help_of(bitbranch), re.M)
    table = {}
    for verb in verbs:
        lines = [l for l in help_of(bitbranch, verb).splitlines() if re.match(r"^\s+-", l)]
        table[verb] = {o for l in lines for o in OPTION.findall(re.split(r"\s{2,}(?!-)", l.strip())[0])}
    return table


def check_commands(text, options):
    text = text.replace("\\\n", " ")
    shell = "\n".join(body for kind, body in FENCE.findall(text) if kind == "sh")
    spans = "\n".join(re.findall(r"`([^`]*)`", FENCE.sub("", text)))
    for verb, rest in COMMAND.findall(shell + "\n" + spans):
        if verb not in options:
            yield f"`bitbranch {verb}`: no such verb"
            continue
        for option in OPTION.findall(rest):
            if option not in options[verb]:
                yield f"`bitbranch {verb} {option}`: no such option"


def check_man_page(options):
    text = (ROOT / "docs" / "bitbranch.1").read_text().replace("\\-", "-")
    sections = re.split(r'^\.S[SH] "?([A-Za-z]+).*$', text, flags=re.M)
    described = dict(zip(sections[1::2], sections[2::2]))
    for verb, wanted in options.items():
        if verb not in described:
            yield f"no section about {verb}"
            continue
        page = described[verb]
        if "Takes the network options." in page.replace("\n", " "):
            page += described["network"]
        page = re.sub(r"\\f.|[\"]", "", page)
        there = set(OPTION.findall(page)) - {"-h", "--help"}
        for option in sorted(wanted - {"-h", "--help"} - there):
            yield f"{verb}: {option} is not described"
        for option in sorted(there - wanted):
            yield f"{verb} has no option {option}"


def table_rows(text, first):
    """Cells of the rows of the table whose heading row begins with these cells."""
    lines = text.splitlines()
    for i, line in enumerate(lines):
        if line.startswith("| " + " | ".join(first)):
            head = [c.strip() for c in line.strip("|").split("|")]
            for row in lines[i + 2:]:
                if not row.startswith("|"):
                    return
                yield dict(zip(head, (c.strip() for c in row.strip("|").split("|"))))


def check_accuracy():
    """The accuracies and sizes of README.md are those of docs/results.md, rounded."""
    results = {(r["network"], r["bits"]): r
               for r in table_rows((ROOT / "docs/results.md").read_text(), ["network", "bits", "top-1 %"])}
    rows = list(table_rows((ROOT / "README.md").read_text(), ["network", "float32", "w8a8"]))
    if not rows or not results:
        yield "README.md, docs/results.md: no table of accuracies"
    for row in rows:
        name = re.sub(r" \(.*\)| 1\.0|-", "", row.pop("network")).lower()
        row.pop("float32")
        for bits, cell in row.items():
            top, size = re.fullmatch(r"([\d.]+) \(([\d.]+) MB\)", cell).groups()
            result = results[name, bits]
            if abs(float(top) - float(result["top-1 %"])) > 0.0501 or size != result["MB"]:
                yield (f"README.md: {name} {bits}: {cell}, docs/results.md has "
                       f"{result['top-1 %']} and {result['MB']} MB")


def check_version():
    """One version: of the build, of the header and of the man page."""
    version = re.search(r"version: '([\d.]+)'", (ROOT / "meson.build").read_text())[1]
    header = (ROOT / "include/bitbranch/status.h").read_text()
    numbers = re.findall(r"#define BB_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", header)
    if ".".join(numbers) != version:
        yield f"include/bitbranch/status.h: version {'.'.join(numbers)}, meson.build has {version}"
    if f'"bitbranch {version}"' not in (ROOT / "docs" / "bitbranch.1").read_text():
        yield f"docs/bitbranch.1: not of version {version}"


def main():
    options = options_of(sys.argv[1])
    built = set(built_programs())
    sources = "\n".join(p.read_text() for d in ("include", "src", "tests")
                        for p in (ROOT / d).rglob("*.[ch]"))
    errors = []
    for path in documents():
        text = path.read_text()
        for found in (check_links(path, text), check_named_files(text, built), check_make(text),
                      check_identifiers(text, sources),
                      check_commands(text, options)):
            errors += [f"{path.relative_to(ROOT)}: {e}" for e in found]
    errors += [f"docs/bitbranch.1: {e}" for e in check_man_page(options)]
    errors += check_version()
    errors += check_accuracy()
    print("\n".join(errors) or f"{len(documents())} documents, {len(options)} verbs: all as they say")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
